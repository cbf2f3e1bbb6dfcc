"""Look at every step: which was the first whose loss was no finite number."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from fasttrack.hotpath.records import LOSS, TICKS
from fasttrack.notices import spell
from fasttrack.worker.resolve import METRICS_FIELDS, STEP_FIELDS, clock_offset_s

if TYPE_CHECKING:
    from fasttrack.hotpath.records import MetricsRecord, RawRecord, Scalar
    from fasttrack.hotpath.trail import StepTrail, TrailStep
    from fasttrack.notices import Notices
    from fasttrack.worker.flight import FlightRecorder
    from fasttrack.worker.resolve import Resolver

FIRST_NONFINITE_STEP = "train/first_nonfinite_step"
_CALM_STEPS = 50  # with a finite loss, after which another is news; as alerts have it


class StepWatch:
    """Read what unlogged steps left, and find those whose loss was NaN or infinite.

    Threads: worker only.
    """

    def __init__(
        self,
        trail: StepTrail,
        resolver: Resolver,
        notices: Notices,
        flight: FlightRecorder | None = None,
    ) -> None:
        """Look at what comes by.

        Args:
            trail: has the steps that were not logged.
            resolver: reads what lies on devices.
            notices: told of the first bad loss, and of steps that nobody could look at.
            flight: asked for a dump where a loss becomes bad.
        """
        self.first_step: int | None = None
        """The first step of this attempt whose loss was NaN or infinite, logged or not."""
        self.flight = flight
        self.trail = trail
        self._resolver = resolver
        self._notices = notices
        self._calm = _CALM_STEPS  # steps with a finite loss since the last other one
        self._told_step: int | None = None

    def with_earlier(self, records: list[RawRecord]) -> list[RawRecord]:
        """Return `records` with what `look` finds of the steps between them, in order."""
        try:
            found = self.look(_called_at_s(records[-1]))
        except Exception as error:  # the rows must not go with it
            self._notices.count("worker_errors")
            self._notices.warn("watch", f"unlogged steps could not be looked at: {spell(error)}")
            return records
        if not found:
            return records
        joined: list[RawRecord] = []
        for record in records:
            while found and found[0][1] < _called_at_s(record):
                joined.append(found.pop(0))
            joined.append(record)
        return joined + found

    def look(self, until_s: float = math.inf) -> list[MetricsRecord]:
        """Look at the unlogged steps that came before `until_s` (`time.perf_counter()`).

        Waits for the device, as reading records does.

        Returns:
            What is to become a row: of each step with which losses became bad, its loss.
        """
        steps, events, lost = self.trail.take(until_s)
        if lost:
            self._notices.count("unwatched_steps", lost)
            self._notices.warn("unwatched", f"{lost} steps went by unwatched: the worker is late")
        waiting = [(each.values, each.pending) for each in steps if each.pending]
        if waiting:
            self._resolver.read_values(waiting, events)
        return [found for each in steps if (found := self._judge(each)) is not None]

    def _judge(self, each: TrailStep) -> MetricsRecord | None:
        loss = each.values.get(LOSS)
        if loss is None:
            return None
        if loss - loss == 0:
            self._calm += 1
            return None
        values: dict[str, Scalar] = {LOSS: loss}
        return (each.step, each.at_s, values) if self._is_news(each.step, values) else None

    def note_logged(self, step: int, values: dict[str, Scalar]) -> None:
        """Note that the loss of a row is NaN or infinite; add to the first one that it is."""
        self._is_news(step, values)

    def _is_news(self, step: int, values: dict[str, Scalar]) -> bool:
        if step == self._told_step:  # the row that was made of it comes by
            return False
        calm, self._calm = self._calm, 0
        if calm < _CALM_STEPS:
            return False
        self._told_step, loss = step, values[LOSS]
        if self.first_step is None:
            self.first_step = step
            values.setdefault(FIRST_NONFINITE_STEP, step)
            self._notices.warn("loss", f"the loss became {loss} at step {step}")
        if self.flight is not None:
            self.flight.ask("non_finite", f"the loss became {loss} at step {step}", step)
        return True


def _called_at_s(record: Any) -> float:
    """Return when a call was made, by `time.perf_counter()`."""
    if len(record) in (METRICS_FIELDS, STEP_FIELDS):
        return float(record[1])
    ticks = record[TICKS]
    return float(ticks[-1][0] if ticks else record[1] - clock_offset_s())
