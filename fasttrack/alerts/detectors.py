"""Watch one metric, a value at a time: what is not finite, what jumps, what a rule is about.

Each says something once for an episode, and not again at a step that it has told of already: a
resumed attempt that trains into the same trouble is no news. What one knows goes to disk and comes
back as plain values, so that a later process, or attempt, goes on where this one was.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from fasttrack.alerts.rules import Rule

_CALM_ROWS = 50  # in order, after which trouble is over and the next is news
_WINDOW = 200  # rows whose values are what is usual
_LEAST_ROWS = 50  # before anything is
_REACH = 8.0  # times the distance from the median to the greatest twentieth
_RECENT_BITS, _RECENT = 3, 0b11111  # so many of the last five values must be far above


class Trouble(NamedTuple):
    """What is wrong with a metric, in words."""

    title: str
    text: str


class Detector(Protocol):
    """Something that looks at every value of one metric. Threads: one at a time."""

    kind: str
    cause: str
    """What it watches; with the step, the cause of an alert."""
    told_step: int | None
    """The latest step that it has told of."""

    def see(self, step: int, value: float) -> Trouble | None:
        """Take in a value; return what is wrong with it, if that is news."""

    def rewind(self, step: int) -> None:
        """Note that training begins anew at an earlier `step`."""

    def state(self) -> dict[str, Any]:
        """Return what it knows, as JSON takes it."""

    def restore(self, state: dict[str, Any]) -> None:
        """Know what `state` returned.

        Raises:
            TypeError, ValueError, KeyError: it did not.
        """


class NonFinite:
    """Tell of a value that is NaN or infinite. Threads: as `Detector`."""

    kind = "non_finite"

    def __init__(self, metric: str) -> None:
        """Watch `metric`."""
        self._metric = metric
        self.cause = f"non_finite:{metric}"
        self.told_step: int | None = None
        self._calm: int | None = None  # finite values since the last one that was not

    def see(self, step: int, value: float) -> Trouble | None:
        """Take in a value. See `Detector.see`."""
        if value - value == 0:
            if self._calm is not None:
                self._calm += 1
                if self._calm >= _CALM_ROWS:
                    self._calm = None
            return None
        is_news = self._calm is None and _is_later(step, self.told_step)
        self._calm = 0
        if not is_news:
            return None
        self.told_step = step
        return Trouble(
            f"{self._metric} is {value}", f"{self._metric} became {value} at step {step}"
        )

    def rewind(self, step: int) -> None:
        """Be over what was. See `Detector.rewind`."""
        self._calm = None

    def state(self) -> dict[str, Any]:
        """Return what it knows."""
        return {"told_step": self.told_step, "calm": self._calm}

    def restore(self, state: dict[str, Any]) -> None:
        """Know it again."""
        self.told_step, self._calm = _whole(state["told_step"]), _whole(state["calm"])


class FirstNonFinite(NonFinite):
    """Tell of the first bad loss by its own step, which a row of the loss may not have.

    It is the loss's own trouble, told once, unless a row of a later step came first: then the exact
    step is news. Threads: as `Detector`.
    """

    def __init__(self, metric: str, loss: NonFinite) -> None:
        """Watch `metric`, which has the first bad value of what `loss` watches, at its step."""
        super().__init__(metric)
        self._loss = loss

    def see(self, step: int, value: float) -> Trouble | None:
        """Take in a value. See `Detector.see`."""
        by_row = self._loss.told_step
        trouble = self._loss.see(step, value)
        if trouble is None and by_row is not None and step < by_row:
            trouble = super().see(step, value)
        return trouble


class Spike:
    """Tell of a loss that jumps far above all that it was lately, and stays there.

    What is usual is the last 200 values. The ceiling stands above the greatest of them, outliers
    aside, by half of what that one is above their median, or a tenth of what the loss has come down
    by so far, or a tenth of the median, whichever is most. Three of the last five values above it
    are a spike: one bad batch is none. Values above the ceiling become usual once that is decided.

    Threads: as `Detector`.
    """

    kind = "spike"

    def __init__(self, metric: str) -> None:
        """Watch `metric`."""
        self._metric = metric
        self.cause = f"spike:{metric}"
        self.told_step: int | None = None
        self._in_order: deque[tuple[int, float]] = deque()
        self._sorted: list[float] = []
        self._highest: float | None = None  # median that there was
        self._recent = 0  # a bit for each of the last values: it was above the ceiling
        self._held: list[
            tuple[int, float]
        ] = []  # those that were, until it is decided what they are
        self._calm: int | None = None  # values below the ceiling since the last spike

    def see(self, step: int, value: float) -> Trouble | None:
        """Take in a value. See `Detector.see`."""
        if value - value != 0:
            return None
        ordered = self._sorted
        # Most values lie below the greatest twentieth, which is below the ceiling.
        if (
            len(ordered) < _LEAST_ROWS
            or value <= ordered[len(ordered) * 19 // 20]
            or value <= self._ceiling()
        ):
            self._add(step, value)
            if self._recent:
                self._recent = self._recent << 1 & _RECENT
                if not self._recent:
                    self._take_held()
            if self._calm is not None:
                self._calm += 1
                if self._calm >= _CALM_ROWS:
                    self._calm = None
            return None
        self._recent = (self._recent << 1 | 1) & _RECENT
        self._held.append((step, value))
        if self._recent.bit_count() < _RECENT_BITS:
            return None
        usual = ordered[len(ordered) >> 1]
        self._recent = 0
        self._take_held()
        is_news = self._calm is None and _is_later(step, self.told_step)
        self._calm = 0
        if not is_news:
            return None
        self.told_step = step
        text = f"{self._metric} is {value:.5g} at step {step}; it was {usual:.5g} (median) before"
        return Trouble(f"{self._metric} has jumped to {value:.4g}", text)

    def rewind(self, step: int) -> None:
        """Forget what was later: it is to be trained again. See `Detector.rewind`."""
        self._in_order = deque(known for known in self._in_order if known[0] < step)
        self._sorted = sorted(value for _, value in self._in_order)
        self._recent, self._calm = 0, None
        self._held.clear()
        self._note_median()

    def _take_held(self) -> None:
        for step, value in self._held:
            self._add(step, value)
        self._held.clear()

    def _add(self, step: int, value: float) -> None:
        ordered = self._sorted
        self._in_order.append((step, value))
        insort(ordered, value)
        if len(self._in_order) > _WINDOW:
            del ordered[bisect_left(ordered, self._in_order.popleft()[1])]
        self._note_median()

    def _note_median(self) -> None:
        ordered = self._sorted
        if len(ordered) >= _LEAST_ROWS:
            median = ordered[len(ordered) >> 1]
            if self._highest is None or median > self._highest:
                self._highest = median

    def _ceiling(self) -> float:
        """Return what a value must exceed to be far above; once there are enough of them."""
        ordered = self._sorted
        median, high = ordered[len(ordered) >> 1], ordered[len(ordered) * 19 // 20]
        # A few values that are beyond all others say nothing of what is usual.
        top = min(ordered[-1], high + _REACH * (high - median))
        highest = median if self._highest is None else self._highest
        spread, gained, share = (top - median) / 2, (highest - median) / 10, abs(median) / 10
        return top + max(spread, gained, share)

    def state(self) -> dict[str, Any]:
        """Return what it knows."""
        return {
            "told_step": self.told_step,
            "values": list(self._in_order),
            "highest": self._highest,
            "recent": self._recent,
            "held": self._held,
            "calm": self._calm,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Know it again."""
        known = [(int(step), float(value)) for step, value in state["values"]][-_WINDOW:]
        self._held = [(int(step), float(value)) for step, value in state["held"]]
        self._highest = None if state["highest"] is None else float(state["highest"])
        self._in_order, self._sorted = deque(known), sorted(value for _, value in known)
        self._recent = int(state["recent"]) & _RECENT
        self.told_step, self._calm = _whole(state["told_step"]), _whole(state["calm"])
        self._note_median()


class RuleWatch:
    """Tell of a metric that meets a user's rule. Threads: as `Detector`."""

    kind = "rule"

    def __init__(self, rule: Rule) -> None:
        """Watch for `rule`."""
        self._rule = rule
        self.cause = f"rule:{rule.text}"
        self.told_step: int | None = None
        self._held_rows = 0
        self._calm: int | None = None

    def see(self, step: int, value: float) -> Trouble | None:
        """Take in a value. See `Detector.see`."""
        rule = self._rule
        if rule.after_step is not None and step <= rule.after_step:
            return None
        if not rule.holds(value):
            self._held_rows = 0
            if self._calm is not None:
                self._calm += 1
                if self._calm >= max(_CALM_ROWS, rule.rows):
                    self._calm = None
            return None
        self._held_rows += 1
        if self._held_rows < rule.rows:
            return None
        is_news = self._calm is None and _is_later(step, self.told_step)
        self._calm = 0
        if not is_news:
            return None
        self.told_step = step
        rows = "" if rule.rows == 1 else f", {rule.rows} rows in a row"
        return Trouble(rule.text, f"{rule.metric} is {value:.5g} at step {step}{rows}: {rule.text}")

    def rewind(self, step: int) -> None:
        """Be over what was. See `Detector.rewind`."""
        self._held_rows, self._calm = 0, None

    def state(self) -> dict[str, Any]:
        """Return what it knows."""
        return {"told_step": self.told_step, "held_rows": self._held_rows, "calm": self._calm}

    def restore(self, state: dict[str, Any]) -> None:
        """Know it again."""
        self._held_rows = int(state["held_rows"])
        self.told_step, self._calm = _whole(state["told_step"]), _whole(state["calm"])


def _is_later(step: int, told_step: int | None) -> bool:
    return told_step is None or step > told_step


def _whole(value: Any) -> int | None:
    return None if value is None else int(value)
