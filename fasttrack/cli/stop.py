"""`fasttrack stop`: ask a running program to save and leave."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from fasttrack.cli.shared import dir_option, note
from fasttrack.errors import FasttrackError
from fasttrack.journal.run_directory import stop_path
from fasttrack.runs.local import find_run
from fasttrack.runs.status import find_status

if TYPE_CHECKING:
    from pathlib import Path

    from fasttrack.runs.local import LocalRun

_POLL_S = 0.2


@click.command("stop")
@click.argument("text", metavar="RUN")
@click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(min=0),
    default=0.0,
    metavar="SECONDS",
    help="Wait so long for the program to end the run.",
)
@dir_option
def stop(text: str, wait_s: float, base: Path | None) -> int:
    """Have the program that writes a run save a checkpoint and leave.

    Its tracker's should_stop() answers True within some seconds, on all ranks; what it does then is
    its own affair. Works from any machine that sees the run's directory. A program that does not
    call should_stop() cannot be asked.

    Exit code 0 if the program was asked, and with --wait if it has ended the run; else 1.
    """
    run = find_run(text, base)
    path = stop_path(run.segments[-1])
    word = find_status(run).word
    if not word.startswith(("running", "unknown")):
        raise FasttrackError(f"{run.run_id} is not running ({word})")
    try:
        with path.open("r+") as file:  # not made here: it is there while the program listens
            file.write(f"{time.time():.0f}\n")
    except FileNotFoundError as error:
        raise FasttrackError(
            f"the program of {run.run_id} does not listen: it has not called should_stop() yet"
        ) from error
    click.echo(f"{run.run_id} is asked to stop")
    if not wait_s or _ends_within(run, wait_s):
        return 0
    note(f"{run.run_id} has not ended within {wait_s:g} s")
    return 1


def _ends_within(run: LocalRun, timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while find_status(run).word.startswith(("running", "unknown")):
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_S)
    return True
