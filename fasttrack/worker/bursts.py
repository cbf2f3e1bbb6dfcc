"""When the worker gives up the GIL.

What it does under the GIL is what training pays for, so it works in short bursts: after `_BURST_S`
it sleeps for `_PAUSE_S`, so that no training step of a millisecond has to wait for many of them. In
a hurry it sleeps for no time at all, which takes long enough that a thread that waits for the GIL
gets it. Releasing the GIL alone, as `write` does, is over before that thread has woken up.
"""

from __future__ import annotations

import time
from time import perf_counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_BURST_S = 100e-6
_PAUSE_S = 500e-6
_BACKLOG_BURST_S = 1e-3


def _rest(seconds: float) -> None:
    time.sleep(seconds)


class Bursts:
    """Divide the worker's rounds into bursts.

    Where it matters, ask `clock() >= end_s` first: a method call for every row would be noticed.

    Threads: one at a time.
    """

    __slots__ = ("_length_s", "_pause_s", "_rest", "clock", "end_s")

    def __init__(
        self, clock: Callable[[], float] = perf_counter, rest: Callable[[float], None] = _rest
    ) -> None:
        """Measure bursts with `clock`, in seconds; sleep by `rest`, in seconds, between them."""
        self.clock = clock
        self._rest = rest
        self._length_s = _BURST_S
        self._pause_s = 0.0
        self.end_s = 0.0
        """Until when the burst may last."""

    def begin(self, *, hurried: bool = False) -> None:
        """Begin a round; `hurried` where somebody waits for its end."""
        self._length_s = _BURST_S
        self._pause_s = 0.0 if hurried else _PAUSE_S
        self.end_s = self.clock() + _BURST_S

    def lengthen(self) -> None:
        """Make the further bursts of this round long ones: catching up matters more."""
        self._length_s = _BACKLOG_BURST_S
        self._pause_s = 0.0

    def begin_next(self) -> None:
        """Begin a burst where a rest was none too soon: somebody waited, and the GIL was free."""
        self.end_s = self.clock() + self._length_s

    def rest(self) -> None:
        """Give up the GIL, and begin the next burst."""
        self._rest(self._pause_s)
        self.begin_next()

    def rest_if_due(self) -> None:
        """Give up the GIL if the burst has lasted long enough."""
        if self.clock() >= self.end_s:
            self.rest()
