"""`fasttrack runs`: the runs of a directory, one below the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from fasttrack.cli.shared import (
    dir_option,
    format_number,
    format_time,
    json_option,
    make_console,
    note_no_runs,
    print_json,
)
from fasttrack.runs.local import list_runs
from fasttrack.runs.ranking import rank_runs
from fasttrack.views.report import read_overview

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from fasttrack.journal.rows import Number
    from fasttrack.runs.local import LocalRun
    from fasttrack.views.report import Overview

_COLUMNS = ("state", "rows", "attempts", "started", "delivered")
_LINE = "{:<9} {:>8} {:>8}  {:<16}  {:<11}"
_WIDTH = 80  # what a terminal is taken to have; a run's id that leaves no room gets its own line


@click.command("runs")
@click.option(
    "-m",
    "--metric",
    metavar="NAME",
    help="Order the runs by the last value of this metric, the least first.",
)
@click.option("--descending", is_flag=True, help="With --metric: the greatest first.")
@dir_option
@json_option
@click.pass_context
def runs(
    context: click.Context,
    metric: str | None,
    descending: bool,
    base: Path | None,
    as_json: bool,
) -> None:
    """List the runs, the one that was begun or resumed last at the end.

    STATE: finished, failed or preempted, as the run itself has recorded; else running or crashed,
    if it was on this host; on another host, "running?" if it wrote within five minutes, and
    unknown after that.

    DELIVERED: what of the rows is proven to have arrived, and under the name, by what: on the
    server, or in files where the destination is a directory; in an offline dir, which 'fasttrack
    sync' uploads; partly, which is some of the attempts only; or no. What a running run sends is
    proven when it ends. A run with several backends has the worst of their words here, and each
    one's below; "journal" is a run that is delivered nowhere.

    --metric: equal values stay in the order of the list; runs whose last value is NaN or infinite
    come after the others, and runs without the metric last.

    --json prints a list of objects: run_id, name, project, entity, state, exit_code, rows,
    attempts, started (unix seconds), delivered, proofs, url, backends (name -> delivered, proofs,
    url, directory), directory; with --metric also metric, value and step (null where the run does
    not have it).
    """
    if descending and metric is None:
        raise click.UsageError("--descending needs --metric", context)
    found = list_runs(base)
    if not found and not as_json:
        note_no_runs(base)
    elif metric is None or not found:
        overviews = [read_overview(run) for run in found]
        if as_json:
            print_json([overview.as_json() for overview in overviews])
        else:
            _print_table(overviews, None)
    else:
        _rank(found, metric, descending, as_json)


def _rank(found: list[LocalRun], metric: str, descending: bool, as_json: bool) -> None:
    ranked = rank_runs(found, metric, descending=descending)
    overviews = [read_overview(one.run) for one in ranked]
    if as_json:
        told = [
            {**overview.as_json(), "metric": metric, "value": one.value, "step": one.step}
            for overview, one in zip(overviews, ranked, strict=True)
        ]
        print_json(told)
        return
    order = "greatest" if descending else "least"
    click.echo(f"by the last value of {metric}, the {order} first")
    _print_table(overviews, [one.value for one in ranked])


def _print_table(found: list[Overview], values: list[Number | None] | None) -> None:
    """Print a line for each run, and what more there is to say of it below.

    Args:
        found: the runs.
        values: what they are ordered by, a column of its own.
    """
    lines = [_line(overview) for overview in found]
    heading = _LINE.format(*_COLUMNS)
    if values is not None:
        cells = ["-" if value is None else format_number(value) for value in values]
        lines = [f"{cell:>10}  {line}" for cell, line in zip(cells, lines, strict=True)]
        heading = f"{'value':>10}  {heading}"
    room = _WIDTH - len(heading) - 2
    fitting = [len(one.run_id) for one in found if len(one.run_id) <= room]
    margin = max([len("run"), *fitting]) + 2
    console = make_console()
    console.print(f"{'run':<{margin}}{heading}", style="bold", soft_wrap=True)
    for overview, line in zip(found, lines, strict=True):
        _print_run(console, overview, line, margin)


def _line(overview: Overview) -> str:
    delivery = overview.delivery
    started = format_time(overview.started_s)
    return _LINE.format(
        overview.status.word, delivery.rows, len(delivery.segments), started, delivery.word
    )


def _print_run(console: Console, overview: Overview, line: str, margin: int) -> None:
    from rich.table import Table
    from rich.text import Text

    name = overview.run_id
    if len(name) > margin - 2:  # a name that was broken could not be copied
        console.print(name, style="cyan", soft_wrap=True)
        name = ""
    details = [" / ".join(filter(None, (overview.project, overview.name)))]
    backends = overview.delivery.backends
    for backend in backends:
        words = [f"{backend.backend}: {backend.word}"] if len(backends) > 1 else []
        if backend.proofs:
            more = len(backend.proofs) - 1
            words.append(backend.proofs[-1] + (f"; {more} more" if more else ""))
        details.append(" - ".join(words))
    text = Text(line).append("".join(f"\n{each}" for each in details if each), style="dim")
    grid = Table.grid()
    grid.add_column(no_wrap=True, width=margin, style="cyan")
    grid.add_column(overflow="fold")
    grid.add_row(name, text)
    console.print(grid)
