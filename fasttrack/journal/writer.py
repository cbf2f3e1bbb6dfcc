"""Append to a run's segment, and only that: what stands in it stays, also on a full disk.

Whoever reads along (delivery, maybe on another machine) has a line as soon as it is there. So
nothing is ever cut off again: a line that the disk took in part is completed, once there is room.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from fasttrack.handler_errors import is_handlers
from fasttrack.journal.entries import encode
from fasttrack.journal.rows import counts_as_row
from fasttrack.journal.run_directory import attempt, segment_name, segments

if TYPE_CHECKING:
    from pathlib import Path

    from fasttrack.journal.entries import Header

_HELD_LIMIT_BYTES = 8 * 2**20  # what is kept in memory while the disk takes nothing


class SegmentWriter:
    """Write one attempt's segment.

    Threads: the worker only, after construction.
    """

    def __init__(
        self, run_dir: Path, header: Header, *, held_limit_bytes: int = _HELD_LIMIT_BYTES
    ) -> None:
        """Create the next free segment in `run_dir` (0700) and write its header.

        Args:
            run_dir: the run's directory; made if it is not there.
            header: with any `attempt`: the segment's own is filled in.
            held_limit_bytes: how much `trim_held` leaves in memory.

        Raises:
            OSError: the directory cannot be made or written.
            TypeError: the header holds what JSON cannot.
        """
        run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        taken = segments(run_dir)
        number = attempt(taken[-1]) + 1 if taken else 1
        while True:
            self.path = run_dir / segment_name(number)
            try:
                self._fd = os.open(
                    self.path,
                    os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC,
                    0o600,
                )
                break
            except FileExistsError:  # another process resumed the same run this instant
                number += 1
        self._held_limit_bytes = held_limit_bytes
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._begun_bytes = 0  # how much of the first held line is on disk
        try:
            self._hold(encode(replace(header, attempt=number)))
            self._write_held()
        except (OSError, TypeError):
            os.close(self._fd)
            self.path.unlink(missing_ok=True)
            raise

    def append(self, lines: list[bytes]) -> OSError | None:
        """Append whole lines, or hold them in memory while the disk refuses.

        Lines that were held are written first, so their order stays.

        Args:
            lines: each one line, or several in one piece.

        Returns:
            None when all is on disk; else what the disk said, and `held_lines` tells how many
            lines wait. They are tried again with the next call.
        """
        data = b"".join(lines)
        try:
            if self._held:
                self._hold(data)
                self._write_held()
            elif not self._write(data):
                self._write_held()
        except OSError as error:
            if is_handlers(error):  # `finish` writes the last line on the caller's thread
                raise
            return error
        return None

    def _write(self, data: bytes) -> bool:
        """Write `data` while nothing is held; hold what the disk does not take at once, if any.

        As a rule it takes all, and the lines need not be told apart.
        """
        written = 0
        try:
            written = os.write(self._fd, data) if data else 0
            return written == len(data)
        finally:
            if written < len(data):
                self._hold(data)
                self._let_go(written)

    def _hold(self, data: bytes) -> None:
        self._held.extend(data.splitlines(keepends=True))  # JSON has no other ends of lines in it
        self._held_bytes += len(data)

    def _write_held(self) -> None:
        view = memoryview(b"".join(self._held))
        written = self._begun_bytes
        try:
            while written < len(view):
                written += os.write(self._fd, view[written:])
        finally:
            self._let_go(written)

    def _let_go(self, written: int) -> None:
        """Drop the held lines that are on disk whole; a reader may have them already."""
        whole = 0
        while whole < len(self._held) and len(self._held[whole]) <= written:
            written -= len(self._held[whole])
            self._held_bytes -= len(self._held[whole])
            whole += 1
        del self._held[:whole]
        self._begun_bytes = written

    def trim_held(self, *, to_nothing: bool = False) -> int:
        """Drop the newest held lines above the memory limit; return how many rows that were.

        A line that the disk has in part goes only `to_nothing`, after which nothing is appended.
        """
        limit_bytes = 0 if to_nothing else self._held_limit_bytes
        kept = 0 if to_nothing or not self._begun_bytes else 1
        dropped: list[bytes] = []
        while self._held_bytes > limit_bytes and len(self._held) > kept:
            dropped.append(self._held.pop())
            self._held_bytes -= len(dropped[-1])
        return sum(map(counts_as_row, dropped))

    @property
    def held_lines(self) -> int:
        """The number of lines that are in memory only."""
        return len(self._held)

    @property
    def held_rows(self) -> int:
        """The number of rows that are in memory only. Threads: any."""
        return sum(map(counts_as_row, list(self._held)))

    def close(self) -> None:
        """Flush the file to the device and close it, once. Blocks on the disk."""
        fd, self._fd = self._fd, -1  # the number is soon somebody else's
        if fd < 0:
            return
        try:
            os.fsync(fd)
        except OSError as error:  # a file system without fsync; the rows are in the page cache
            if is_handlers(error):
                raise
        finally:
            os.close(fd)
