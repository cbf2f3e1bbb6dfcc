"""Note in the journal that training pauses, so that nobody takes it for a stall."""

from __future__ import annotations

import time
from time import perf_counter
from typing import TYPE_CHECKING

from fasttrack.journal.entries import Pausing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_LONG_S = 1.0  # shorter ones are nobody's business


class PauseNotes:
    """Tell of marked pauses that take a while.

    Threads: worker only.
    """

    def __init__(self, open_pauses: Sequence[float], write: Callable[[Pausing], None]) -> None:
        """Look at `open_pauses`, when each began on `perf_counter`, which callers change."""
        self._open_pauses = open_pauses
        self._write = write
        self._told = False

    def look(self) -> None:
        """Write a line where a pause became a long one, or is over."""
        began_s = min(list(self._open_pauses), default=None)
        pausing = began_s is not None and perf_counter() - began_s >= _LONG_S
        if pausing is not self._told:
            self._told = pausing
            self._write(Pausing(pausing, time.time()))
