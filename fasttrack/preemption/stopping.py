"""What a tracker has of `should_stop()`: the calls so far, and who listens from the first on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from fasttrack.context.distributed import is_main_process
from fasttrack.preemption.calls import Calls

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fasttrack.notices import Notices
    from fasttrack.options import Options
    from fasttrack.preemption.watch import Source, StopWatch


class Run(Protocol):
    """The run of a tracker that records."""

    @property
    def running(self) -> bool:
        """Whether it has not been finished."""

    @property
    def notices(self) -> Notices:
        """What says things for it, each once."""

    def stop_sources(self) -> Sequence[Source]:
        """Return who of it may ask the training to stop."""


class Stopping:
    """Whether training is asked to stop.

    Threads: as `StopWatch`; the first `look` builds one.
    """

    def __init__(self, options: Options) -> None:
        """Listen to nobody yet."""
        self.calls = Calls()
        self._options = options
        self._watch: StopWatch | None = None

    def look(self, number: int, run: Run | None) -> bool:
        """Return the answer to call `number` that a look at the limit does not give."""
        if self._watch is None:
            if run is not None and not run.running:
                return False  # finished: nobody would give the signals back
            self._watch = self._begin(run)
        return number >= self.calls.limit and self._watch.answer(number)

    def _begin(self, run: Run | None) -> StopWatch:
        from fasttrack.notices import Notices  # few runs need these
        from fasttrack.preemption.watch import StopWatch

        asks_slurm = is_main_process(self._options.log_rank)
        notices = Notices() if run is None else run.notices
        sources = () if run is None else run.stop_sources()
        return StopWatch(self.calls, self._options, sources, notices, asks_slurm=asks_slurm)

    @property
    def reason(self) -> str | None:
        """Why training is to stop; None while it is not."""
        return None if self._watch is None else self._watch.reason

    def request(self, reason: str) -> None:
        """Ask for it, where somebody listens."""
        if self._watch is not None:
            self._watch.request(reason)

    def close(self) -> None:
        """Give the signals back."""
        if self._watch is not None:
            self._watch.close()
