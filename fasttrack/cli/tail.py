"""`fasttrack tail`: the last rows of a run, and those that come."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

import click

from fasttrack.cli.shared import (
    dir_option,
    format_number,
    format_time,
    json_option,
    note,
    print_json,
    warn_of_damage,
)
from fasttrack.errors import FasttrackError
from fasttrack.journal.entries import Finish
from fasttrack.journal.follower import Follower
from fasttrack.journal.rows import Row
from fasttrack.runs.local import LocalRun, RunRow, find_run
from fasttrack.runs.patterns import matching, require_matches
from fasttrack.runs.status import find_status

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fasttrack.journal.entries import Entry
    from fasttrack.journal.follower import Batch

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
    preempted or crashed to be resumed, and for metrics that are not there yet.

    --json prints an object a line: attempt, seq, step, time (unix seconds), values.
    """
    run = find_run(text, base)
    with Follower.of_run(run.directory) as follower:
        names: set[str] = set()
        newest: Entry | None = None
        last: deque[RunRow] = deque(maxlen=count)
        for batch in follower.batches():
            rows = _rows(batch)
            if patterns:
                names.update(name for row in rows for name in row.values)
            last.extend(_chosen(rows, patterns))
            newest = batch.entries[-1]
        if patterns:
            _check(names, patterns, follow)
        for row in last:
            _print(row, as_json)
        try:
            for batch in _follow(run.directory, follower, newest) if follow else ():
                for row in _chosen(_rows(batch), patterns):
                    _print(row, as_json)
        except KeyboardInterrupt:
            pass  # it is how one ends it
        run.bad_lines, run.damage = follower.bad_lines, follower.damage
    warn_of_damage([run])


def _check(names: set[str], patterns: tuple[str, ...], follow: bool) -> None:
    """Say what is missing of the metrics that were asked for; fail, unless it may still come."""
    try:
        require_matches(names, patterns)
    except FasttrackError as error:
        if not follow:
            raise
        note(f"{error}; waiting for it (Ctrl-C ends this)")


def _rows(batch: Batch) -> list[RunRow]:
    return [RunRow.of(batch.segment, entry) for entry in batch.entries if type(entry) is Row]


def _chosen(rows: list[RunRow], patterns: tuple[str, ...]) -> list[RunRow]:
    """Return the rows with the metrics that match only, without those that have none."""
    if not patterns:
        return rows
    chosen = []
    for row in rows:
        names = set(matching(row.values, patterns))
        if values := {name: value for name, value in row.values.items() if name in names}:
            chosen.append(row._replace(values=values))
    return chosen


def _print(row: RunRow, as_json: bool) -> None:
    if as_json:
        attempt, seq, step, time_s, values = row
        told = {"attempt": attempt, "seq": seq, "step": step, "time": time_s, "values": values}
        print_json(told, indent=None)
        return
    numbers = " ".join(f"{name}={format_number(value)}" for name, value in row.values.items())
    clock = format_time(row.time_s, "%H:%M:%S")
    click.echo(f"{clock} step {row.step} {numbers}")


def _follow(directory: Path, follower: Follower, newest: Entry | None) -> Iterator[Batch]:
    """Yield what is written from now on, until the run has finished or failed.

    Args:
        directory: the run's directory.
        follower: at its end.
        newest: the last entry that it has returned.
    """
    told = False
    look_at_s = 0.0
    while True:
        if batch := follower.read():
            newest = batch.entries[-1]
            told = False
            yield batch
            continue
        if isinstance(newest, Finish) and not newest.preempting:
            note(f"the run has ended (exit code {newest.exit_code})")
            return
        if not told and time.monotonic() >= look_at_s:
            look_at_s = time.monotonic() + _LOOK_AFTER_TRAINER_S
            word = find_status(LocalRun(directory)).word
            if told := word in ("preempted", "crashed"):
                note(f"the run's state: {word}; waiting for it to be resumed (Ctrl-C ends this)")
        time.sleep(_POLL_S)
