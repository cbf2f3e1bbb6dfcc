"""Follow the training steps of a run's attempts, and keep account of which of them stayed.

What each sum means is said in `figures.py`. One pass in the order of the journal; of each row that
stays a step and a time are held, 16 bytes.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

from fasttrack.goodput.figures import AttemptGoodput, Goodput

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fasttrack.journal.entries import Unlogged

_MOST_SAMPLES = 1024  # intervals that tell how long a step of an attempt usually takes
_UNWRITTEN_S = 1.0  # of training that a kill may keep from the journal, generously
_NOTED_AFTER_S = 1.0  # a pause is noted once it has lasted so long


class Account:
    """Take in attempts one after another, each with its rows, and tell the run's goodput.

    Threads: one at a time.
    """

    def __init__(self, *, all_rows: bool = False) -> None:
        """Begin with nothing.

        Args:
            all_rows: whether the rows are not known to be of training steps: then one that lies
                behind an earlier one of its attempt is passed over, instead of beginning anew.
        """
        self._all_rows = all_rows
        self._attempts: list[_Attempt] = []
        self._standing: list[_Stretch] = []  # what has not been lost, each further than the last

    def begin(self, number: int, began_s: float) -> None:
        """Begin with attempt `number`, whose tracker was made at the unix time `began_s`."""
        self._attempts.append(_Attempt(number, began_s, last_s=began_s))

    def take_unlogged(self, told: Unlogged) -> None:
        """Take in what is said of steps before the attempt's first row, or after its last."""
        attempt = self._attempts[-1]
        if attempt.first_step is None:
            attempt.head = told
        attempt.tail = told

    def take_pause(self, *, begins: bool, time_s: float) -> None:
        """Take in that a marked pause that takes a while was noted, or that it was over."""
        self._attempts[-1].pause_notes.append((begins, time_s))

    def take_rows(
        self, steps: Sequence[int], times_s: Sequence[float], pauses_s: Mapping[int, float]
    ) -> None:
        """Take in rows of training steps, in order.

        Args:
            steps: their numbers.
            times_s: when they ended, in unix time.
            pauses_s: by the row's place, how long it paused since the row before.
        """
        if not steps:
            return
        attempt, start = self._attempts[-1], 0
        if attempt.first_step is None:
            self._begin_training(attempt, steps[0], times_s[0], pauses_s.get(0, 0.0))
            start = 1
        stretch, last_s, samples = self._standing[-1], attempt.last_s, attempt.samples
        last, total_s = stretch.steps[-1], stretch.ends_s[-1]
        for place in range(start, len(steps)):
            step, took_s = steps[place], times_s[place] - last_s
            if step < last and self._all_rows:
                continue
            last_s = times_s[place]
            if took_s < 0 or place in pauses_s:
                took_s = attempt.trained_s(took_s, pauses_s.get(place, 0.0))
            if step > last:
                total_s += took_s
                if len(samples) < _MOST_SAMPLES:
                    samples.append(took_s / (step - last))
                if step - last > attempt.apart:
                    attempt.apart = step - last
                stretch.steps.append(step)
                stretch.ends_s.append(total_s)
            elif step == last:  # logged again: its micro-batches, say
                total_s += took_s
                stretch.ends_s[-1] = total_s
            else:
                stretch, total_s = self._begin_stretch(attempt, step, took_s), took_s
            last = step
        attempt.last_s, attempt.last_step = last_s, last
        attempt.pause_notes.clear()
        attempt.tail = None

    def end(self, ended_s: float, *, finished: bool, last_step: int | None = None) -> None:
        """End the attempt.

        Args:
            ended_s: its last sign of life.
            finished: whether it said itself that it ended.
            last_step: the number of its last training step, where that is known.
        """
        attempt = self._attempts[-1]
        attempt.finished = finished
        if attempt.tail is not None:
            self._take_tail(attempt, attempt.tail, last_step)
        else:
            attempt.pause_as_noted(ended_s)
        attempt.ended_s = max(ended_s, attempt.last_s)

    def told(self) -> Goodput:
        """Return the run's goodput, of all attempts that have ended."""
        found: list[AttemptGoodput] = []
        for stretch in self._standing:
            stretch.attempt.kept_s += stretch.ends_s[-1]
            stretch.attempt.kept_steps += stretch.steps[-1] - stretch.steps[0] + 1
        alive_s = self._attempts[0].began_s if self._attempts else 0.0
        begin_s = alive_s
        for attempt in self._attempts:
            down_s = max(0.0, attempt.began_s - alive_s)
            found.append(attempt.told(down_s, is_restart=bool(found)))
            alive_s = max(alive_s, attempt.ended_s)
        self._attempts, self._standing = [], []
        return Goodput(attempts=tuple(found), wall_s=alive_s - begin_s, all_rows=self._all_rows)

    # --- parts --------------------------------------------------------------------------------

    def _begin_training(self, attempt: _Attempt, step: int, time_s: float, paused_s: float) -> None:
        """Begin with an attempt's first row; steps before it may have been told of."""
        head = attempt.head
        first, first_s = (step, time_s) if head is None else (step - head.steps, head.first_s)
        self._begin_stretch(attempt, first, 0.0)
        attempt.first_step = attempt.last_step = first
        attempt.first_step_s = attempt.last_s = first_s
        if first < step:
            self._go_on(attempt, step, attempt.trained_s(time_s - first_s, paused_s))
            attempt.last_s = max(time_s, first_s)

    def _begin_stretch(self, attempt: _Attempt, step: int, took_s: float) -> _Stretch:
        """Begin at `step`: what was trained from there on is lost."""
        while self._standing and self._standing[-1].steps[-1] >= step:
            if self._standing[-1].cut(step):
                break
            self._standing.pop()
        if attempt.first_step is None:
            self._go_on_unseen(step)
        stretch = _Stretch(attempt, step, took_s)
        self._standing.append(stretch)
        return stretch

    def _go_on(self, attempt: _Attempt, step: int, took_s: float) -> None:
        """Have the steps up to `step` behind the last one, without a row for each."""
        stretch = self._standing[-1]
        count = step - stretch.steps[-1]
        if len(attempt.samples) < _MOST_SAMPLES:
            attempt.samples.append(took_s / count)
        stretch.steps.append(step)
        stretch.ends_s.append(stretch.ends_s[-1] + took_s)
        attempt.last_step = step

    def _go_on_unseen(self, step: int) -> None:
        """Count the steps in front of `step` that a killed attempt must have trained unseen."""
        if not self._standing:
            return
        attempt = self._standing[-1].attempt
        unseen = step - 1 - self._standing[-1].steps[-1]
        usual_s = attempt.usual_s
        most = attempt.apart + (int(_UNWRITTEN_S / usual_s) if usual_s else 0)
        if attempt.finished or not 0 < unseen <= most:
            return
        following = self._attempts[self._attempts.index(attempt) + 1]
        took_s = min(unseen * usual_s, max(0.0, following.began_s - attempt.last_s))
        self._standing[-1].steps.append(step - 1)
        self._standing[-1].ends_s.append(self._standing[-1].ends_s[-1] + took_s)
        attempt.last_step = step - 1
        attempt.unseen_steps = unseen
        attempt.last_s += took_s
        attempt.ended_s = max(attempt.ended_s, attempt.last_s)

    def _take_tail(self, attempt: _Attempt, tail: Unlogged, last_step: int | None) -> None:
        """Take in what there was after the attempt's last row, or where it has none at all."""
        if tail.steps and attempt.first_step is None:
            if last_step is None:
                return
            attempt.head = None
            self._begin_training(attempt, last_step - tail.steps + 1, tail.first_s, 0.0)
            if tail.steps > 1:
                self._go_on(attempt, last_step, tail.trained_s)
        elif tail.steps and attempt.last_step is not None:
            known = last_step is not None and last_step > attempt.last_step
            step = last_step if known else attempt.last_step + tail.steps
            assert step is not None
            self._go_on(attempt, step, tail.trained_s)
        within_s = max(0.0, tail.last_s - attempt.last_s - tail.trained_s) if tail.steps else 0.0
        if tail.steps:
            attempt.last_s = max(attempt.last_s, tail.last_s)
        attempt.pause(tail.pause_s)
        attempt.pause_behind_s = max(0.0, tail.pause_s - within_s)


@dataclass(slots=True, eq=False)
class _Attempt:
    """What is known of one attempt so far."""

    number: int
    began_s: float
    last_s: float
    """When the last step that is known ended."""
    ended_s: float = 0.0
    finished: bool = False
    first_step: int | None = None
    last_step: int | None = None
    first_step_s: float | None = None
    """When the first step ended."""
    samples: array[float] = field(default_factory=lambda: array("d"))
    """Of intervals between rows, how long each of their steps took."""
    apart: int = 1
    """The most steps from one row to the next."""
    head: Unlogged | None = None
    tail: Unlogged | None = None
    pause_notes: list[tuple[bool, float]] = field(default_factory=list)
    """Since the last row."""
    pauses: int = 0
    pause_s: float = 0.0
    pause_behind_s: float = 0.0
    """Of `pause_s`, what was after the last step."""
    kept_steps: int = 0
    lost_steps: int = 0
    unseen_steps: int = 0
    kept_s: float = 0.0
    lost_s: float = 0.0
    lost_first: bool = False
    """Whether the step that it began with is lost."""

    @property
    def usual_s(self) -> float:
        """How long a step usually takes; 0 where that is not known."""
        return median(self.samples) if self.samples else 0.0

    def trained_s(self, took_s: float, paused_s: float) -> float:
        """Return how long of `took_s` was training, and count the pause in it."""
        took_s = max(0.0, took_s)  # the clock may have been set
        paused_s = min(paused_s, took_s) if paused_s > 0 else 0.0  # NaN is none
        self.pause(paused_s)
        return took_s - paused_s

    def pause(self, paused_s: float) -> None:
        """Count a pause."""
        if paused_s > 0:
            self.pauses += 1
            self.pause_s += paused_s

    def pause_as_noted(self, ended_s: float) -> None:
        """Count the pauses that were noted after the last row of an attempt that was killed."""
        since_s: float | None = None
        for begins, time_s in [*self.pause_notes, (False, ended_s)]:
            if begins:
                since_s = max(self.last_s, time_s - _NOTED_AFTER_S)
            elif since_s is not None:
                self.pause(max(0.0, time_s - since_s))
                self.pause_behind_s += max(0.0, time_s - since_s)
                since_s = None

    def told(self, down_s: float, *, is_restart: bool) -> AttemptGoodput:
        """Return its figures."""
        first_s, ending_s = 0.0, 0.0
        starting_s = max(0.0, self.ended_s - self.began_s - self.pause_s)
        if self.first_step_s is not None:
            first_s = min(self.usual_s, max(0.0, self.first_step_s - self.began_s))
            starting_s = max(0.0, self.first_step_s - self.began_s - first_s)
            ending_s = max(0.0, self.ended_s - self.last_s - self.pause_behind_s)
        return AttemptGoodput(
            attempt=self.number,
            began_s=self.began_s,
            ended_s=self.ended_s,
            first_step=self.first_step,
            last_step=self.last_step,
            kept_steps=self.kept_steps,
            lost_steps=self.lost_steps,
            unseen_steps=self.unseen_steps,
            first_step_s=None if self.first_step_s is None else self.first_step_s - self.began_s,
            pauses=self.pauses,
            kept_s=self.kept_s + (0.0 if self.lost_first else first_s),
            lost_s=self.lost_s + (first_s if self.lost_first else 0.0),
            pause_s=self.pause_s,
            down_s=down_s,
            starting_s=starting_s,
            ending_s=ending_s,
            restart_s=down_s + starting_s if is_restart else 0.0,
        )


class _Stretch:
    """Steps that followed one another, as far as they stand."""

    __slots__ = ("attempt", "ends_s", "is_first", "steps")

    def __init__(self, attempt: _Attempt, step: int, took_s: float) -> None:
        self.attempt = attempt
        self.is_first = attempt.first_step is None
        self.steps = array("q", (step,))
        self.ends_s = array("d", (took_s,))
        """How long training had taken in this stretch when each step ended."""

    def cut(self, step: int) -> bool:
        """Lose `step`, which stands, or one behind it does, and all behind it.

        Returns:
            Whether anything stays.
        """
        steps, ends_s, attempt = self.steps, self.ends_s, self.attempt
        kept = bisect_left(steps, step)
        before, before_s = steps[0] - 1, 0.0
        if kept:
            before, before_s = step - 1, ends_s[kept - 1]
            apart = steps[kept] - steps[kept - 1]
            before_s += (ends_s[kept] - before_s) * (before - steps[kept - 1]) / apart
        elif self.is_first:
            attempt.lost_first = True
        attempt.lost_steps += steps[-1] - before
        attempt.lost_s += ends_s[-1] - before_s
        del steps[kept:], ends_s[kept:]
        if kept and steps[-1] < before:
            steps.append(before)
            ends_s.append(before_s)
        return bool(kept)
