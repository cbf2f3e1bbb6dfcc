"""A run's rows as a table, for pandas, polars and whatever else reads Arrow.

    run.history(["loss/*"], last=50).to_pandas()
    polars.DataFrame(run.history())  # and pyarrow.table(...): what takes Arrow takes it as it is

The columns are those of `fasttrack export`: `attempt`, `seq`, `step`, `time` (unix seconds), then
the metrics in the order in which they first came. A column is of integers where all its values are
such, of doubles else; True and False are 1 and 0. Where a row does not have a metric stands a null.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fasttrack.errors import ConfigurationError
from fasttrack.journal.backwards import lines_backwards
from fasttrack.journal.entries import entry_of
from fasttrack.journal.rows import Row
from fasttrack.journal.run_directory import attempt
from fasttrack.runs.local import RunRow, readable
from fasttrack.runs.packages import require
from fasttrack.runs.patterns import matches, require_matches

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    import pandas as pd
    import polars as pl
    import pyarrow as pa

    from fasttrack.runs.local import LocalRun

_TABLE = "a run's rows as a table"


class History:
    """Rows of a run, read whenever they are asked for: a live run's are those written by then.

    Threads: any.
    """

    def __init__(
        self, run: LocalRun, metrics: Sequence[str] | str | None, last: int | None
    ) -> None:
        """Be rows of `run`; see `Run.history`."""
        if last is not None and (isinstance(last, bool) or not isinstance(last, int) or last < 0):
            raise ConfigurationError(f"last={last!r}: pass a number of rows, or None for all")
        self._run = run
        self._patterns = (metrics,) if isinstance(metrics, str) else tuple(metrics or ())
        self._last = last
        self._known: dict[str, bool] = {}  # name -> whether it is asked for

    def rows(self) -> list[RunRow]:
        """Return the rows as they were logged, the oldest first; needs no other package.

        Numbers are exact: an integer stays one, of whatever size.

        Raises:
            FasttrackError: the run has no such metric, or cannot be read.
        """
        with readable(self._run.directory):
            if self._last is not None:
                found = [RunRow.of(path, row) for path, row in self._newest(self._last)]
            else:
                found = [row for row in self._run.rows() if self._takes(row.values)]
        self._check({name for row in found for name in row.values})
        return [
            row._replace(values={n: v for n, v in row.values.items() if self._is_wanted(n)})
            for row in found
        ]

    def to_arrow(self) -> pa.Table:
        """Return the rows as an Arrow table; this is the quickest form.

        Raises:
            FasttrackError: pyarrow is missing, the run has no such metric, or cannot be read.
        """
        require("pyarrow", _TABLE)
        from fasttrack.runs.blocks import block_of_rows, table_of, without_empty_rows
        from fasttrack.runs.columns import read_blocks

        with readable(self._run.directory):
            if self._last is None:
                blocks = list(read_blocks(self._run, self._is_wanted))
            else:
                newest = self._newest(self._last)
                blocks = [
                    block_of_rows(number, rows, self._is_wanted)
                    for number, rows in _by_attempt(newest).items()
                ]
        self._check({name for block in blocks for name in block.metrics})
        return table_of(list(map(without_empty_rows, blocks)) if self._patterns else blocks)

    def to_pandas(self, **options: Any) -> pd.DataFrame:
        """Return the rows as a pandas data frame.

        A column of integers with gaps is of pandas' type `Int64`, so that they stay exact. In a
        column of floats pandas has one NaN for "not logged in this row" and for a NaN that was
        logged; `to_pandas(types_mapper=pandas.ArrowDtype)` tells them apart, as the other forms do.

        Args:
            options: for `pyarrow.Table.to_pandas`, which makes the frame.

        Raises:
            FasttrackError: pandas or pyarrow is missing, the run has no such metric, or cannot be
                read.
        """
        require("pandas", _TABLE)
        import pandas as pd

        table = self.to_arrow()
        frame = table.to_pandas(**options)
        if options.get("types_mapper") is None:
            nullable = {"int64": pd.Int64Dtype(), "uint64": pd.UInt64Dtype()}
            for name, column in zip(table.column_names, table.columns, strict=True):
                if column.null_count and str(column.type) in nullable:
                    kind = nullable[str(column.type)]
                    frame[name] = column.to_pandas(types_mapper=lambda _, kind=kind: kind)
        return frame

    def to_polars(self) -> pl.DataFrame:
        """Return the rows as a polars data frame.

        Raises:
            FasttrackError: polars or pyarrow is missing, the run has no such metric, or cannot be
                read.
        """
        require("polars", _TABLE)
        import polars as pl

        frame = pl.from_arrow(self.to_arrow())
        assert isinstance(frame, pl.DataFrame)
        return frame

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Hand the rows to whatever reads Arrow's streams."""
        return self.to_arrow().__arrow_c_stream__(requested_schema)

    def _is_wanted(self, name: str) -> bool:
        if (known := self._known.get(name)) is None:
            known = self._known[name] = not self._patterns or matches(name, self._patterns)
        return known

    def _takes(self, values: dict[str, Any]) -> bool:
        return not self._patterns or any(map(self._is_wanted, values))

    def _newest(self, count: int) -> list[tuple[Path, Row]]:
        """Return the newest rows that are asked for, in order. Reads from the end."""
        found: list[tuple[Path, Row]] = []
        for path in reversed(self._run.segments):
            for line in lines_backwards(path):
                if len(found) == count:
                    return found[::-1]
                entry = entry_of(line)
                if type(entry) is Row and self._takes(entry.values):
                    found.append((path, entry))
        return found[::-1]

    def _check(self, names: Collection[str]) -> None:
        """Say so where a metric that is asked for is nowhere."""
        missing = [one for one in self._patterns if not any(matches(name, [one]) for name in names)]
        if missing and self._last != 0:
            with readable(self._run.directory):
                require_matches(self._run.metrics(), missing)


def _by_attempt(rows: list[tuple[Path, Row]]) -> dict[int, list[Row]]:
    found: dict[int, list[Row]] = {}
    for path, row in rows:
        found.setdefault(attempt(path), []).append(row)
    return found
