"""Read a segment's whole lines in large pieces, for what reads a run to its end as it is now."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from fasttrack.journal.entries import Config, Header, Metadata, entry_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import FileIO
    from pathlib import Path

BLOCK_BYTES = 4 * 2**20
_NEAR_BYTES = 4096  # mostly there is a line's end among so many
_LONGEST_LINE_BYTES = 64 * 2**20  # as for `SegmentReader`: more is no line of ours
_RARE = (Header, Config, Metadata)
_RARE_STARTS = tuple(b'{"kind":"%b"' % kind.kind.encode() for kind in _RARE)


def line_blocks(path: Path, *, start: int = 0, block_bytes: int = BLOCK_BYTES) -> Iterator[bytes]:
    """Yield the lines that the file at `path` has by now, in order, many in one piece.

    Each piece ends with a newline; what stands behind the last one is left out. `start` is where a
    line begins, in bytes: those before it are left out, too.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb", buffering=0) as file:
        left = max(0, os.fstat(file.fileno()).st_size - file.seek(start))
        torn = b""
        while left and (chunk := file.read(_up_to_a_line_end(file, min(block_bytes, left)))):
            left -= len(chunk)
            end = chunk.rfind(b"\n") + 1
            if not end:
                torn = torn + chunk if len(torn) <= _LONGEST_LINE_BYTES else torn
                continue
            if len(torn) > _LONGEST_LINE_BYTES:  # an empty line stands for it
                start = chunk.index(b"\n")
                torn, chunk, end = b"", chunk[start:], end - start
            yield torn + chunk[:end] if torn or end < len(chunk) else chunk
            torn = chunk[end:]


def _up_to_a_line_end(file: FileIO, size_bytes: int) -> int:
    """Return how much of what comes next to read: to the last line's end that is near `size_bytes`.

    So most pieces are read as they are handed on: to cut them and put them together takes as long
    as to read them.
    """
    near = min(size_bytes, _NEAR_BYTES)
    end = os.pread(file.fileno(), near, file.tell() + size_bytes - near).rfind(b"\n") + 1
    return size_bytes - near + end if end else size_bytes


def read_rare(path: Path, *, block_bytes: int = BLOCK_BYTES) -> list[Header | Config | Metadata]:
    """Return what the segment at `path` says of the run itself, in order; parses no rows.

    Raises:
        OSError: it cannot be read.
    """
    found: list[Header | Config | Metadata] = []
    for block in line_blocks(path, block_bytes=block_bytes):
        places = sorted(place for start in _RARE_STARTS for place in _starts(block, start))
        for place in places:
            entry = entry_of(block[place : block.index(b"\n", place)])
            if isinstance(entry, _RARE):
                found.append(entry)
    return found


def _starts(block: bytes, start: bytes) -> Iterator[int]:
    """Yield where lines begin that begin so."""
    if block.startswith(start):
        yield 0
    place = block.find(b"\n" + start)
    while place >= 0:
        yield place + 1
        place = block.find(b"\n" + start, place + 1)
