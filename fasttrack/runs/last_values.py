"""The last value of each metric, in one pass that takes few rows to pieces."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from fasttrack.journal.entries import entry_of
from fasttrack.journal.lines import line_blocks
from fasttrack.journal.reader import read_segment
from fasttrack.journal.rows import Row, is_row

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fasttrack.journal.rows import Number
    from fasttrack.runs.local import LocalRun

_VALUES = 11  # the piece between quotes from which on they hold a row's metrics


def last_values(run: LocalRun) -> dict[str, tuple[int, Number]]:
    """Return step and value of each metric's newest row, the metrics as they first came.

    Raises:
        OSError: a segment cannot be read.
    """
    found: dict[str, tuple[int, Number]] = {}
    for path in run.segments:
        for row in _telling_rows(path) or _rows(path):
            found.update((name, (row.step, value)) for name, value in row.values.items())
    return found


def _telling_rows(path: Path) -> list[Row] | None:
    """Return rows, in order: of those with the same metrics the first and the last.

    Returns:
        None where one of these is damaged.
    """
    first: dict[object, Row] = {}  # by all that stands between quotes: the metrics
    newest: dict[object, tuple[int, bytes]] = {}
    place = 0
    for block in line_blocks(path):
        for line in block.split(b"\n"):
            if not is_row(line):
                continue
            place += 1
            # Quotes within a name would hide which pieces are names.
            key = line if b"\\" in line else tuple(line.split(b'"')[_VALUES::2])
            if key not in newest and (row := _row(line)) is not None:
                first[key] = row
            if key in first:
                newest[key] = place, line
    last = [_row(line) for _, line in sorted(newest.values())]
    rows = [*first.values(), *last]
    return None if None in rows else cast("list[Row]", rows)


def _rows(path: Path) -> Iterator[Row]:
    return (entry for entry in read_segment(path) if type(entry) is Row)


def _row(line: bytes) -> Row | None:
    entry = entry_of(line)
    return entry if isinstance(entry, Row) else None
