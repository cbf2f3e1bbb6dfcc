"""The recording rank's run, which hears of all others."""

from __future__ import annotations

import atexit
import os
import time
from typing import TYPE_CHECKING, Any

from fasttrack.context.distributed import get_world_size
from fasttrack.engine import Engine
from fasttrack.handler_errors import is_handlers
from fasttrack.journal.entries import Page
from fasttrack.ranks.aggregate import Aggregator
from fasttrack.ranks.parts import RankListener

if TYPE_CHECKING:
    from collections.abc import Callable

    from fasttrack.journal.trouble import RanksStanding
    from fasttrack.quick_calls import QuickCalls
    from fasttrack.ranks.messages import Message
    from fasttrack.settings import RunSettings
    from fasttrack.worker.loop import Worker

_AXIS = "ranks/step"
_LAST_FLUSH_S = 5.0


class AllRanksEngine(Engine):
    """A run whose rows tell of all ranks.

    Threads: as `Engine`.
    """

    def __init__(self, settings: RunSettings, hot: QuickCalls, on_fork: Callable[[], None]) -> None:
        """Do what `Engine` does, and listen to the other ranks. Waits for none of them.

        Raises:
            DirectoryError: the run's directory cannot be made or written.
            FasttrackError: the delivery process cannot be started.
        """
        self._pid = os.getpid()
        super().__init__(settings, hot, on_fork)
        listener = RankListener(settings, self.notices, self._worker.resolver)
        self._worker.listen(listener)
        self._statistics = listener.statistics
        self._gathered = _Gathered(
            Aggregator(
                get_world_size(),
                listener.statistics.width,
                warn=self.notices.warn,
                clock=time.monotonic,
            ),
            self._worker,
            self._describe_open,
            self._note_standing,
        )
        self._member = listener.member(self.notices, self._worker.open_pauses, self._gathered)
        # Rows of ours come after their window: drawn over its own step, not over the newest one.
        self.describe(lambda: Page(metrics={"ranks/*": {"step_metric": _AXIS}}))
        self._member.start()
        atexit.register(self._gather_the_last)

    def finish(self, exit_code: Any = 0, *, preempting: bool = False) -> None:
        """Do what `ExperimentTracker.finish` says; wait up to some seconds for the other ranks."""
        self._gather_the_last()
        super().finish(exit_code, preempting=preempting)

    def _describe_open(self, make: Callable[[], Page]) -> None:
        if self.running:
            self.describe(make)

    def _note_standing(self, standing: RanksStanding) -> None:
        if self.running:
            self._record("ranks", lambda: self._recorder.note(standing))

    def _gather_the_last(self) -> None:
        """Have the rows of all that is still under way written, once."""
        if self._pid != os.getpid():  # a fork: the run is its parent's
            return
        atexit.unregister(self._gather_the_last)
        try:
            if self.running:
                self._worker.flush(_LAST_FLUSH_S)
                self._statistics.close()
            if self._member.close() and self.running:
                self._gathered.finish()
        except Exception as error:  # nothing may raise into training
            if is_handlers(error):
                raise
            self.logger.failed_call("finish", error)


class _Gathered:
    """Where what all ranks tell becomes rows of the run.

    Threads: one at a time.
    """

    def __init__(
        self,
        aggregator: Aggregator,
        worker: Worker,
        describe: Callable[[Callable[[], Page]], None],
        note: Callable[[RanksStanding], None],
    ) -> None:
        """Hand on what `aggregator` makes of messages.

        Args:
            aggregator: makes rows, and knows how it stands with the ranks.
            worker: writes the rows.
            describe: takes the name of a straggler, for the run's page.
            note: takes how it stands, whenever that has changed.
        """
        self._aggregator = aggregator
        self._worker = worker
        self._describe = describe
        self._note = note
        self._changes = 0  # that were noted
        self._named: str | None = None

    @property
    def all_ended(self) -> bool:
        """Whether nobody will say more."""
        return self._aggregator.all_ended

    def take(self, rank: int, message: Message) -> None:
        """Take in what one rank tells."""
        self._aggregator.take(rank, message)

    def look(self) -> None:
        """Write the rows that are due."""
        self._worker.beside.extend(self._aggregator.look())
        if self._aggregator.changes == self._changes:
            return
        self._changes = self._aggregator.changes
        standing = self._aggregator.standing(time.time())
        self._note(standing)
        named = self._aggregator.straggler
        if named is not None and named not in standing.stragglers:
            named = f"none now; {named} was the last"
        if named is not None and named != self._named:
            self._named = named
            self._describe(lambda: Page(summary={"ranks/straggler_named": named}))

    def finish(self) -> None:
        """Write all that is left, as it is."""
        self.look()
        self._worker.beside.extend(self._aggregator.finish())
