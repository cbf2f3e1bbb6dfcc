"""Read a segment, also while it is being written. `follower.py` reads a whole run."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

import orjson

from fasttrack.journal.entries import Finish, Header, Metadata, decode, entry_of, salvage_header
from fasttrack.journal.rows import count_row_lines
from fasttrack.journal.shapes import decode_line
from fasttrack.journal.shared_reads import Piece

if TYPE_CHECKING:
    from pathlib import Path

    from fasttrack.journal.entries import Entry
    from fasttrack.journal.shared_reads import SharedReads

_CHUNK_BYTES = 256 * 1024
_COUNT_CHUNK_BYTES = 4 * 2**20
_TAIL_BYTES = 64 * 1024
_LONGEST_LINE_BYTES = 64 * 2**20  # more is no line of ours, and must not fill the memory
_TELLING_BYTES = 64
_FINISH_BYTES, _FINISH_START = 512, b'{"kind":"finish"'  # more than such a line takes
MOST_NAMED = 20  # damaged lines that are told one by one


class Damage(NamedTuple):
    """A line that was left out, in whole or in part."""

    segment: str
    """The file's name."""
    line: int
    """Its number there, from 1."""
    why: str

    def __str__(self) -> str:
        """Return it as it is told."""
        return f"{self.segment}:{self.line} ({self.why})"


class SegmentReader:
    """Read one segment from its start; never returns half a line.

    Threads: one at a time.
    """

    def __init__(
        self,
        path: Path,
        from_bytes: int = 0,
        shared: SharedReads | None = None,
        *,
        shares: bool = True,
    ) -> None:
        """Open a segment.

        Args:
            path: the segment.
            from_bytes: where the line stands with which to begin.
            shared: what others in this process have read.
            shares: whether it gets what is read here.

        Raises:
            OSError: it cannot be opened.
        """
        self.path = path
        self._shared = shared
        self._shares = shares
        self._file = path.open("rb", buffering=0)
        self._file.seek(from_bytes)
        self._pieces: list[bytes] = []  # of the line whose end has not been read
        self._held_bytes = 0
        self._line = 0  # number of the last whole one
        self.bad_lines = 0
        self.damage: list[Damage] = []
        """The first of the bad lines, at most `MOST_NAMED`."""
        self.size_bytes = from_bytes
        """How much was read so far, torn lines included."""
        self.may_have_more = False
        """Whether the last read took as much as one takes, so that more may be there already."""

    @property
    def whole_bytes(self) -> int:
        """Where the line begins whose end was not read yet."""
        return self.size_bytes - self._held_bytes

    @property
    def has_more(self) -> bool:
        """Whether the file holds bytes that were not read yet, or the line that they belong to."""
        return os.fstat(self._file.fileno()).st_size > self.whole_bytes

    def read(self) -> list[Entry]:
        """Return the next whole entries, at most about 256 KiB of them; empty at the end.

        Lines that fasttrack did not write so are skipped, counted in `bad_lines`, and named in
        `damage`; of a header, what is right is kept.
        """
        if self._shared is None:
            return self._read()
        start, line, bad_lines = self.whole_bytes, self._line, self.bad_lines
        piece = self._shared.starting_at(self.path, start)
        if piece is not None:
            return self._take(piece)
        named = len(self.damage)
        entries = self._read()
        if self._shares and self.whole_bytes > start:
            self._shared.note(
                Piece(
                    self.path,
                    start,
                    self.whole_bytes,
                    entries,
                    self._line - line,
                    self.bad_lines - bad_lines,
                    self.damage[named:],
                    self.may_have_more,
                )
            )
        return entries

    def _take(self, piece: Piece) -> list[Entry]:
        self._file.seek(piece.end)
        self.size_bytes = piece.end
        self._pieces.clear()
        self._held_bytes = 0
        self._line += piece.lines
        self.bad_lines += piece.bad_lines
        self.damage += piece.damage[: MOST_NAMED - len(self.damage)]
        self.may_have_more = piece.may_have_more
        return piece.entries or self.read()

    def _read(self) -> list[Entry]:
        entries: list[Entry] = []
        while not entries:
            chunk = self._file.read(_CHUNK_BYTES)
            self.may_have_more = len(chunk) == _CHUNK_BYTES
            if not chunk:
                return entries
            self.size_bytes += len(chunk)
            first, *more = chunk.split(b"\n")
            if not more:
                self._hold(first)
                continue
            self._pieces.append(first)
            too_long = self._held_bytes > _LONGEST_LINE_BYTES
            self._decode(b"" if too_long else b"".join(self._pieces), entries)
            self._pieces.clear()
            self._held_bytes = 0
            for line in more[:-1]:
                self._decode(line, entries)
            self._hold(more[-1])
        return entries

    def _hold(self, piece: bytes) -> None:
        self._held_bytes += len(piece)
        if self._held_bytes <= _LONGEST_LINE_BYTES:
            self._pieces.append(piece)
        else:
            self._pieces.clear()

    def _decode(self, line: bytes, entries: list[Entry]) -> None:
        self._line += 1
        try:
            entries.append(decode_line(line))
        except ValueError as error:
            self.bad_lines += 1
            if len(self.damage) < MOST_NAMED:
                self.damage.append(Damage(self.path.name, self._line, _reason(line, error)))
            if self._line == 1 and (header := _salvaged(line, self.path)) is not None:
                entries.append(header)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _reason(line: bytes, error: ValueError) -> str:
    if not line:
        return "an empty line, or one of more than 64 MiB"
    return "not JSON" if isinstance(error, orjson.JSONDecodeError) else str(error)


def _salvaged(line: bytes, path: Path) -> Header | None:
    try:
        return salvage_header(line, path.parent.name)
    except ValueError:
        return None


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
    """Return the header of the segment at `path`, as much of it as is right; None: it has none."""
    with path.open("rb") as file:
        line = file.readline(_LONGEST_LINE_BYTES)
    try:
        entry = decode(line)
    except ValueError:
        return _salvaged(line, path)
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
    entry = entry_of(lines[-2])
    return entry if isinstance(entry, Finish) else None


def ends_with_finish(path: Path) -> bool:
    """Return whether the segment at `path` ends with a whole `finish` entry; reads very little."""
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _FINISH_BYTES))
            *_, last, torn = (b"\n" + file.read()).split(b"\n")
    except OSError:
        return False
    return not torn and last.startswith(_FINISH_START)


def last_written_s(path: Path) -> float:
    """Return the unix time in the last whole line of the segment at `path`; 0 where none has one.

    A copied file's own times tell nothing.
    """
    for line in reversed(_tail(path)):
        time_s: float = getattr(entry_of(line), "time_s", 0.0)
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
    start = b""  # of the line whose end has not been read; as much as tells what it is
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_COUNT_CHUNK_BYTES):
            whole, newline, torn = chunk.rpartition(b"\n")
            if newline:
                count += count_row_lines(b"".join((b"\n", start, whole)))
                start = torn
            elif len(start) < _TELLING_BYTES:
                start += torn
    return count


def _tail(path: Path) -> list[bytes]:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _TAIL_BYTES))
        return file.read().split(b"\n")
