"""What was read of a run last, for the others in this process that read the same a moment later.

Every destination's courier reads the journal by itself, and so does what watches for alerts, so
that none waits for another. Where they are at the same place, the lines are taken to pieces once.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fasttrack.journal.entries import Entry
    from fasttrack.journal.reader import Damage

_MOST_BYTES = 2**20  # of lines; what they are read into takes several times as much


class Piece(NamedTuple):
    """Whole lines of a segment, once they have been read. Nobody changes the lists."""

    path: Path
    start: int
    """In the file, in bytes."""
    end: int
    entries: list[Entry]
    lines: int
    bad_lines: int
    damage: list[Damage]
    may_have_more: bool


class SharedReads:
    """The newest pieces.

    Threads: any.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Hold none yet; `clock` tells seconds."""
        self._clock = clock
        self._lock = threading.Lock()
        self._pieces: deque[Piece] = deque()
        self._size_bytes = 0
        self._noted_s: float | None = None
        self.on_note: Callable[[], None] = lambda: None
        """Called when there is a new one."""

    def note(self, piece: Piece) -> None:
        """Keep a piece, and let go of old ones for which there is no room."""
        with self._lock:
            self._pieces.append(piece)
            self._size_bytes += piece.end - piece.start
            while len(self._pieces) > 1 and self._size_bytes > _MOST_BYTES:
                old = self._pieces.popleft()
                self._size_bytes -= old.end - old.start
            self._noted_s = self._clock()
        self.on_note()

    def starting_at(self, path: Path, start: int) -> Piece | None:
        """Return the piece that begins at a place of a segment, if it is here."""
        with self._lock:
            for piece in self._pieces:
                if piece.start == start and piece.path == path:
                    return piece
        return None

    def have_come_to(self, path: Path, place: int) -> bool:
        """Return whether somebody has read on from a place of a segment, or is beyond it."""
        with self._lock:
            return any(piece.end > place and piece.path == path for piece in self._pieces)

    def idle_s(self) -> float:
        """Return for how many seconds nobody has read anything."""
        with self._lock:
            return float("inf") if self._noted_s is None else self._clock() - self._noted_s
