"""The processes that have a client in them end, whatever it does at the end."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

HANG_GUARD_S = 100.0
HANGING = "import atexit, threading\natexit.register(threading.Event().wait)\n"


def run(*arguments: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run Python, with a folder of modules."""
    environment = {**os.environ, "PYTHONPATH": "" if path is None else str(path)}
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=HANG_GUARD_S, check=False
    )


def test_what_a_client_has_registered_is_called_and_may_not_keep_the_process() -> None:
    """Its own exit code and all that it printed are there."""
    result = run(
        "-c",
        """
import atexit
from fasttrack.delivery import quick_exit
quick_exit._EXIT_S = 0.2
def main():
    import threading
    atexit.register(threading.Event().wait)
    atexit.register(print, "called", flush=True)
    print("told")
    return 3
quick_exit.leave_with(main)
""",
    )

    assert (result.returncode, result.stdout.split()) == (3, ["told", "called"]), result.stderr


@pytest.mark.parametrize("module", ["fasttrack.delivery", "fasttrack.delivery.verification"])
def test_both_processes_leave_that_way(tmp_path: Path, module: str) -> None:
    """The interpreter's own end, in which something hangs, is not waited for."""
    (tmp_path / "sitecustomize.py").write_text(HANGING)

    result = run("-m", module, str(tmp_path / "none"), path=tmp_path)

    assert result.returncode in (1, 2), result.stderr
