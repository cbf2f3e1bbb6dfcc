"""Read a segment while it is being written."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from fasttrack.journal.format import decode

if TYPE_CHECKING:
    from pathlib import Path

_CHUNK_BYTES = 256 * 1024
_TAIL_BYTES = 64 * 1024


class SegmentReader:
    """Follow one segment from its start; never returns half a line.

    Threads: one at a time.
    """

    def __init__(self, path: Path) -> None:
        """Open `path`.

        Raises:
            OSError: it cannot be opened.
        """
        self.path = path
        self._file = path.open("rb", buffering=0)
        self._rest = b""
        self.bad_lines = 0
        self.size_bytes = 0
        """How much was read so far, torn lines included."""

    def read(self) -> list[dict[str, Any]]:
        """Return the next whole entries, at most about 256 KiB of them; empty at the end.

        Lines that do not parse are skipped and counted in `bad_lines`.
        """
        entries: list[dict[str, Any]] = []
        while not entries:
            chunk = self._file.read(_CHUNK_BYTES)
            if not chunk:
                return entries
            self.size_bytes += len(chunk)
            *lines, self._rest = (self._rest + chunk).split(b"\n")
            for line in lines:
                try:
                    entries.append(decode(line))
                except ValueError:
                    self.bad_lines += 1
        return entries

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_segment(path: Path) -> list[dict[str, Any]]:
    """Return all entries of the segment at `path`; a torn last line is left out."""
    reader = SegmentReader(path)
    try:
        entries: list[dict[str, Any]] = []
        while batch := reader.read():
            entries.extend(batch)
        return entries
    finally:
        reader.close()


def read_header(path: Path) -> dict[str, Any]:
    """Return the header of the segment at `path`, or {} where it was torn."""
    with path.open("rb") as file:
        line = file.readline()
    try:
        return decode(line)
    except ValueError:
        return {}


def read_finish(path: Path) -> dict[str, Any] | None:
    """Return the `finish` entry if the segment at `path` ends with one, else None."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _TAIL_BYTES))
        lines = file.read().split(b"\n")
    if len(lines) < 2 or lines[-1]:  # no line, or a torn one
        return None
    try:
        entry = decode(lines[-2])
    except ValueError:
        return None
    return entry if entry.get("kind") == "finish" else None
