"""`fasttrack doctor`: what would happen here if a tracker were started now?"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import click

from fasttrack.cli.shared import json_option, make_console, print_json
from fasttrack.doctor import Limits, examine, without_secrets

if TYPE_CHECKING:
    from fasttrack.doctor import Check

_STYLES = {"ok": "green", "note": "yellow", "problem": "bold red"}
_WIDTH = 80  # where there is no terminal


@click.command()
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0.1),
    default=Limits().total_s,
    show_default=True,
    metavar="SECONDS",
    help="How long it may take at most.",
)
@json_option
@click.pass_context
def doctor(context: click.Context, timeout_s: float, as_json: bool) -> None:
    """Check what would happen if a tracker were started here, now.

    Changes nothing. A "note" is worth knowing; a "problem" keeps a tracker from recording as asked,
    and comes with its fix. In mode offline no server is asked; in mode disabled nothing is a
    problem. --json prints a list of {check, state, text, fix}.

    Exit codes: 0 a tracker would record as asked (or stay silent, as asked); 1 there is a problem.
    """
    found = [without_secrets(check) for check in examine(Limits.within(timeout_s))]
    if as_json:
        print_json([dataclasses.asdict(check) for check in found])
    else:
        _print(found)
    context.exit(1 if any(check.state == "problem" for check in found) else 0)


def _print(found: list[Check]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check in found:
        text = Text(check.text)
        if check.fix:
            text.append(f"\nfix: {check.fix}", style="cyan")
        table.add_row(Text(check.state, style=_STYLES[check.state]), Text(check.check), text)
    console = make_console()
    if not console.is_terminal:
        console.width = _WIDTH
    console.print(table)
