"""`fasttrack tail`: rows that are there, and rows that come."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from support.journals import append, finish, write_attempt
from support.runs import (
    HANG_GUARD_S,
    make_tracker,
    run_dir,
    script_environment,
    start_script,
    wait_until,
)

from fasttrack import Options
from fasttrack.cli.app import cli
from fasttrack.journal.rows import Row
from fasttrack.journal.run_directory import segments

if TYPE_CHECKING:
    from collections.abc import Iterator

TRAINS_UNTIL_SIGTERM = """
    import time
    from support.runs import make_tracker

    tracker = make_tracker(resume_id="requeued")
    for step in range(1_000_000):
        tracker.log_metrics({"loss": 1.0}, step)
        time.sleep(0.01)
"""


@pytest.fixture
def segment(tmp_path: Path) -> Path:
    """The segment of a run that has logged four rows and whose trainer, this process, goes on."""
    rows = [
        Row(step, step, time.time(), {"loss/a": 0.5 + step, "loss/b": 1, "lr": math.nan})
        for step in range(3)
    ]
    last = Row(3, 3, time.time(), {"lr": 1e-5})
    return write_attempt(tmp_path, "ab12", *rows, last, pid=os.getpid())


def tail(*arguments: str) -> list[str]:
    """Call the command in this process and return the lines it printed."""
    result = CliRunner().invoke(cli, ["tail", *arguments])
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout.splitlines()


@contextmanager
def following(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run `fasttrack tail -f` in a process of its own, killed at the end of the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "fasttrack", "tail", "-f", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=script_environment(),
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def next_step(process: subprocess.Popen[str]) -> int:
    """Return the step of the next row that is printed."""
    assert process.stdout is not None
    row: dict[str, Any] = json.loads(process.stdout.readline())
    step: int = row["step"]
    return step


def test_tail_prints_the_last_rows_a_line_each(segment: Path) -> None:
    """The time of day, the step, and every metric."""
    lines = tail("latest", "-n", "2")
    clock = time.strftime("%H:%M:%S")[:3]

    assert [line.split(maxsplit=1)[1] for line in lines] == [
        "step 2 loss/a=2.5 loss/b=1 lr=nan",
        "step 3 lr=1e-05",
    ]
    assert lines[0].startswith(clock) or time.strftime("%M") == "00"
    assert len(tail("latest")) == 4
    assert tail("latest", "-n", "0") == []


def test_tail_of_some_metrics_leaves_out_rows_without_them(segment: Path) -> None:
    """Patterns as in a shell, and several of them."""
    rows = [json.loads(line) for line in tail("latest", "-m", "loss/*", "-n", "2", "--json")]

    assert [row["step"] for row in rows] == [1, 2]
    assert rows[1]["values"] == {"loss/a": 2.5, "loss/b": 1}
    assert set(rows[1]) == {"attempt", "seq", "step", "time", "values"}
    assert json.loads(tail("latest", "-m", "lr", "--json")[0])["values"] == {"lr": "NaN"}
    assert len(tail("latest", "-m", "lr", "-m", "loss/b")) == 4


@pytest.mark.parametrize("patterns", [["-m", "nosuch"], ["-m", "lr", "-m", "loss/c*"]])
def test_tail_of_a_metric_that_is_not_there_fails_and_names_what_is(
    segment: Path, patterns: list[str]
) -> None:
    """As `plot` does: printing nothing would look like a run without rows."""
    result = CliRunner().invoke(cli, ["tail", "latest", *patterns])

    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        f"fasttrack: the run has no metric {patterns[-1]!r}; it has: loss/a, loss/b, lr\n"
    )


def test_tail_of_a_run_without_rows_prints_nothing(tmp_path: Path) -> None:
    """It has just begun; a metric cannot be there yet."""
    write_attempt(tmp_path, "begun")
    result = CliRunner().invoke(cli, ["tail", "begun", "-m", "loss"])

    assert tail("begun") == []
    assert (result.exit_code, result.stderr) == (1, "fasttrack: the run has no metrics yet\n")


def test_tail_waits_for_a_metric_that_may_still_come(segment: Path) -> None:
    """An evaluation comes once an epoch; that it is not there yet is said."""
    with following("latest", "-m", "eval/*", "--json") as process:
        assert process.stderr is not None
        said = process.stderr.readline()
        append(segment, Row(4, 4, time.time(), {"loss/a": 1.0, "eval/loss": 2.0}), finish())
        rest, _ = process.communicate(timeout=HANG_GUARD_S)

    assert said == (
        "fasttrack: the run has no metric 'eval/*'; it has: loss/a, loss/b, lr; "
        "waiting for it (Ctrl-C ends this)\n"
    )
    assert json.loads(rest)["values"] == {"eval/loss": 2.0}
    assert process.returncode == 0


def test_tail_follows_a_run_until_it_has_finished(segment: Path) -> None:
    """Rows appear while they are written; the end is said."""
    with following("latest", "-n", "1", "--json") as process:
        seen = [next_step(process)]
        for step in range(4, 8):
            append(segment, Row(step, step, time.time(), {"loss/a": 1.0}))
            seen.append(next_step(process))
        append(segment, finish())
        rest, errors = process.communicate(timeout=HANG_GUARD_S)

    assert seen == [3, 4, 5, 6, 7]
    assert (process.returncode, rest) == (0, "")
    assert errors == "fasttrack: the run has ended (exit code 0)\n"


def test_tail_follows_a_preempted_run_into_its_next_attempt(tmp_path: Path) -> None:
    """As Slurm requeues it: SIGTERM, a pause, and a new process that resumes the run."""
    training = start_script(TRAINS_UNTIL_SIGTERM, warnings=None)
    directory = run_dir(tmp_path, "requeued")
    wait_until(
        lambda: bool(segments(directory)) and b'"row"' in segments(directory)[0].read_bytes()
    )

    with following("requeued", "--json") as process:
        assert process.stderr is not None
        before = next_step(process)
        training.send_signal(signal.SIGTERM)
        said = process.stderr.readline()
        training.communicate(timeout=HANG_GUARD_S)
        with make_tracker(resume_id="requeued", options=Options(finish_timeout_s=1.0)) as tracker:
            tracker.log_metrics({"loss": 2.0}, 10_000_000)
        rest, errors = process.communicate(timeout=HANG_GUARD_S)
    last = json.loads(rest.splitlines()[-1])

    assert before < 1_000_000
    assert said == (
        "fasttrack: the run's state: preempted; waiting for it to be resumed (Ctrl-C ends this)\n"
    )
    assert (last["attempt"], last["seq"], last["step"]) == (2, 0, 10_000_000)
    assert (process.returncode, errors) == (0, "fasttrack: the run has ended (exit code 0)\n")


def test_ctrl_c_ends_following_without_complaint(segment: Path) -> None:
    """It is the way to end it."""
    with following("latest", "-n", "1", "--json") as process:
        step = next_step(process)
        append(segment, Row(4, 4, time.time(), {"loss/a": 1.0}))
        steps = [step, next_step(process)]  # the second shows that the command follows by now
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=HANG_GUARD_S)

    assert steps == [3, 4]
    assert (process.returncode, errors) == (0, "")
