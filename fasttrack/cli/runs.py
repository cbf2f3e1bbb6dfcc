"""`fasttrack runs`: the runs of a directory, one below the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from fasttrack.cli.shared import (
    dir_option,
    format_time,
    json_option,
    make_console,
    note_no_runs,
    print_json,
)
from fasttrack.runs.local import list_runs
from fasttrack.runs.status import summarize

if TYPE_CHECKING:
    from pathlib import Path

_COLUMNS = ("state", "rows", "attempts", "started", "delivered")
_LINE = "{:<9} {:>9} {:>8}  {:<16}  {:<11}"


@click.command("runs")
@dir_option
@json_option
def runs(base: Path | None, as_json: bool) -> None:
    """List the runs, the one that was begun or resumed last at the end.

    STATE: finished, failed or preempted, as the run itself has recorded; else running or crashed,
    if it was on this host; on another host, "running?" if it wrote within five minutes, and
    unknown after that.

    DELIVERED: what of the rows is proven to have arrived, and under the name, by what: on the
    server; in an offline dir, which 'fasttrack sync' uploads; partly, which is some of the
    attempts only; or no. What a running run sends is proven when it ends.

    --json prints a list of objects: run_id, name, project, entity, state, exit_code, rows,
    attempts, started (unix seconds), delivered, proofs, url, directory.
    """
    found = [summarize(run) for run in list_runs(base)]
    if as_json:
        print_json(found)
    elif found:
        _print_table(found)
    else:
        note_no_runs(base)


def _print_table(found: list[dict[str, Any]]) -> None:
    from rich.table import Table
    from rich.text import Text

    heading = _LINE.format(*_COLUMNS)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("run", overflow="fold", max_width=24, style="cyan")
    table.add_column(heading, overflow="fold")
    for run in found:
        shown = {**run, "started": format_time(run["started"])}
        line = _LINE.format(*(shown[name] for name in _COLUMNS))
        details = "\n" + " / ".join(filter(None, (run["project"], run["name"])))
        if run["proofs"]:
            more = len(run["proofs"]) - 1
            details += f"\n{run['proofs'][-1]}" + (f"; {more} more" if more else "")
        table.add_row(run["run_id"], Text(line).append(details, style="dim"))
    make_console().print(table)
