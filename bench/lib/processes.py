"""New processes, and what processes use."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.lib.isolation import private_home

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parents[2]
"""The repository's, from which `bench` can be imported."""
_MODULE = "bench.lib.processes"  # this one, also where it runs as __main__
_BUILD = "BENCH_BUILD"  # in a child's environment: the folder that it is to import from
_SAID_LINES = 12  # of a process's last words
_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h

# --- new processes ---------------------------------------------------------------------------


def call_in_new_process(
    function: Callable[..., Any],
    *arguments: Any,
    path: Path | None = None,
    timeout_s: float = 900.0,
) -> Any:
    """Return what `function` of a module returns, called in a fresh interpreter; JSON both ways.

    It runs with one OpenMP thread and in a `private_home`, and imports `bench` and `fasttrack` from
    the folder `path`, else from the repository. Where it is cut off, what it started is ended with
    it.

    Raises:
        RuntimeError: it failed, or took longer than `timeout_s`; the message holds what it said.
    """
    name = importable(function)
    with tempfile.TemporaryDirectory(
        prefix="fasttrack-bench-", ignore_cleanup_errors=True
    ) as directory:
        answer, said = Path(directory, "answer.json"), Path(directory, "said.txt")
        command = [sys.executable, "-m", _MODULE, name, json.dumps(arguments), str(answer)]
        with said.open("w") as output:
            process = subprocess.Popen(
                command,
                cwd=directory if path else ROOT,  # -m looks there first
                env=environment(path, directory),
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise RuntimeError(f"{name} was not done in {timeout_s:.0f} s") from error
        finally:
            end(process)
        if code != 0 or not answer.exists():
            raise RuntimeError(f"{name} failed ({code}):\n{last_words(said)}")
        return json.loads(answer.read_text())


def importable(thing: Callable[..., Any]) -> str:
    """Return "module:name" of a function or class, also where its module runs as __main__."""
    spec = sys.modules[thing.__module__].__spec__
    assert spec is not None
    return f"{spec.name}:{thing.__qualname__}"


def imported(name: str) -> Any:
    """Return what `importable` named."""
    module, _, thing = name.partition(":")
    return getattr(importlib.import_module(module), thing)


def environment(path: Path | None, directory: str) -> dict[str, str]:
    """Return this process's environment for one that imports from `path`, and has one thread.

    What it makes for the time being lies in `directory`: it may be killed. Bytecode is kept, as
    Python does if nobody forbids it: else what is imported is compiled in every process.
    """
    kept = {n: value for n, value in os.environ.items() if n != "PYTHONDONTWRITEBYTECODE"}
    changed = {"OMP_NUM_THREADS": "1", "TMPDIR": directory}
    if path:
        changed |= {"PYTHONPATH": str(path), _BUILD: str(path)}
    return {**kept, **changed}


def check_build() -> None:
    """Make sure that it is the build asked for that was imported.

    Raises:
        ImportError: it is another one.
    """
    path, fasttrack = os.environ.get(_BUILD), sys.modules.get("fasttrack")
    if path and fasttrack and not str(fasttrack.__file__).startswith(path):
        raise ImportError(f"{fasttrack.__file__} was imported, not that of {path}")


def end(process: subprocess.Popen[Any]) -> None:
    """End a process that still runs, out of time or at Ctrl-C, and all that it started."""
    if process.poll() is None:
        for pid in [*descendants(process.pid), process.pid]:
            _signal(pid, signal.SIGKILL)
        process.wait()


def last_words(said: Path) -> str:
    """Return the last lines of what a process wrote to a file."""
    return "\n".join(said.read_text(errors="replace").splitlines()[-_SAID_LINES:])


def _answer(name: str, arguments: str, answer: str) -> None:
    with private_home():
        result = imported(name)(*json.loads(arguments))
        check_build()
        Path(answer).write_text(json.dumps(result))
    gc.freeze()  # or the end would look for garbage in all that torch has made: 0.7 s of CPU


@contextlib.contextmanager
def busy_process() -> Iterator[None]:
    """Have another process keep a core busy."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        end(process)


# --- what processes use ----------------------------------------------------------------------


def memory_mb(field: str = "VmRSS", pid: int | str = "self") -> float:
    """Return a process's resident memory in MiB, now (VmRSS) or at its highest (VmHWM).

    Raises:
        OSError: the process is gone.
        KeyError: it has ended, and only its exit code is left.
    """
    text = Path(f"/proc/{pid}/status").read_text()
    lines = dict(line.split(":", 1) for line in text.splitlines())
    return int(lines[field].split()[0]) / 1024


def descendants(pid: int) -> list[int]:
    """Return the processes that `pid` started, and what these started, as far as they live."""
    found: list[int] = []
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(child) for child in listing.read_text().split()]
        except OSError:  # the thread has ended
            continue
        for child in children:
            found += [child, *descendants(child)]
    return found


def kill_descendants() -> None:
    """End all processes that this one started, at once."""
    signal_descendants(signal.SIGKILL)


def signal_descendants(number: signal.Signals) -> None:
    """Send a signal, SIGSTOP say, to all processes that this one started, the first one first."""
    for pid in descendants(os.getpid()):
        _signal(pid, number)


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


class Usage(NamedTuple):
    """What one process has used so far."""

    cpu_s: float
    peak_mb: float


class DescendantsWatch:
    """Keep what each process started by this one was last seen to have used, by its name."""

    def __init__(self) -> None:
        """Have seen nobody."""
        self._seen: dict[int, tuple[str, Usage]] = {}

    def look(self) -> None:
        """Look at all that live."""
        for pid in descendants(os.getpid()):
            try:
                name = Path(f"/proc/{pid}/comm").read_text().strip()
                usage = Usage(time.clock_gettime(cpu_clock(pid)), memory_mb("VmHWM", pid))
            except (OSError, KeyError):  # it has just ended
                continue
            self._seen[pid] = (name, usage)

    def look_until(self, over: threading.Event, every_s: float) -> None:
        """Look again and again until `over` is set; for a thread."""
        while not over.wait(every_s):
            self.look()

    def total(self) -> Usage:
        """Return the processes' CPU time together, and their peaks of memory together."""
        used = [usage for _, usage in self._seen.values()]
        return Usage(sum(usage.cpu_s for usage in used), sum(usage.peak_mb for usage in used))

    def by_name(self) -> dict[str, Usage]:
        """Return CPU time and largest peak of memory by the programs' names."""
        names: dict[str, Usage] = {}
        for name, usage in self._seen.values():
            so_far = names.get(name, Usage(0.0, 0.0))
            names[name] = Usage(so_far.cpu_s + usage.cpu_s, max(so_far.peak_mb, usage.peak_mb))
        return names


def cpu_clock(pid: int) -> int:
    """Return the clock of another process's CPU time, as clock_getcpuclockid(3) makes it."""
    return (~pid << 3) | 2


def cpu_s(who: int = resource.RUSAGE_SELF) -> float:
    """Return this process's CPU time, or that of the processes that it has waited for."""
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime


def adopt_orphans() -> None:
    """Become the parent of what outlives its own parent, so that it can be waited for."""
    if ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError("this system has no PR_SET_CHILD_SUBREAPER")


def wait_for_children(timeout_s: float) -> None:
    """Wait for all children of this process, adopted ones too; `cpu_s` holds theirs then.

    Raises:
        TimeoutError: some have not ended.
    """
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(0.01)
        except ChildProcessError:
            return
    raise TimeoutError(f"processes still run: {descendants(os.getpid())}")


if __name__ == "__main__":
    _answer(*sys.argv[1:])
