"""Step loggers by themselves: no worker takes what they push."""

from __future__ import annotations

from typing import Any

from fasttrack.hotpath.call_meter import CallMeter
from fasttrack.hotpath.capture import Capture
from fasttrack.hotpath.gradients import GradientSource
from fasttrack.hotpath.records import RawRecord, Record, WholeRecord
from fasttrack.hotpath.ring import Ring
from fasttrack.hotpath.step_logger import StepLogger
from fasttrack.notices import Notices
from fasttrack.quick_calls import QuickCalls
from fasttrack.worker.resolve import Resolver


class Bench:
    """A logger whose ring nobody drains by itself."""

    def __init__(self, log_interval: int = 10, capacity: int = 1024) -> None:
        """Build it."""
        self.notices = Notices()
        self.calls = CallMeter()
        self.ring: Ring[RawRecord] = Ring(capacity, 0.0)
        self.wakes = 0
        self.hot = QuickCalls()
        capture = Capture("snapshot")
        gradients = GradientSource("worker", 2**30, self.notices.warn)
        self.resolver = Resolver(capture, gradients, self.notices, self.hot._ticks)
        self.logger = StepLogger(
            self.hot,
            self.ring,
            capture,
            gradients,
            self.calls,
            self.notices,
            log_interval=log_interval,
            wake=self.wake,
        )

    def wake(self) -> None:
        """Count."""
        self.wakes += 1

    def log(self, step: Any, loss: Any = 0.5, **given: Any) -> None:
        """Log a training step, as the tracker does."""
        self.hot._quick_training_step(loss, step, **given)

    def metrics(self, metrics: Any, step: Any = None) -> None:
        """Log metrics, as the tracker does."""
        self.hot._quick_metrics(metrics, step)

    def pop(self) -> list[WholeRecord]:
        """Take what was pushed, with all its fields and ticks."""
        return [self._whole(raw) for raw in self.ring.pop(1024)]

    def _whole(self, raw: Any) -> WholeRecord:
        if len(raw) < len(Record._fields):
            ((step, time_s, values, ticks),) = self.resolver.resolve([raw])
            return Record(step, time_s, dict(values), None, ticks, None, ())
        record = Record._make(raw)
        if record.ticks is None or not self.hot._ticks:
            return record
        return record._replace(ticks=self.resolver.with_earlier(record.ticks))

    def records(self) -> list[tuple[int, dict[str, Any]]]:
        """Return step and values of what was pushed."""
        return [(step, values) for step, _, values, *_ in self.pop()]
