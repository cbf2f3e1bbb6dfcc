"""Read a segment, also while it is being written. `follower.py` reads a whole run."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from fasttrack.journal.entries import Finish, Header, Metadata, count_row_lines, decode

if TYPE_CHECKING:
    from pathlib import Path

    from fasttrack.journal.entries import Entry

_CHUNK_BYTES = 256 * 1024
_COUNT_CHUNK_BYTES = 4 * 2**20
_TAIL_BYTES = 64 * 1024


class SegmentReader:
    """Read one segment from its start; never returns half a line.

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

    def read(self) -> list[Entry]:
        """Return the next whole entries, at most about 256 KiB of them; empty at the end.

        Lines that do not parse are skipped and counted in `bad_lines`.
        """
        entries: list[Entry] = []
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


def read_segment(path: Path) -> list[Entry]:
    """Return all entries of the segment at `path`; a torn last line is left out."""
    reader = SegmentReader(path)
    try:
        entries: list[Entry] = []
        while batch := reader.read():
            entries.extend(batch)
        return entries
    finally:
        reader.close()


def read_header(path: Path) -> Header | None:
    """Return the header of the segment at `path`, or None where it was torn."""
    with path.open("rb") as file:
        line = file.readline()
    try:
        entry = decode(line)
    except ValueError:
        return None
    return entry if isinstance(entry, Header) else None


def read_metadata(path: Path) -> Metadata | None:
    """Return the metadata that the segment at `path` holds near its start, else None.

    The trainer asks git for some of it while training goes on, so it may not be there yet.
    """
    reader = SegmentReader(path)
    try:
        return next((entry for entry in reader.read() if isinstance(entry, Metadata)), None)
    finally:
        reader.close()


def read_finish(path: Path) -> Finish | None:
    """Return the `finish` entry if the segment at `path` ends with one, else None."""
    lines = _tail(path)
    if len(lines) < 2 or lines[-1]:  # no line, or a torn one
        return None
    try:
        entry = decode(lines[-2])
    except ValueError:
        return None
    return entry if isinstance(entry, Finish) else None


def last_written_s(path: Path) -> float:
    """Return the unix time in the last whole line of the segment at `path`; 0 where none has one.

    A copied file's own times tell nothing.
    """
    for line in reversed(_tail(path)):
        try:
            time_s: float = getattr(decode(line), "time_s", 0.0)
        except ValueError:
            continue
        if time_s:
            return time_s
    return 0.0


def count_rows(path: Path) -> int:
    """Return how many rows the segment at `path` holds, damaged ones included.

    Parses nothing: hundreds of megabytes take less than a second.

    Raises:
        OSError: it cannot be read.
    """
    count = 0
    rest = b"\n"
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_COUNT_CHUNK_BYTES):
            whole, newline, torn = (rest + chunk).rpartition(b"\n")
            count += count_row_lines(whole)
            rest = newline + torn
    return count


def _tail(path: Path) -> list[bytes]:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _TAIL_BYTES))
        return file.read().split(b"\n")
