"""Runs as a table, for other programs: a row per logged call, a column per metric.

The columns are `attempt`, `seq`, `step` and `time` (unix seconds), before them `run` (its id) where
there are several runs, then the metrics. A metric that is called like one of these gets "metric/"
before its name. True and False become 1 and 0.
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from itertools import islice
from types import SimpleNamespace
from typing import TYPE_CHECKING, BinaryIO, TypeAlias

from fasttrack.journal.rows import Number, spell_non_finite
from fasttrack.runs.patterns import columns_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from fasttrack.runs.local import LocalRun

Record: TypeAlias = "dict[str, Number | str]"
"""Column -> value; what a row does not have is left out."""

_RUN = "run"
_FIXED = ("attempt", "seq", "step", "time")
_INT64 = 2**63


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The rows of some runs as they were when they were asked for."""

    runs: tuple[tuple[LocalRun, int], ...]
    """Each run with the number of its rows."""
    fixed: tuple[str, ...]
    """The columns before the metrics."""
    columns: dict[str, str]
    """Metric -> its column."""
    integers: frozenset[str]
    """The metrics' columns whose values are all integers."""

    @property
    def names(self) -> list[str]:
        """All columns, in order."""
        return [*self.fixed, *self.columns.values()]

    @property
    def count(self) -> int:
        """How many rows there are."""
        return sum(count for _, count in self.runs)

    def records(self) -> Iterator[Record]:
        """Yield the rows, run after run.

        Raises:
            OSError: a segment cannot be read.
        """
        for run, count in self.runs:
            named: Record = {_RUN: run.run_id} if _RUN in self.fixed else {}
            for row in islice(run.rows(), count):  # more may have been written by now
                record = {
                    **named,
                    "attempt": row.attempt,
                    "seq": row.seq,
                    "step": row.step,
                    "time": row.time_s,
                }
                for name, value in row.values.items():
                    record[self.columns[name]] = int(value) if isinstance(value, bool) else value
                yield record


def read_table(runs: Sequence[LocalRun]) -> Table:
    """Return what `runs` hold now. Reads all rows, keeps none.

    Raises:
        OSError: a segment cannot be read.
    """
    counts = []
    all_integers: dict[str, bool] = {}
    for run in runs:
        count = 0
        for row in run.rows():
            count += 1
            for name, value in row.values.items():
                integer = isinstance(value, int) and -_INT64 <= value < _INT64
                all_integers[name] = all_integers.get(name, True) and integer
        counts.append(count)
    fixed = (_RUN, *_FIXED) if len(runs) > 1 else _FIXED
    columns = columns_of(all_integers, fixed)
    return Table(
        runs=tuple(zip(runs, counts, strict=True)),
        fixed=fixed,
        columns=columns,
        integers=frozenset(columns[name] for name, yes in all_integers.items() if yes),
    )


def write_csv(table: Table, file: BinaryIO) -> None:
    """Write `table` as CSV in UTF-8, with a line of column names."""
    text = SimpleNamespace(write=lambda line: file.write(line.encode()))
    writer = csv.DictWriter(text, table.names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(table.records())


def write_json(table: Table, file: BinaryIO) -> None:
    """Write `table` as a JSON array, an object a line."""
    empty = dict.fromkeys(table.names)
    separator = "["
    for record in table.records():
        line = json.dumps({**empty, **spell_non_finite(record)}, ensure_ascii=False)
        file.write(f"{separator}\n{line}".encode())
        separator = ","
    file.write(b"\n]\n" if table.count else b"[]\n")


def write_parquet(table: Table, file: BinaryIO) -> None:
    """Write `table` as Parquet, in row groups that fit in little memory."""
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    from fasttrack.runs.columns import read_blocks

    kinds = {_RUN: pa.string(), "time": pa.float64()}
    fixed = [(name, kinds.get(name, pa.int64())) for name in table.fixed]
    metrics = [
        (name, pa.int64() if name in table.integers else pa.float64())
        for name in table.columns.values()
    ]
    schema = pa.schema([*fixed, *metrics])
    with ParquetWriter(file, schema) as writer:
        for run, count in table.runs:
            left = count
            for block in read_blocks(run, lambda name: name in table.columns):
                arrays = {
                    _RUN: pa.repeat(run.run_id, block.count),
                    "attempt": pa.repeat(block.attempt, block.count),
                    "seq": block.seq,
                    "step": block.step,
                    "time": block.time_s,
                    **{table.columns[name]: block.values(name) for name in block.metrics},
                }
                missing = pa.nulls(block.count)
                columns = [
                    arrays.get(field.name, missing).cast(field.type, safe=False) for field in schema
                ]
                batch = pa.RecordBatch.from_arrays(columns, schema=schema)
                batch = batch.slice(0, left)  # more may have been written by now
                left -= batch.num_rows
                if batch.num_rows:
                    writer.write_batch(batch)


WRITERS: dict[str, Callable[[Table, BinaryIO], None]] = {
    "csv": write_csv,
    "json": write_json,
    "parquet": write_parquet,
}
"""Format -> what writes it."""
