"""`fasttrack audit` beside python itself: the same output, the same exit code, and a report."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.runs import HANG_GUARD_S, journal_entries, run_script, script_environment

from fasttrack.cli.app import cli
from fasttrack.journal.entries import Finish

NOTHING = (
    "[ExperimentTracker] audit: torch finds no accelerator here, so there is nothing to audit\n"
)
COMMAND = "from fasttrack.cli import main; main()"
SEES_THE_CPU = """
    import sys
    from fasttrack.audit import session
    from fasttrack.cli import main
    session.find_accelerators = lambda: ("cpu",)
    main()
"""
PROGRAMS = {
    "looks around": """
        import sys
        import helper
        assert helper.HERE
        print(__name__, __file__, __spec__ and __spec__.name, sys.argv, sys.path[0], __doc__)
        print(sys.modules["__main__"].__dict__ is globals(), __builtins__ is not None)
        def f() -> list[int]: ...
        print(f.__annotations__)
        """,
    "exits with 3": "import sys; print('bye'); sys.exit(3)",
    "exits with text": "import sys; sys.exit('that went wrong')",
    "exits with nothing": "import sys; sys.exit()",
    "raises": """
        def deep():
            raise ValueError("no such luck")
        try:
            deep()
        except ValueError as error:
            raise FileNotFoundError("an OSError is not ours to shorten") from error
        """,
    "does not compile": "x = = 1",
    "is interrupted": "raise KeyboardInterrupt",
    "ends later": """
        import atexit
        TEXT = "still here"
        class Kept: ...
        def last():
            import pickle
            print(TEXT, type(pickle.loads(pickle.dumps(Kept()))) is Kept)
        atexit.register(last)
        """,
    "has a hook": """
        import sys
        sys.excepthook = lambda *details: print("hooked", details[0].__name__)
        1 / 0
        """,
    "starts processes": """
        import multiprocessing
        def work(pipe):
            pipe.send(__name__)
        if __name__ == "__main__":
            context = multiprocessing.get_context("spawn")
            here, there = context.Pipe()
            process = context.Process(target=work, args=(there,))
            process.start()
            print(here.recv())
            process.join()
        """,
}
STARTED = ("looks around", "starts processes")
"""The others are forks, which the tests of these have shown to be alike."""
WAITS = """
    import sys, torch
    x = torch.ones(3)
    for step in range(4):
        x.sum().item()
    sys.exit(len(sys.argv))
"""


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The audit must not depend on one."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run this interpreter."""
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=HANG_GUARD_S,
        env=script_environment(),
    )


def audit(
    *arguments: str, source: str = COMMAND, fresh: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run `fasttrack audit`: a start of it, or a fork of a process that has imported torch."""
    if fresh:
        return python("-m", "fasttrack", "audit", *arguments)
    return run_script(source, "audit", *arguments, check=False, warnings=None)


def write(path: Path, source: str) -> str:
    """Write a program; return its path as text."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(textwrap.dedent(source), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_script_runs_as_with_python(tmp_path: Path, name: str) -> None:
    """Output, traceback, exit code, `__main__`, handlers at the end, child processes."""
    write(tmp_path / "code" / "helper.py", "HERE = True")
    script = write(tmp_path / "code" / "train.py", PROGRAMS[name])
    arguments = [script, "--lr", "0.1", "--json", "-m"]

    plain = python(*arguments)
    audited = audit(*arguments, fresh=name in STARTED)

    assert audited.stdout == plain.stdout
    assert audited.stderr == plain.stderr + NOTHING
    # A shell calls the end by Ctrl-C 130, subprocess -2.
    assert audited.returncode == (130 if plain.returncode == -2 else plain.returncode)


@pytest.mark.parametrize("name", ["looks around", "exits with 3", "raises"])
def test_a_module_runs_as_with_python(tmp_path: Path, name: str) -> None:
    """From the working directory, as part of its package."""
    write(tmp_path / "helper.py", "HERE = True")
    write(tmp_path / "package" / "__init__.py", "")
    write(tmp_path / "package" / "train.py", PROGRAMS[name])
    arguments = ["-m", "package.train", "--lr", "0.1", "--json"]

    plain = python(*arguments)
    audited = audit(*arguments, fresh=name in STARTED)

    assert audited.stdout == plain.stdout
    assert NOTHING in audited.stderr
    assert audited.returncode == plain.returncode
    if name == "raises":
        assert 'raise ValueError("no such luck")' in audited.stderr
        assert "runpy" not in audited.stderr


def test_waits_are_reported_whatever_the_scripts_end(tmp_path: Path) -> None:
    """With the script's own exit code."""
    write(tmp_path / "train.py", WAITS)
    result = audit("train.py", "a", "b", source=SEES_THE_CPU)

    assert result.returncode == 3
    assert "audit: 4 waits for the device at 1 line: " in result.stderr
    assert "train.py:5  x.sum().item()" in result.stderr


def test_json_is_the_last_line(tmp_path: Path) -> None:
    """And nothing is said on stderr."""
    script = write(tmp_path / "train.py", f"print('first')\n{textwrap.dedent(WAITS)}")
    result = audit("--json", script, source=SEES_THE_CPU)
    first, report = result.stdout.splitlines()
    found = json.loads(report)

    assert (first, result.stderr, result.returncode) == ("first", "", 1)
    assert found["devices"] == ["cpu"]
    (finding,) = found["findings"]
    assert finding["total_ms"] == found["wait_ms"]
    assert 0 <= found["wait_ms"] / 1000 <= found["wall_s"]
    assert found["operations"] > 0
    assert {name: finding[name] for name in ("file", "line", "op", "count", "by_fasttrack")} == {
        "file": script,
        "line": 6,
        "op": "item",
        "count": 4,
        "by_fasttrack": False,
    }


def test_other_ranks_run_without_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under torchrun one report is enough."""
    monkeypatch.setenv("RANK", "1")
    script = write(tmp_path / "train.py", WAITS)
    result = audit(script)

    assert (result.stderr, result.returncode) == ("", 1)


def test_a_run_that_ends_by_an_exception_is_recorded_as_failed(tmp_path: Path) -> None:
    """As without the audit: the tracker's handler at the interpreter's exit looks for it."""
    script = write(
        tmp_path / "train.py",
        """
        from support.runs import make_tracker
        tracker = make_tracker(resume_id="broken")
        raise RuntimeError
        """,
    )
    result = audit(script)

    assert result.returncode == 1
    assert [entry.exit_code for entry in journal_entries(tmp_path, "broken", Finish)] == [1]


def test_a_script_that_is_not_there_is_wrong_usage() -> None:
    """Named, before torch is loaded."""
    result = CliRunner().invoke(cli, ["audit", "no_such.py"])

    assert result.exit_code == 2
    assert "there is no file 'no_such.py'" in result.output


def test_a_module_that_is_not_there_fails(tmp_path: Path) -> None:
    """As with python, by its name."""
    result = audit("-m", "no_such_module")

    assert result.returncode == 1
    assert "No module named no_such_module" in result.stderr
