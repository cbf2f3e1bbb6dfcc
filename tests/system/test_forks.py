"""Scripts that are forked find what they would find after a start, and end as they would."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from typing import TYPE_CHECKING, NamedTuple

import pytest
from support.forks import Fork, ForkServerError, Start
from support.runs import HANG_GUARD_S, run_script, script_environment, start_script

if TYPE_CHECKING:
    from pathlib import Path

LOOKS_AROUND = """
import atexit, faulthandler, gc, json, os, random, resource, signal, sys, threading, warnings
found = {}
def note(*names):
    found.update((name, repr(eval(name))) for name in names)
note("list(globals())", "__name__", "__spec__", "__loader__", "__builtins__")
note("sys.argv", "sys.orig_argv", "sys.path", "sys.flags", "sys.warnoptions", "os.getcwd()")
note("dict(os.environ)", "os.getpgrp()", "os.getsid(0)", "os.getuid()", "os.getgroups()")
note("{number: signal.getsignal(number) for number in signal.Signals}")
note("signal.pthread_sigmask(signal.SIG_BLOCK, ())", "signal.set_wakeup_fd(-1)")
note("[os.path.exists(f'/proc/self/fd/{number}') for number in range(64)]")
note("[(each.name, each.encoding, each.errors, each.line_buffering, each.write_through,"
     "each.seekable())"
     " for each in (sys.stdin, sys.stdout, sys.stderr)]")
note("threading.current_thread() is threading.main_thread()", "threading.active_count()")
note("threading.get_native_id() == os.getpid()", "len(os.listdir('/proc/self/task'))")
note("resource.getrlimit(resource.RLIMIT_NOFILE)", "os.getpriority(os.PRIO_PROCESS, 0)")
note("gc.isenabled()", "gc.get_threshold()", "gc.garbage", "faulthandler.is_enabled()")
note("sys.gettrace()", "sys.getrecursionlimit()", "sys.excepthook is sys.__excepthook__")
umask = os.umask(0o77)
note("umask", "sys.stdin.read()")
sys.stdout.reconfigure(errors="replace")
import support.trackers
import multiprocessing, numpy, tempfile, torch
import multiprocessing.process
note("warnings.filters", "multiprocessing.process.ORIGINAL_DIR", "tempfile.tempdir")
note("multiprocessing.get_all_start_methods()", "multiprocessing.parent_process()")
note("torch.get_num_threads()", "torch.is_grad_enabled()")
note("sorted(set(sys.modules) - {'support.fork_server'})")
different = [random.random(), numpy.random.random(), torch.initial_seed()]
atexit.register(print, "at the end")
print(json.dumps([found, different]))
"""
ENDS = {
    "return": "pass",
    "exit": "import sys; sys.exit(3)",
    "exit with text": "import sys; sys.exit('that went wrong')",
    "error": "def deep(): raise ValueError('no such luck')\ndeep()",
    "hook": "import sys; sys.excepthook = lambda *details: print(details[0].__name__)\n1 / 0",
    "interrupt": "raise KeyboardInterrupt",
    "signal": "import os; print('lost in the buffer'); os.kill(os.getpid(), 15)",
    "pipe": "import os, signal; signal.signal(13, signal.SIG_DFL); os.kill(os.getpid(), 13)",
    "os._exit": "import os; os._exit(7)",
    "abort": "import os; os.abort()",
    "warning": "import warnings; warnings.warn('careful')",
    "handlers": """
import atexit, threading, time
class Last:
    def __del__(self): print("deleted")
kept = Last()
atexit.register(print, "first registered")
atexit.register(print, "second registered")
thread = threading.Thread(target=lambda: (time.sleep(0.1), print("thread")))
thread.start()
print("end of script")
""",
    "spawn": """
import multiprocessing, os
if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=os._exit, args=(5,))
    process.start()
    process.join()
    print(process.exitcode)
""",
}


class Outcome(NamedTuple):
    """What came of a script."""

    code: int
    stdout: str
    stderr: str


def run(how: type[Start], source: str, *arguments: str, warnings: str | None = "error") -> Outcome:
    """Run a script that is given some text."""
    pipe = subprocess.PIPE
    with how(
        source,
        *arguments,
        warnings=warnings,
        environment=script_environment(),
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
    ) as script:
        stdout, stderr = script.communicate("some text", timeout=HANG_GUARD_S)
    return Outcome(script.returncode, stdout, stderr)


@pytest.mark.parametrize("warnings", ["error", "default", None])
def test_a_fork_finds_what_it_would_find_after_a_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, warnings: str | None
) -> None:
    """Arguments, environment, directory, streams, signals, modules; but not the same chance."""
    monkeypatch.setenv("WANDB_NOTES", f"of this test \udcff {warnings}")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")

    started = run(Start, LOOKS_AROUND, "-a", "\u00fc", warnings=warnings)
    forked = [run(Fork, LOOKS_AROUND, "-a", "\u00fc", warnings=warnings) for _ in range(2)]

    for each in (started, *forked):
        assert (each.code, each.stderr) == (0, "")
        assert each.stdout.splitlines()[1:] == ["at the end"]
    (found, _), (first, chance), (second, another) = (
        json.loads(each.stdout.splitlines()[0]) for each in (started, *forked)
    )
    assert first == found
    assert second == found
    assert all(one != other for one, other in zip(chance, another, strict=True))


@pytest.mark.parametrize("name", ENDS)
def test_a_fork_ends_as_it_would_after_a_start(name: str) -> None:
    """Exit code or signal, what it prints, and in which order; one line more in a traceback."""
    started = run(Start, ENDS[name])

    forked = run(Fork, ENDS[name])

    head, line = "Traceback (most recent call last):\n", '  File "<string>", line 1, in <module>\n'
    stderr = forked.stderr.replace(head + line, head, 1)
    assert (forked.code, forked.stdout, stderr) == started


def test_where_the_server_dies_that_is_said_and_the_next_script_has_another() -> None:
    """Also of a script that lives on, whose exit code nobody knows any more."""
    waiting = start_script("import os; print(os.getppid(), flush=True); input()")
    assert waiting.stdout is not None
    os.kill(int(waiting.stdout.readline()), signal.SIGKILL)

    with pytest.raises(ForkServerError, match="the server of forks is gone"):
        waiting.communicate("", timeout=HANG_GUARD_S)
    assert run_script("print(1)").stdout == "1\n"
    waiting.returncode = 0  # or it would be waited for, in vain
