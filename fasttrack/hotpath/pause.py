"""Mark what is no training: the time of an evaluation, of a checkpoint."""

from __future__ import annotations

from contextlib import suppress
from time import perf_counter
from typing import TYPE_CHECKING

from fasttrack.hotpath.records import PausedSince

if TYPE_CHECKING:
    from fasttrack.hotpath.records import AnyTick


class Pause:
    """A context manager whose time is left out of throughput. Two clock readings; nothing waits.

    Pauses may hold one another and overlap, also those of other threads: what is in several counts
    once. One object may be entered again, at any depth.

    Threads: any.
    """

    __slots__ = ("_began", "_open", "_ticks")

    def __init__(self, ticks: list[AnyTick], open_pauses: list[float]) -> None:
        """Prepare; the pause is told to `ticks` when it ends, until then it is in `open_pauses`."""
        self._ticks = ticks
        self._open = open_pauses
        self._began: list[float] = []

    def __enter__(self) -> None:
        """Begin to pause."""
        began = perf_counter()
        self._began.append(began)
        self._open.append(began)

    def __exit__(self, *_: object) -> None:
        """End the pause; an exception goes on its way."""
        began = self._began.pop()
        self._ticks.append((perf_counter(), PausedSince(began)))
        with suppress(ValueError):  # a handler's exception came between the two
            self._open.remove(began)
