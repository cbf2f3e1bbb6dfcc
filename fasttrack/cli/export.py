"""`fasttrack export`: a run's rows as a table, for other programs."""

from __future__ import annotations

import csv
import json
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from fasttrack.cli.shared import dir_option, spell, warn_of_damage
from fasttrack.errors import FasttrackError
from fasttrack.runs.local import find_run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fasttrack.runs.local import LocalRun

_FIXED = ("attempt", "seq", "step", "time")
_BATCH_ROWS = 16_384
_INT64 = 2**63


@dataclass(frozen=True)
class Table:
    """A run's rows as they were when it was asked for."""

    run: LocalRun
    count: int
    columns: dict[str, str]
    """Metric -> its column."""
    integers: set[str]
    """The columns whose values are all integers."""

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield a dict per row, column -> value; what a row does not have is left out."""
        for row in islice(self.run.rows(), self.count):  # more may have been written by now
            values = row.pop("values")
            for name, value in values.items():
                row[self.columns[name]] = int(value) if isinstance(value, bool) else value
            yield row


def read_table(run: LocalRun) -> Table:
    """Return what `run` holds now. Reads all rows, keeps none."""
    count = 0
    all_integers: dict[str, bool] = {}
    for row in run.rows():
        count += 1
        for name, value in row["values"].items():
            integer = isinstance(value, int) and -_INT64 <= value < _INT64
            all_integers[name] = all_integers.get(name, True) and integer
    columns: dict[str, str] = {}
    for name in all_integers:
        column = name
        while column in _FIXED or column in columns.values():
            column = f"metric/{column}"
        columns[name] = column
    return Table(run, count, columns, {columns[name] for name, yes in all_integers.items() if yes})


@click.command("export")
@click.argument("text", metavar="RUN")
@click.option("--format", "form", type=click.Choice(["csv", "parquet", "json"]), required=True)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, writable=True, allow_dash=True, path_type=Path),
    help="The file to write; default stdout (not for parquet).",
)
@dir_option
def export(text: str, form: str, output: Path | None, base: Path | None) -> None:
    """Write all rows of a run: attempt, seq, step, time (unix seconds), and a column per metric.

    What a row does not have is empty in CSV, null in Parquet and JSON. NaN and the infinities are
    nan, inf and -inf in CSV, themselves in Parquet, and "NaN", "Infinity" and "-Infinity" in JSON,
    which is one array of objects.

    True and False become 1 and 0. In Parquet a metric is int64 if all its values are integers,
    else double. A metric that is called like one of the first four columns gets "metric/" before
    its name.
    """
    if form == "parquet":
        if output is None or str(output) == "-":
            raise click.UsageError("parquet needs a file: -o FILE", click.get_current_context())
        _require_pyarrow()
    run = find_run(text, base)
    table = read_table(run)
    with _opened(output) as file:
        _WRITERS[form](table, file)
    warn_of_damage(run)


@contextmanager
def _opened(output: Path | None) -> Iterator[BinaryIO]:
    if output is None or str(output) == "-":
        yield sys.stdout.buffer
    else:
        with output.open("wb") as file:
            yield file


def _require_pyarrow() -> None:
    try:
        import pyarrow  # noqa: F401  # before a file is made
    except ImportError as error:
        raise FasttrackError("parquet needs pyarrow: pip install 'fasttrack[export]'") from error


def write_csv(table: Table, file: BinaryIO) -> None:
    """Write `table` as CSV in UTF-8, with a line of column names."""
    names = [*_FIXED, *table.columns.values()]
    text = SimpleNamespace(write=lambda line: file.write(line.encode()))
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(table.rows())


def write_json(table: Table, file: BinaryIO) -> None:
    """Write `table` as a JSON array, an object a line."""
    empty = dict.fromkeys((*_FIXED, *table.columns.values()))
    separator = "["
    for row in table.rows():
        line = json.dumps({**empty, **spell(row)}, ensure_ascii=False)
        file.write(f"{separator}\n{line}".encode())
        separator = ","
    file.write(b"\n]\n" if table.count else b"[]\n")


def write_parquet(table: Table, file: BinaryIO) -> None:
    """Write `table` as Parquet, in row groups that fit in little memory."""
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    fixed = [(name, pa.float64() if name == "time" else pa.int64()) for name in _FIXED]
    metrics = [
        (name, pa.int64() if name in table.integers else pa.float64())
        for name in table.columns.values()
    ]
    schema = pa.schema([*fixed, *metrics])
    doubles = [name for name, kind in metrics if kind == pa.float64()]
    rows = table.rows()
    with ParquetWriter(file, schema) as writer:
        while batch := list(islice(rows, _BATCH_ROWS)):
            for row in batch:  # pyarrow takes no great integer for a double
                row.update({name: float(row[name]) for name in doubles if name in row})
            writer.write_batch(pa.RecordBatch.from_pylist(batch, schema))


_WRITERS: dict[str, Callable[[Table, BinaryIO], None]] = {
    "csv": write_csv,
    "json": write_json,
    "parquet": write_parquet,
}
