"""`fasttrack plot`: a picture of a run, from its journal alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fasttrack.cli.shared import dir_option, warn_of_damage
from fasttrack.runs.local import find_run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fasttrack.runs.local import LocalRun


@click.command("plot")
@click.argument("text", metavar="RUN")
@click.option(
    "-m",
    "--metric",
    "patterns",
    multiple=True,
    help="Draw only metrics of this name (a pattern such as 'loss/*'), a panel each. Repeat.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="The picture to write (.png, .svg, .pdf); default <run id>.png, here.",
)
@dir_option
def plot(text: str, patterns: tuple[str, ...], output: Path | None, base: Path | None) -> None:
    """Draw a run's metrics over its steps, and print the picture's path.

    Without -m: loss, accuracy, learning rate, gradient norm and step time, as far as the run has
    them. Values that are NaN or infinite are marked at their steps. Where a resumed run's steps
    went back, its line begins anew.

    Needs matplotlib: pip install 'fasttrack[examples]'.
    """
    run = find_run(text, base)
    path = output or Path(f"{run.run_id}.png")
    draw_run(run, path, patterns)
    warn_of_damage(run)
    click.echo(path)


def draw_run(run: LocalRun, path: Path, patterns: Sequence[str] = ()) -> None:
    """Write a picture of `run`; see `fasttrack.views.picture.draw` for what it draws and raises."""
    from fasttrack.views.picture import draw

    attempts = len(run.headers)
    details = [
        str(run.header.get("project", "")),
        f"run {run.run_id}",
        f"{attempts} attempts" if attempts > 1 else "",
    ]
    draw(
        run.rows(),
        path,
        title=str(run.header.get("name", run.run_id)),
        details="  ·  ".join(filter(None, details)),
        metrics=patterns,
    )
