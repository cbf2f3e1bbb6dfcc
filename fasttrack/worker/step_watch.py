"""Look at every step: which was the first whose loss was no finite number."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from fasttrack.hotpath.records import FIRST_NONFINITE_STEP, LOSS, TICKS
from fasttrack.notices import spell
from fasttrack.worker.resolve import METRICS_FIELDS, STEP_FIELDS, clock_offset_s

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fasttrack.hotpath.records import RawRecord, Scalar
    from fasttrack.hotpath.trail import StepTrail, TrailStep
    from fasttrack.notices import Notices
    from fasttrack.worker.flight import FlightRecorder
    from fasttrack.worker.resolve import Resolver

_CALM_STEPS = 50  # from one bad loss to the next, if that is to be news


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
        self._last_bad: int | None = None

    def in_order(self, records: list[RawRecord]) -> Iterator[list[RawRecord]]:
        """Yield `records` in pieces, with what is to become rows of the steps between them.

        Waits for the device, as reading records does. Each piece is to be written before the next
        is asked for: it may hold the first bad loss.
        """
        start = 0
        for each in self._bad_steps(_called_at_s(records[-1])):
            if not self._is_calm(each.step):
                self._last_bad = each.step
                continue
            end = start
            while end < len(records) and _called_at_s(records[end]) <= each.at_s:
                end += 1
            if end > start:
                yield records[start:end]
                start = end
            yield from self._row_of(each)
        yield records[start:] if start else records

    def rest(self) -> Iterator[list[RawRecord]]:
        """Yield what is to become rows of steps that no record follows, as far as it is known."""
        for each in self._bad_steps(math.inf):
            yield from self._row_of(each)

    def note_logged(self, step: int, values: dict[str, Scalar]) -> None:
        """Note that the loss of a row is NaN or infinite; add to the first one that it is."""
        self._is_news(step, values)

    def _bad_steps(self, until_s: float) -> list[TrailStep]:
        try:
            steps, events, lost = self.trail.take(until_s)
            if lost:
                self._notices.count("unwatched_steps", lost)
                self._notices.warn("lapped", f"{lost} steps went by unwatched: the worker is late")
            waiting = [(each.values, each.pending) for each in steps if each.pending]
            if waiting:
                self._resolver.read_values(waiting, events)
            return [each for each in steps if _is_bad(each.values.get(LOSS))]
        except Exception as error:  # the rows must not go with it
            self._notices.count("worker_errors")
            self._notices.warn("watch", f"unlogged steps could not be looked at: {spell(error)}")
            return []

    def _row_of(self, each: TrailStep) -> Iterator[list[RawRecord]]:
        values = {LOSS: each.values[LOSS]}
        if self._is_news(each.step, values):
            yield [(each.step, each.at_s, values)]

    def _is_calm(self, step: int) -> bool:
        return self._last_bad is None or abs(step - self._last_bad) > _CALM_STEPS

    def _is_news(self, step: int, values: dict[str, Scalar]) -> bool:
        is_news = self._is_calm(step)
        self._last_bad = step
        if not is_news:
            return False
        text = f"the loss became {values[LOSS]} at step {step}"
        if self.first_step is None:
            self.first_step = step
            values.setdefault(FIRST_NONFINITE_STEP, step)
            self._notices.warn("loss", text)
        if self.flight is not None:
            self.flight.ask("non_finite", text, step)
        return True


def _is_bad(loss: Any) -> bool:
    return loss is not None and bool(loss - loss != 0)


def _called_at_s(record: Any) -> float:
    """Return when a call was made, by `time.perf_counter()`."""
    if len(record) in (METRICS_FIELDS, STEP_FIELDS):
        return float(record[1])
    ticks = record[TICKS]
    return float(ticks[-1][0] if ticks else record[1] - clock_offset_s())
