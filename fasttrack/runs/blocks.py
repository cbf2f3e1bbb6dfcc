"""Blocks of a run's rows as Arrow has them, and the table that they make together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from pyarrow import compute

from fasttrack.runs.patterns import columns_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fasttrack.journal.rows import Number, Row

FIXED_COLUMNS = ("attempt", "seq", "step", "time")
"""Those before the metrics."""

_INT64, _UINT64 = 2**63, 2**64


@dataclass(slots=True)
class Block:
    """Rows that follow one another in one attempt of a run."""

    attempt: int
    seq: Any
    """None where only steps were asked for; `time_s`, too."""
    step: Any
    time_s: Any
    metrics: dict[str, Any]
    """Name -> values, with null where a row does not have the metric."""
    bad_lines: int = 0
    """How many lines beside the rows were none that fasttrack wrote."""

    @property
    def count(self) -> int:
        """How many rows there are."""
        return len(self.step)

    def values(self, metric: str) -> Any:
        """Return the values of `metric`, nulls where no row has it."""
        return self.metrics[metric] if metric in self.metrics else pa.nulls(self.count)


def block_of_rows(number: int, rows: Sequence[Row], is_wanted: Callable[[str], bool]) -> Block:
    """Return the block of rows that have been read one by one."""
    values: dict[str, list[Number | None]] = {}
    for place, row in enumerate(rows):
        for name, value in row.values.items():
            if is_wanted(name):
                column = values.setdefault(name, [])
                column += [None] * (place - len(column))
                column.append(int(value) if value is True or value is False else value)
    for column in values.values():
        column += [None] * (len(rows) - len(column))
    return Block(
        number,
        _array([row.seq for row in rows]),
        _array([row.step for row in rows]),
        pa.array([row.time_s for row in rows], pa.float64()),
        {name: _array(column) for name, column in values.items()},
    )


def _array(values: Sequence[Number | None]) -> Any:
    there = [value for value in values if value is not None]
    if all(isinstance(value, int) for value in there):
        least, greatest = min(there, default=0), max(there, default=0)
        if least >= -_INT64 and greatest < _INT64:
            return pa.array(values, pa.int64())
        if least >= 0 and greatest < _UINT64:
            return pa.array(values, pa.uint64())
    return pa.array([None if value is None else float(value) for value in values], pa.float64())


def in_order(number: int, found: list[tuple[list[int], Block]], bad_lines: int) -> Block:
    """Return blocks as one whose rows are in the order of their places."""
    found = sorted((one for one in found if one[0]), key=lambda one: one[0][0])
    blocks = [block for _, block in found]
    if not blocks:
        return replace(block_of_rows(number, [], lambda name: False), bad_lines=bad_lines)
    order = np.argsort(np.concatenate([np.array(places) for places, _ in found]))
    names = dict.fromkeys(name for block in blocks for name in block.metrics)

    def ordered(arrays: list[Any]) -> Any:
        if arrays[0] is None:
            return None
        return join(arrays).combine_chunks().take(pa.array(order))

    return Block(
        number,
        ordered([block.seq for block in blocks]),
        ordered([block.step for block in blocks]),
        ordered([block.time_s for block in blocks]),
        {name: ordered([block.values(name) for block in blocks]) for name in names},
        bad_lines,
    )


def without_empty_rows(block: Block) -> Block:
    """Return the rows that have a metric."""
    columns = list(block.metrics.values())
    if not columns:
        return replace(block, seq=block.seq[:0], step=block.step[:0], time_s=block.time_s[:0])
    if any(not column.null_count for column in columns):
        return block
    mask = reduce(compute.or_, map(compute.is_valid, columns))
    return replace(
        block,
        seq=block.seq.filter(mask),
        step=block.step.filter(mask),
        time_s=block.time_s.filter(mask),
        metrics={name: column.filter(mask) for name, column in block.metrics.items()},
    )


def table_of(blocks: Sequence[Block]) -> pa.Table:
    """Return all rows as one table: the fixed columns, then the metrics as they first came."""
    blocks = blocks or [block_of_rows(1, [], lambda name: False)]
    names = list(dict.fromkeys(name for block in blocks for name in block.metrics))
    attempts = [pa.repeat(pa.scalar(block.attempt, pa.int64()), block.count) for block in blocks]
    fixed = [
        join(attempts),
        join([block.seq for block in blocks]),
        join([block.step for block in blocks]),
        join([block.time_s for block in blocks]),
    ]
    metrics = [join([block.values(name) for block in blocks]) for name in names]
    columns = columns_of(names, FIXED_COLUMNS)
    return pa.table([*fixed, *metrics], names=[*FIXED_COLUMNS, *columns.values()])


def join(arrays: Sequence[Any]) -> Any:
    """Return arrays of numbers, at least one, as a chunked one of a type that all of them fit."""
    kinds = {array.type for array in arrays} - {pa.null()}
    if kinds == {pa.int64(), pa.uint64()}:
        least = min(compute.min(array).as_py() or 0 for array in arrays)
        kind = pa.uint64() if least >= 0 else pa.float64()
    else:
        kind = kinds.pop() if len(kinds) == 1 else pa.float64()
    return pa.chunked_array([array.cast(kind, safe=False) for array in arrays], kind)
