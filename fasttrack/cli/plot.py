"""`fasttrack plot`: a picture of a run, or of several, from their journals alone."""

from __future__ import annotations

from pathlib import Path

import click

from fasttrack.cli.shared import dir_option, warn_of_damage
from fasttrack.runs.local import find_runs, readable


@click.command("plot")
@click.argument("texts", metavar="RUN...", nargs=-1, required=True)
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
    help="The picture to write (.png, .svg, .pdf); default <run id>.png, here, or runs.png.",
)
@dir_option
def plot(
    texts: tuple[str, ...], patterns: tuple[str, ...], output: Path | None, base: Path | None
) -> None:
    """Draw the metrics of runs over their steps, and print the picture's path.

    Without -m: loss, accuracy, learning rate, gradient norm and step time, as far as there are
    any. Values that are NaN or infinite are marked at their steps. Where a resumed run's steps
    went back, its line begins anew. Several runs are drawn over each other, a color each.

    Needs matplotlib: pip install 'fasttrack[examples]'.
    """
    from fasttrack.views.picture import draw

    runs = find_runs(texts, base)
    with readable(runs[0].directory):
        path = output or Path(f"{runs[0].run_id}.png" if len(runs) == 1 else "runs.png")
    draw(runs, path, metrics=patterns)
    warn_of_damage(runs)
    click.echo(path)
