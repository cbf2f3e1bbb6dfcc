"""Who may ask the training to stop, brought together: what `should_stop()` answers from."""

from __future__ import annotations

import atexit
import itertools
import os
import threading
from typing import TYPE_CHECKING, Protocol

from fasttrack.context.distributed import get_rank, get_world_size
from fasttrack.context.group_store import group_store, when_group_is_known
from fasttrack.context.stores import default_store, own_connection
from fasttrack.handler_errors import is_handlers
from fasttrack.latch import Bell, Latch
from fasttrack.notices import Notices
from fasttrack.preemption.agreement import Agreement
from fasttrack.preemption.calls import GO_ON
from fasttrack.preemption.job_end import JobEnd
from fasttrack.preemption.signals import StopSignals

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fasttrack.options import Options
    from fasttrack.preemption.calls import Calls

_LOOK_EVERY_S = 1.0
_LAST_WORDS_S = 1.0  # that the thread may take to end once it does nothing more
_LONGEST_REASON = 200
_watches = itertools.count()  # of this process, in the order of first calls: alike on all ranks


class Source(Protocol):
    """Somebody who may ask the training to stop. Threads: one."""

    def __call__(self) -> str | None:
        """Return the reason to stop, if there is one."""

    def close(self) -> None:
        """Let go of what it holds."""


class StopWatch:
    """Answer those calls of `should_stop()` that need more than a look at a number.

    Threads: `answer` on one; `request` and `reason` on any, also in a signal handler; built
    and closed on the main one, or no signals are heard.
    """

    def __init__(
        self,
        calls: Calls,
        options: Options,
        sources: Sequence[Source],
        notices: Notices,
        *,
        asks_slurm: bool,
    ) -> None:
        """Listen to signals and start a thread; do not wait for it.

        Args:
            calls: those of `should_stop()` from the first on.
            options: the tracker's.
            sources: looked at once a second, on the thread.
            notices: the run's, where this process records one.
            asks_slurm: whether this is the rank that asks Slurm when the job ends.
        """
        self._calls = calls
        calls.limit = GO_ON
        self._asked: str | None = None
        self._notices = notices
        self._pid = os.getpid()
        self._key = f"stop/{next(_watches)}"
        self._agreement: Agreement | None = None
        self._sources = list(sources)
        if asks_slurm and options.stop_before_end_s is not None and "SLURM_JOB_ID" in os.environ:
            self._sources.append(JobEnd(options.stop_before_end_s))
        self._closing = self._closed = False
        self._wake = Bell()
        self._ended = Latch()  # the thread, where it was started
        self._signals = StopSignals(options.stop_signals, self.request)
        if not self._signals.listen():
            self._notices.warn(
                "stop_signals",
                "should_stop: the first call was not on the main thread, so signals are not heard",
            )
        self._thread = threading.Thread(
            target=self._run, name="fasttrack-stop-sources", daemon=True
        )
        try:
            self._meet()
            self._thread.start()
            if self._agreement is None:
                when_group_is_known(self._wake.ring)
        except RuntimeError as error:  # the system has no thread left
            if is_handlers(error):
                raise
            self._ended.open()
            self._notices.warn(
                "threads", f"should_stop: {error}, so that signals to this process alone are heard"
            )
        atexit.register(self.close)  # a thread inside torch at the interpreter's end aborts it

    def answer(self, number: int) -> bool:
        """Return whether to stop at call `number`, which is not below the limit of its calls."""
        agreement = self._agreement
        if agreement is None:
            return self._asked is not None
        stops = agreement.answer(number)
        if agreement.in_vain:
            self._signals.let_end()
        return stops

    @property
    def reason(self) -> str | None:
        """Why to stop; None until `should_stop` has a reason to answer True."""
        return self._asked if self._agreement is None else self._agreement.reason

    def request(self, reason: object) -> None:
        """Have it answer True, soon. Never waits, and never raises, whatever the reason is."""
        if self._asked is None and os.getpid() == self._pid:
            self._asked = _one_line(reason)
            if self._agreement is not None:
                self._agreement.request(self._asked)
            elif not _are_many():
                self._calls.limit = 0

    def _meet(self) -> None:
        """Agree with the other ranks from now on, if torch.distributed has made them known."""
        if self._agreement is None and _are_many() and (store := group_store()) is not None:
            self._agreement = Agreement(
                lambda: own_connection(store),
                self._key,
                get_rank(),
                get_world_size(),
                self._calls,
                warn=lambda text: self._notices.warn("agreement", text),
            )
            if self._asked is not None:
                self._agreement.request(self._asked)

    def _run(self) -> None:
        try:
            while not self._closing:
                self._ask_sources()
                self._wake.wait(_LOOK_EVERY_S)
        finally:
            self._ended.open()

    def _ask_sources(self) -> None:
        for source in (self._meet, *(self._sources if self._asked is None else ())):
            try:
                reason = source()
            except Exception as error:  # nothing may end the thread
                self._notices.warn(f"source:{error!r}", f"should_stop met {error!r}")
                continue
            if reason is not None:
                self.request(reason)

    def close(self) -> None:
        """End the threads; signals are as they were, unless one asked to stop. Idempotent.

        What a signal handler raises meanwhile goes on its way; then a later call does the rest.
        """
        if self._closed or os.getpid() != self._pid:
            return
        self._closing = True
        self._wake.ring()
        atexit.unregister(self.close)
        self._signals.leave()
        if self._ended.wait(_LOOK_EVERY_S) and self._thread.ident is not None:
            self._thread.join(_LAST_WORDS_S)
        if self._agreement is not None:
            self._agreement.close()
        for source in self._sources:
            source.close()
        self._closed = True


def _one_line(reason: object) -> str:
    if not isinstance(reason, str):
        return "request"
    words = reason.encode(errors="replace").decode().split()  # as the store takes it
    return " ".join(words)[:_LONGEST_REASON] or "request"


def _are_many() -> bool:
    """Return whether torch.distributed has made several ranks known to one another."""
    return default_store() is not None and get_world_size() > 1
