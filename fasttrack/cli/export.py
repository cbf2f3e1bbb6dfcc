"""`fasttrack export`: the rows of runs as a table, for other programs."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from fasttrack.cli.shared import dir_option, warn_of_damage
from fasttrack.runs.local import find_runs
from fasttrack.runs.packages import require
from fasttrack.views.table import WRITERS, read_table

if TYPE_CHECKING:
    from collections.abc import Iterator


@click.command("export")
@click.argument("texts", metavar="RUN...", nargs=-1, required=True)
@click.option("--format", "form", type=click.Choice(list(WRITERS)), required=True)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, writable=True, allow_dash=True, path_type=Path),
    help="The file to write; default stdout (not for parquet).",
)
@dir_option
def export(texts: tuple[str, ...], form: str, output: Path | None, base: Path | None) -> None:
    """Write all rows of runs: attempt, seq, step, time (unix seconds), and a column per metric.

    Several runs are written one after the other, and the first column, run, is their id.

    What a row does not have is empty in CSV, null in Parquet and JSON. NaN and the infinities are
    nan, inf and -inf in CSV, themselves in Parquet, and "NaN", "Infinity" and "-Infinity" in JSON,
    which is one array of objects.

    True and False become 1 and 0. In Parquet a metric is int64 if all its values are integers,
    else double. A metric that is called like one of the first columns gets "metric/" before its
    name.
    """
    if form == "parquet":
        if output is None or str(output) == "-":
            raise click.UsageError("parquet needs a file: -o FILE", click.get_current_context())
        require("pyarrow", "parquet")  # before a file is made
    runs = find_runs(texts, base)
    table = read_table(runs)
    with _opened(output) as file:
        WRITERS[form](table, file)
    warn_of_damage(runs)


@contextmanager
def _opened(output: Path | None) -> Iterator[BinaryIO]:
    if output is None or str(output) == "-":
        yield sys.stdout.buffer
    else:
        with output.open("wb") as file:
            yield file
