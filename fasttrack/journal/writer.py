"""Append to a run's segment; survive a full disk without tearing a line."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from fasttrack.journal.entries import encode, is_row
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
        self._size_bytes = 0
        self._held_limit_bytes = held_limit_bytes
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._torn = False  # part of a line stands behind the last whole one
        try:
            self._append_all(encode(replace(header, attempt=number)))
        except (OSError, TypeError):
            os.close(self._fd)
            self.path.unlink(missing_ok=True)
            raise

    def append(self, lines: list[bytes]) -> OSError | None:
        """Append whole lines, or hold them in memory while the disk refuses.

        Lines that were held are written first, so their order stays. Nothing is torn: a write
        that came through in part is cut off again.

        Returns:
            None when all is on disk; else what the disk said, and `held_lines` tells how many
            lines wait. They are tried again with the next call.
        """
        self._held.extend(lines)
        self._held_bytes += sum(map(len, lines))
        try:
            self._append_all(b"".join(self._held))
        except OSError as error:
            return error
        self._held.clear()
        self._held_bytes = 0
        return None

    def trim_held(self, *, to_nothing: bool = False) -> int:
        """Drop the newest held lines above the memory limit; return how many rows that were."""
        limit_bytes = 0 if to_nothing else self._held_limit_bytes
        dropped: list[bytes] = []
        while self._held_bytes > limit_bytes:
            dropped.append(self._held.pop())
            self._held_bytes -= len(dropped[-1])
        return sum(map(is_row, dropped))

    @property
    def held_lines(self) -> int:
        """The number of lines that are in memory only."""
        return len(self._held)

    @property
    def held_rows(self) -> int:
        """The number of rows that are in memory only. Threads: any."""
        return sum(map(is_row, list(self._held)))

    def _append_all(self, data: bytes) -> None:
        view = memoryview(data)
        written = 0
        try:
            if self._torn:
                os.ftruncate(self._fd, self._size_bytes)
                self._torn = False
            while written < len(view):
                written += os.write(self._fd, view[written:])
        except OSError:
            self._torn = True
            os.ftruncate(self._fd, self._size_bytes)
            self._torn = False
            raise
        self._size_bytes += written

    def close(self) -> None:
        """Flush the file to the device and close it. Blocks on the disk."""
        try:
            os.fsync(self._fd)
        except OSError:
            pass  # a file system without fsync; the rows are in the page cache
        os.close(self._fd)
