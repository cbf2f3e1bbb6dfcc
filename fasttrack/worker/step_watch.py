"""Look at every step: which was the first whose loss was no finite number."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fasttrack.hotpath.records import FIRST_NONFINITE_STEP, LARGEST_STEP, LOSS, TICKS
from fasttrack.hotpath.trail import TrailStep
from fasttrack.journal.trouble import BadLayers
from fasttrack.notices import spell
from fasttrack.worker.layers import SeenBad
from fasttrack.worker.resolve import METRICS_FIELDS, STEP_FIELDS, clock_offset_s

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fasttrack.hotpath.records import MetricsRecord, RawRecord, Scalar
    from fasttrack.hotpath.trail import StepTrail
    from fasttrack.journal.entries import Recorded
    from fasttrack.notices import Notices
    from fasttrack.worker.flight import FlightRecorder
    from fasttrack.worker.layers import LayerNorms
    from fasttrack.worker.resolve import Resolver

    _Seen = TrailStep | SeenBad | list[MetricsRecord]

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
        layers: LayerNorms | None = None,
    ) -> None:
        """Look at what comes by.

        Args:
            trail: has the steps that were not logged.
            resolver: reads what lies on devices.
            notices: told of the first bad loss, and of steps that nobody could look at.
            flight: asked for a dump where a loss becomes bad.
            layers: has the norms of layers, where they are wanted.
        """
        self.first_step: int | None = None
        """The first step of this attempt whose loss was NaN or infinite, logged or not."""
        self.flight = flight
        self.trail = trail
        self._resolver = resolver
        self._notices = notices
        self.layers = layers
        self._last_bad: int | None = None
        self._bad_layers: SeenBad | None = None
        self._told_layers = False
        self._entries: list[Recorded] = []

    def in_order(self, records: list[RawRecord]) -> Iterator[list[RawRecord]]:
        """Yield `records` in pieces, with what is to become rows of the steps between them.

        Waits for the device, as reading records does. Each piece is to be written before the next
        is asked for: it may hold the first bad loss.
        """
        start = 0
        begun: list[RawRecord] = []  # rows of layers are written with what follows them
        for each in self._between(_called_at_s(records[-1])):
            if isinstance(each, TrailStep) and not self._is_calm(each.step):
                self._last_bad = each.step
                continue
            end = start
            while end < len(records) - 1 and _called_at_s(records[end]) <= _at_s(each):
                end += 1
            if end > start:
                begun += records[start:end]
                start = end
            if isinstance(each, list):
                begun += each
                continue
            if begun:
                yield begun
                begun = []
            yield from self._rows_of(each)
        if begun or start:
            records = begun + records[start:]
        yield records

    def rest(self, until_s: float) -> Iterator[list[RawRecord]]:
        """Yield what is to become rows of steps that no record follows, as far as it is known.

        Args:
            until_s: those noted later are left for the next time (`time.perf_counter()`).
        """
        for each in self._between(until_s):
            yield from self._rows_of(each)

    def entries(self, *, last: bool = False) -> list[Recorded]:
        """Return what the journal is to say beside rows, and write the dumps that are asked for.

        Args:
            last: whether no round follows.
        """
        entries, self._entries = self._entries, []
        if self.flight is not None:
            entries += self.flight.dump_if_asked(last=last)
        return entries

    def _between(self, until_s: float) -> list[_Seen]:
        """Return what was seen of steps that came before, in order."""
        seen: list[_Seen] = list(self._bad_steps(until_s))
        if self.layers is not None:
            seen = sorted([*self._of_layers(self.layers, until_s), *seen], key=_at_s)
        return seen

    def _of_layers(self, layers: LayerNorms, until_s: float) -> list[_Seen]:
        try:
            return [*layers.look(until_s)]
        except Exception as error:  # the rows must not go with it
            self._met("layers_met", "norms of layers could not be computed", error)
            return []

    def _rows_of(self, each: _Seen) -> Iterator[list[RawRecord]]:
        if isinstance(each, SeenBad):
            self._note_bad_layers(each)
        elif isinstance(each, TrailStep):
            values = {LOSS: each.values[LOSS]}
            if self._is_news(each.step, values):
                yield [(each.step, each.at_s, values)]
        else:
            yield list(each)  # of one sample together: each write would wait for the GIL

    def _note_bad_layers(self, bad: SeenBad) -> None:
        self._bad_layers = bad
        if not self._entries and not self._told_layers and abs(bad.step) <= LARGEST_STEP:
            self._told_layers = True
            time_s = clock_offset_s() + bad.at_s
            self._entries.append(BadLayers(step=bad.step, text=bad.text, time_s=time_s))
            if not bad.with_loss:
                self._notices.warn("layers_bad", f"at step {bad.step} {bad.text}")

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
            return [
                each
                for each in steps
                if _is_bad(each.values.get(LOSS)) and abs(each.step) <= LARGEST_STEP
            ]
        except Exception as error:  # the rows must not go with it
            self._met("watch", "unlogged steps could not be looked at", error)
            return []

    def _met(self, key: str, what: str, error: Exception) -> None:
        self._notices.count("worker_errors")
        self._notices.warn(key, f"{what}: {spell(error)}")

    def _is_calm(self, step: int) -> bool:
        return self._last_bad is None or abs(step - self._last_bad) > _CALM_STEPS

    def _is_news(self, step: int, values: dict[str, Scalar]) -> bool:
        is_news = self._is_calm(step)
        self._last_bad = step
        if not is_news:
            return False
        text = f"the loss became {values[LOSS]} at step {step}"
        if self._bad_layers is not None and self._bad_layers.step == step:
            text = f"{text}; {self._bad_layers.text}"
        if self.first_step is None:
            self.first_step = step
            values.setdefault(FIRST_NONFINITE_STEP, step)
            self._notices.warn("loss", text)
        if self.flight is not None:
            self.flight.ask("non_finite", text, step)
        return True


def _at_s(each: _Seen) -> float:
    return each[0][1] if isinstance(each, list) else each.at_s


def _is_bad(loss: Any) -> bool:
    return loss is not None and bool(loss - loss != 0)


def _called_at_s(record: Any) -> float:
    """Return when a call was made, by `time.perf_counter()`."""
    if len(record) in (METRICS_FIELDS, STEP_FIELDS):
        return float(record[1])
    ticks = record[TICKS]
    return float(ticks[-1][0] if ticks else record[1] - clock_offset_s())
