"""`fasttrack tail`: the last rows of a run, and those that come."""

from __future__ import annotations

import time
from collections import deque
from contextlib import closing
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import click

from fasttrack.cli.shared import (
    dir_option,
    format_number,
    json_option,
    note,
    print_json,
    warn_of_damage,
)
from fasttrack.runs.local import LocalRun, RunReader, as_row, find_run
from fasttrack.runs.status import find_state

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import TypeAlias

    Batch: TypeAlias = list[tuple[int, dict[str, Any]]]

_POLL_S = 0.2
_LOOK_AFTER_TRAINER_S = 2.0


@click.command("tail")
@click.argument("text", metavar="RUN")
@click.option(
    "-n", "count", type=click.IntRange(min=0), default=10, show_default=True, help="Rows."
)
@click.option("-f", "--follow", is_flag=True, help="Go on with the rows that come.")
@click.option(
    "-m",
    "--metric",
    "patterns",
    multiple=True,
    help="Only metrics of this name (a pattern such as 'loss/*'), and rows that have one. Repeat.",
)
@dir_option
@json_option
def tail(
    text: str, count: int, follow: bool, patterns: tuple[str, ...], base: Path | None, as_json: bool
) -> None:
    """Print a run's last rows, a line each; with -f, go on with those that come.

    -f ends when the run has finished or failed, and with Ctrl-C. It waits for a run that was
    preempted or crashed to be resumed.

    --json prints an object a line: attempt, seq, step, time (unix seconds), values.
    """
    run = find_run(text, base)
    with closing(RunReader(run.directory)) as reader:
        newest: dict[str, Any] = {"kind": None}
        last: deque[dict[str, Any]] = deque(maxlen=count)
        while batch := reader.read():
            last.extend(_rows(batch, patterns))
            newest = batch[-1][1]
        for row in last:
            _print(row, as_json)
        try:
            for batch in _follow(run.directory, reader, newest) if follow else ():
                for row in _rows(batch, patterns):
                    _print(row, as_json)
        except KeyboardInterrupt:
            pass  # it is how one ends it
        run.bad_lines = reader.bad_lines
    warn_of_damage(run)


def _rows(batch: Batch, patterns: tuple[str, ...]) -> list[dict[str, Any]]:
    rows = [as_row(attempt, entry) for attempt, entry in batch if entry["kind"] == "row"]
    if not patterns:
        return rows
    for row in rows:
        row["values"] = {
            name: value
            for name, value in row["values"].items()
            if any(fnmatchcase(name, pattern) for pattern in patterns)
        }
    return [row for row in rows if row["values"]]


def _print(row: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(row, indent=None)
        return
    values = " ".join(f"{name}={format_number(value)}" for name, value in row["values"].items())
    clock = time.strftime("%H:%M:%S", time.localtime(row["time"]))
    click.echo(f"{clock} step {row['step']} {values}")


def _follow(directory: Path, reader: RunReader, newest: dict[str, Any]) -> Iterator[Batch]:
    """Yield what is written from now on, until the run has finished or failed.

    Args:
        directory: the run's directory.
        reader: at its end.
        newest: the last entry that it has returned.
    """
    told = False
    look_at_s = 0.0
    while True:
        if batch := reader.read():
            newest = batch[-1][1]
            told = False
            yield batch
            continue
        if newest["kind"] == "finish" and not newest["preempting"]:
            note(f"the run has ended (exit code {newest['exit_code']})")
            return
        if not told and time.monotonic() >= look_at_s:
            look_at_s = time.monotonic() + _LOOK_AFTER_TRAINER_S
            word = find_state(LocalRun(directory)).word
            if told := word in ("preempted", "crashed"):
                note(f"the run's state: {word}; waiting for it to be resumed (Ctrl-C ends this)")
        time.sleep(_POLL_S)
