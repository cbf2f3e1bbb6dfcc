"""Step loggers by themselves: no worker takes what they push."""

from __future__ import annotations

from typing import Any

from fasttrack.hotpath.call_meter import CallMeter
from fasttrack.hotpath.capture import Capture
from fasttrack.hotpath.gradients import GradientSource
from fasttrack.hotpath.records import RawRecord
from fasttrack.hotpath.ring import Ring
from fasttrack.hotpath.step_logger import StepLogger
from fasttrack.notices import Notices


class Bench:
    """A logger whose ring nobody drains by itself."""

    def __init__(self, log_interval: int = 10, capacity: int = 1024) -> None:
        """Build it."""
        self.notices = Notices()
        self.calls = CallMeter()
        self.ring: Ring[RawRecord] = Ring(capacity, 0.0)
        self.wakes = 0
        self.logger = StepLogger(
            self.ring,
            Capture("snapshot"),
            GradientSource("worker", 2**30, self.notices.warn),
            self.calls,
            self.notices,
            log_interval=log_interval,
            wake=self.wake,
        )

    def wake(self) -> None:
        """Count."""
        self.wakes += 1

    def log(self, step: Any, loss: Any = 0.5, **given: Any) -> None:
        """Log a training step."""
        self.logger.training_step(
            loss,
            step,
            given.get("batch_size"),
            given.get("optimizer"),
            given.get("model"),
            given.get("scaler"),
            given.get("loss_ar"),
            given.get("loss_fm"),
            given.get("grad_norm"),
            given.get("extra"),
        )

    def records(self) -> list[tuple[int, dict[str, Any]]]:
        """Return step and values of what was pushed."""
        return [(step, values) for step, _, values, *_ in self.ring.pop(1024)]
