"""`fasttrack stop`: who can be asked, and what is said where nobody can."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from click.testing import CliRunner
from support.journals import finish, row, write_attempt
from support.runs import HANG_GUARD_S, run_script, start_script, wait_until

from fasttrack.cli.app import cli
from fasttrack.journal.run_directory import stop_path

if TYPE_CHECKING:
    from click.testing import Result


def stop(*arguments: str) -> Result:
    """Call the command in this process."""
    return CliRunner().invoke(cli, ["stop", *arguments])


_TRAIN = """
import time
from support.runs import make_tracker
from support.trackers import journal_only

tracker = make_tracker(options=journal_only())
while not tracker.should_stop():
    time.sleep(0.01)
print(tracker.stop_reason())
tracker.finish()
"""


def test_program_that_calls_should_stop_leaves_when_it_is_asked(tmp_path: Path) -> None:
    """The command waits until it has, if told to; asking again is an error then."""
    program = start_script(_TRAIN)
    runs = tmp_path / "wandb" / "fasttrack"
    wait_until(lambda: bool(list(runs.glob("*/stop-0001"))), HANG_GUARD_S)
    (path,) = runs.glob("*/stop-0001")

    result = stop("latest", "--wait", str(HANG_GUARD_S))
    stdout, stderr = program.communicate(timeout=HANG_GUARD_S)
    again = stop("latest")

    run_id = path.parent.name
    assert (result.exit_code, result.output) == (0, f"{run_id} is asked to stop\n")
    assert (program.returncode, stdout) == (0, "command\n"), stderr
    assert again.exit_code == 1
    assert again.stderr == f"fasttrack: {run_id} is not running (finished)\n"


def test_program_that_does_not_listen_cannot_be_asked(tmp_path: Path) -> None:
    """It would be waited for in vain."""
    run_script(
        """
        import subprocess, sys
        from support.runs import make_tracker
        from support.trackers import journal_only

        tracker = make_tracker(options=journal_only())
        result = subprocess.run(
            [sys.executable, "-m", "fasttrack", "stop", "latest"], capture_output=True, text=True
        )
        tracker.finish()
        run_id = tracker.get_run_id()
        assert result.returncode == 1 and not result.stdout
        assert result.stderr == (
            f"fasttrack: the program of {run_id} does not listen: it has not called "
            "should_stop() yet\\n"
        ), result.stderr
        """
    )


def test_only_the_newest_attempt_is_asked_and_the_wait_ends(tmp_path: Path) -> None:
    """What an earlier one left behind, killed while it listened, asks nobody."""
    write_attempt(tmp_path, "ab", row(0, 0, loss=1.0), finish())
    running = write_attempt(
        tmp_path, "ab", row(0, 1, loss=1.0), pid=os.getpid(), host=socket.gethostname()
    )
    stop_path(running).touch()

    result = stop("ab", "--wait", "0.1")

    assert result.exit_code == 1
    assert "ab has not ended within 0.1 s" in result.output
    assert stop_path(running).stat().st_size
    assert [path.name for path in running.parent.glob("stop-*")] == ["stop-0002"]
