"""`fasttrack report`: runs as one page for a browser, which needs no server and no network."""

from __future__ import annotations

from pathlib import Path

import click

from fasttrack.cli.shared import dir_option, warn_of_damage
from fasttrack.runs.local import find_runs, readable


@click.command("report")
@click.argument("texts", metavar="RUN...", nargs=-1, required=True)
@click.option(
    "-m",
    "--metric",
    "patterns",
    multiple=True,
    help="Only metrics of this name (a pattern such as 'loss/*'). Repeat.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="The page to write; default <run id>.html, here, or runs.html.",
)
@dir_option
def report(
    texts: tuple[str, ...], patterns: tuple[str, ...], output: Path | None, base: Path | None
) -> None:
    """Write runs as one page for a browser, and print its path.

    The page holds everything that it needs: curves, raw and smoothed, over steps or time, to be
    zoomed and searched; several runs over each other, to be switched on and off; what bounds each,
    how its ranks fare, its goodput; configuration and metadata, and in what they differ; the end of
    what was printed; alerts. It asks no server for anything. Long curves are thinned; their
    extremes stay.

    The configuration and what was printed are in it: mind to whom you send it.

    Needs Bokeh: pip install 'fasttrack[report]'.
    """
    from fasttrack.views.web.page import write_report

    runs = find_runs(texts, base)
    with readable(runs[0].directory):
        path = output or Path(f"{runs[0].run_id}.html" if len(runs) == 1 else "runs.html")
    write_report(runs, path, metrics=patterns)
    warn_of_damage(runs)
    click.echo(path)
