"""A rank that does not record: it captures and sums up what it logs, and tells the one that does.

No journal, no delivery, no console, no file: its rows go no further than the statistics.
"""

from __future__ import annotations

import atexit
import os
import weakref
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fasttrack.handler_errors import is_handlers
from fasttrack.hotpath.call_meter import CallMeter
from fasttrack.hotpath.capture import Capture
from fasttrack.hotpath.gradients import GradientSource
from fasttrack.hotpath.ring import Ring
from fasttrack.hotpath.step_logger import StepLogger
from fasttrack.journal.writer import SegmentWriter
from fasttrack.notices import Notices
from fasttrack.ranks.parts import RankListener
from fasttrack.stats import Stats
from fasttrack.worker.gpu import GpuSampler
from fasttrack.worker.loop import Worker
from fasttrack.worker.media import MediaFiles
from fasttrack.worker.overhead import Overhead
from fasttrack.worker.resolve import Resolver
from fasttrack.worker.supervisor import NoDelivery

if TYPE_CHECKING:
    from collections.abc import Callable

    from fasttrack.hotpath.records import Console, RawRecord
    from fasttrack.quick_calls import QuickCalls
    from fasttrack.settings import RunSettings

_GIB = 2**30
_STOP_S = 5.0


class _NoSegment(SegmentWriter):
    """In place of a segment's writer: what is appended is gone. Threads: as `SegmentWriter`."""

    def __init__(self) -> None:
        """Hold nothing, and open nothing."""
        self.path = Path(os.devnull)
        self._fd = -1
        self._held = []
        self._held_bytes = self._begun_bytes = self._held_limit_bytes = 0

    def append(self, lines: list[bytes]) -> OSError | None:
        """Forget `lines`."""
        return None


class _NoGpu(GpuSampler):
    """The recording rank samples; others do not ask NVML. Threads: worker only."""

    def sample(self, device_index: int | None) -> dict[str, float]:
        """Return nothing."""
        return {}


class _OtherRankLogger(StepLogger):
    """A `StepLogger` on whose rank there is no run to change.

    Threads: as `StepLogger`.
    """

    __slots__ = ()

    def late_call(self) -> None:
        """Count a call that came after the end; before it, one that another rank acts on."""
        if not self._open:
            super().late_call()


class OtherRank:
    """The parts of a rank that does not record, and their life.

    Threads: built on the one that trains; the rest from any.
    """

    def __init__(self, settings: RunSettings, hot: QuickCalls, on_fork: Callable[[], None]) -> None:
        """Start the worker, and the thread that tells the recording rank. Waits for nobody.

        Args:
            settings: of a run that another rank records.
            hot: the tracker's calls, which get their logger.
            on_fork: called in a forked child, which is no rank.
        """
        options = settings.options
        self.notices = Notices()
        self._pid = os.getpid()
        self._closed = False
        self._on_fork = on_fork
        self._ring: Ring[RawRecord] = Ring(options.ring_capacity, options.full_wait_s)
        console: Ring[Console] = Ring(1, 0.0)
        capture = Capture(options.capture)
        gradients = GradientSource(
            options.grad_norm, int(options.grad_hold_limit_gb * _GIB), self.notices.warn
        )
        self._calls = CallMeter()
        self._overhead = Overhead(
            self._calls,
            budget=options.overhead_budget,
            log_interval=settings.log_interval,
            set_interval=lambda steps: self.logger.set_interval(steps),
            warn=self.notices.warn,
        )
        resolver = Resolver(capture, gradients, self.notices, hot._ticks)
        writer = _NoSegment()
        self._worker = Worker(
            self._ring,
            console,
            resolver,
            writer,
            self.notices,
            delivery=NoDelivery(),
            overhead=self._overhead,
            flush_interval_s=options.flush_interval_s,
            gpu_stats_interval=settings.gpu_stats_interval,
            options=replace(options, flops_per_token=None, flops_per_sample=None),
            gpu=_NoGpu(lambda text: None),
            media=MediaFiles(writer.path, self.notices),
        )
        listener = RankListener(settings, self.notices, resolver)
        self._worker.listen(listener)
        self._statistics = listener.statistics
        self.logger = _OtherRankLogger(
            hot,
            self._ring,
            capture,
            gradients,
            self._calls,
            self.notices,
            log_interval=settings.log_interval,
            wake=self._worker.wake,
            open_pauses=self._worker.open_pauses,
        )
        self._member = listener.member(self.notices, self._worker.open_pauses)
        self._worker.start()
        self._member.start()
        _here.add(self)
        atexit.register(self.finish)  # a thread inside torch at the interpreter's end aborts it

    def stats(self) -> Stats:
        """Return what was logged here and lost so far; no row is written. Never waits."""
        counts = self.notices.counts()
        p50_us, p99_us = self._calls.percentiles_us() or (0.0, 0.0)
        names = ("refused", "stale", "worker_errors", "failed_calls", "late_calls")
        return replace(
            Stats.of_nothing(),
            **{name: counts.get(name, 0) for name in names},
            dropped=self._ring.dropped,
            cut_off=self._worker.left_behind,
            ring_high_water=self._worker.ring_high_water,
            call_us_p50=p50_us,
            call_us_p99=p99_us,
            worker_cpu_pct=self._overhead.worker_cpu_pct,
            effective_interval=self._overhead.effective_interval,
            reasons=self.notices.reasons(),
        )

    def finish(self, exit_code: Any = 0, *, preempting: bool = False) -> None:
        """Tell the recording rank the last, and end the threads. Idempotent; waits some seconds."""
        if self._closed or os.getpid() != self._pid:
            return
        self._closed = True
        atexit.unregister(self.finish)
        try:
            self.logger.close()
            if self._worker.stop(_STOP_S):
                self._statistics.close()
            self._member.close()
        except Exception as error:  # nothing may raise into training
            if is_handlers(error):
                raise
            self.logger.failed_call("finish", error)

    def leave_to_parent(self) -> None:
        """Let go of everything; this process is a fork of the rank."""
        self._closed = True
        self._on_fork()


_here: weakref.WeakSet[OtherRank] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for rank in list(_here):
        rank.leave_to_parent()


os.register_at_fork(after_in_child=_after_fork_in_child)
