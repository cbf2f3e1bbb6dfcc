"""Read a segment from its end: what was written last is found at once, however long the run is."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from fasttrack.journal.entries import entry_of
from fasttrack.journal.rows import Row, counts_as_row

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_BLOCK_BYTES = 256 * 1024


def lines_backwards(path: Path, *, block_bytes: int = _BLOCK_BYTES) -> Iterator[bytes]:
    """Yield the whole lines that the file at `path` has by now, the last one first.

    They come without their newlines; what stands behind the last newline is left out.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb", buffering=0) as file:
        place = file.seek(0, os.SEEK_END)
        pieces: list[bytes] = []  # of the line whose beginning is not reached, last piece first
        torn = True  # until the last newline is found
        while place:
            size = min(block_bytes, place)
            place -= size
            file.seek(place)
            beginning, *lines = file.read(size).split(b"\n")
            for line in reversed(lines):
                whole = line + b"".join(reversed(pieces))
                pieces.clear()
                if not torn:
                    yield whole
                torn = False
            pieces.append(beginning)
        if pieces and not torn:
            yield b"".join(reversed(pieces))


def last_row(path: Path) -> Row | None:
    """Return the last row that the segment at `path` has; None where it has none.

    Raises:
        OSError: it cannot be read.
    """
    for line in lines_backwards(path):
        if counts_as_row(line):
            entry = entry_of(line)
            if isinstance(entry, Row):
                return entry
    return None
