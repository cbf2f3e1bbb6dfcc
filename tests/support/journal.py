"""What a run's journal holds, for tests: the typed entries of all its segments."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from fasttrack.journal.entries import Header, Row
from fasttrack.journal.reader import read_segment
from fasttrack.journal.run_directory import segments

if TYPE_CHECKING:
    from pathlib import Path

EntryT = TypeVar("EntryT")


def read_entries(run_dir: Path, kind: type[EntryT]) -> list[EntryT]:
    """Return the entries of one kind in all segments of a run, in order."""
    return [
        entry
        for path in segments(run_dir)
        for entry in read_segment(path)
        if isinstance(entry, kind)
    ]


def read_rows(run_dir: Path, key: str | None = None) -> list[Row]:
    """Return a run's rows in order; with `key` those that hold this metric."""
    rows = read_entries(run_dir, Row)
    return rows if key is None else [row for row in rows if key in row.values]


def read_headers(run_dir: Path) -> list[Header]:
    """Return the header of each attempt, oldest first."""
    return read_entries(run_dir, Header)
