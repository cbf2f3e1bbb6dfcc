"""The tracker's calls that tell what a training loop spends its time on."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

from fasttrack.opaque import opaque

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from fasttrack.quick_calls import Logger

T = TypeVar("T")

DATA = "data"
"""The phase in which a step waits for its data."""
_NOTHING = nullcontext()  # one for all: it keeps nothing


class TimingCalls:
    """What a tracker has for pauses and phases.

    Threads: any.
    """

    # A tracker's own.
    _logger: Logger | None
    _phases: dict[Any, AbstractContextManager[None]]

    def pause(self) -> AbstractContextManager[None]:
        """Return a context manager for what is no training: an evaluation, a checkpoint.

        Its time is left out of throughput, phases and step times, and logged as `perf/pause_s` with
        the next logged step. Pauses may stand within one another, and on any thread; what is raised
        in one goes on its way. Where a pause is not marked, it is recognised by its length
        (`Options.find_pauses`), and stays in `perf/step_time_ms/max`. Never waits.
        """
        logger = self._logger
        return _NOTHING if logger is None else logger.pause()

    def phase(self, name: str) -> AbstractContextManager[None]:
        """Return a context manager for a part of the training step, such as "data".

        With each logged step `perf/phase_pct/<name>` tells how much of the time since the last one
        was spent in it, in percent of the time that was training: what is in a `pause()`, too, is
        in neither. Phases may stand within one another and on any thread; time that is in two
        counts for both. Never waits; a block costs about a microsecond.

        Two names are known: "data" is the wait for data, "others" that for other ranks. `fasttrack
        show` judges by them what bounds the run.

        Args:
            name: of at most 32 in a run. What cannot be one is refused, counted and said, and the
                block runs unmarked.
        """
        known = self._phases.get(name) if type(name) is str else None
        if known is not None:
            return known
        logger = self._logger
        return _NOTHING if logger is None else logger.phase(name)

    def data(self, batches: Iterable[T]) -> Iterator[T]:
        """Return what iterates over a loader's batches, the wait for each marked as phase "data".

            for batch in tracker.data(loader):
                ...

        Waits as long as the loader does. Where this process does not record, that is the loader's
        own iterator.

        Args:
            batches: a `DataLoader`, or anything else to iterate over.
        """
        return iter(batches) if self._logger is None else _timed(batches, self.phase(DATA))


def _timed(batches: Iterable[T], phase: AbstractContextManager[None]) -> Iterator[T]:
    """Yield `batches`; `phase` is open while the next is waited for, the first one's start too."""
    with phase:
        iterator = iter(batches)
    batch: list[T] = []  # emptied before it is handed on: `del batch` in the loop frees it
    while True:
        with phase:
            try:
                batch.append(next(iterator))
            except StopIteration:
                return
        yield batch.pop()


for _method in (TimingCalls.pause, TimingCalls.phase, TimingCalls.data):
    opaque(_method)
