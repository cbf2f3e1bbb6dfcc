"""What the commands have in common: options, and how things are said."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fasttrack.journal.rows import spell_non_finite
from fasttrack.settings import resolve_base_dir

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console

    from fasttrack.journal.rows import Number
    from fasttrack.runs.local import LocalRun

dir_option = click.option(
    "--dir",
    "base",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Parent of wandb/ where runs are looked for; default WANDB_DIR, then here.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


def make_console(*, stderr: bool = False) -> Console:
    """Return a console that takes text as it stands; no colour where it is not a terminal."""
    from rich.console import Console

    return Console(stderr=stderr, markup=False, highlight=False, emoji=False)


def print_json(value: object, *, indent: int | None = 2) -> None:
    """Print `value`; NaN and infinities as the strings "NaN", "Infinity" and "-Infinity"."""
    click.echo(json.dumps(spell_non_finite(value), indent=indent, ensure_ascii=False))


def warn_of_damage(runs: Iterable[LocalRun]) -> None:
    """Say, once runs were read, that lines of them were damaged and left out."""
    for run in runs:
        if run.bad_lines:
            note(f"{run.bad_lines} damaged lines of {run.directory} were left out:")
            for damage in run.damage:
                note(f"  {damage}")
            if more := run.bad_lines - len(run.damage):
                note(f"  and {more} more")


def note(text: str) -> None:
    """Tell the user something on stderr, in one line."""
    click.echo(f"fasttrack: {text}", err=True)


def note_no_runs(base: Path | None) -> None:
    """Say that there are no runs under `base`, or where they are looked for without it."""
    note(f"no runs under {base or resolve_base_dir()}; pass --dir or set WANDB_DIR")


def format_time(unix_s: float, form: str = "%Y-%m-%d %H:%M") -> str:
    """Return a time of day as people write it, in local time; "?" where it is none."""
    try:
        return datetime.fromtimestamp(unix_s).strftime(form)
    except (OverflowError, ValueError, OSError):  # a damaged line's
        return "?"


def format_number(value: Number) -> str:
    """Return a metric's value in at most about ten characters."""
    if isinstance(value, int) and abs(value) < 10**9:
        return str(int(value))
    return f"{value:.5g}"
