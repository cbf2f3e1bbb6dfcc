"""Throughput, pauses and the distribution of step times over one log interval."""

from __future__ import annotations

import itertools
import math
from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np

from fasttrack.hotpath.advice import describe
from fasttrack.hotpath.records import FellOut, OddSize, PausedSince
from fasttrack.notices import spell

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fasttrack.hotpath.records import Ticks

SAMPLES_PER_SEC = "perf/samples_per_sec"
_MOST_SAMPLES = 1e18
_NUMBERS = (int, float, np.integer, np.floating)

# What is taken for a pause where nobody marked one. Evaluations and checkpoints take many times as
# long as a step and are rare; a slow optimizer step after some micro-batches is neither as a rule.
_RECENT = 64  # steps, beside those of the interval, that tell how long a step usually takes
_FEWEST = 5  # steps below which nothing is usual
_SHORTEST_PAUSE_S = 0.5
_TIMES_THE_MEDIAN = 10
_TIMES_IF_FREQUENT = 50
_FREQUENT = 1 / 9  # long steps among all: one in ten is an evaluation after every log interval
_MOST_IN_A_ROW = 2  # an evaluation and a checkpoint; more is how long steps take from now on


class StepMeter:
    """Turn the clock readings of the training steps into `perf/` metrics.

    Threads: worker only.
    """

    def __init__(
        self,
        world_size: Callable[[], int],
        refuse: Callable[[str, str], None],
        *,
        find_pauses: bool = True,
    ) -> None:
        """Meter steps.

        Args:
            world_size: asked once, when the first interval is complete.
            refuse: told (metric, why) where batch sizes are wrong.
            find_pauses: whether steps that took far longer than usual hold a pause; False: only
                marked ones count.
        """
        self._ask_world_size = world_size
        self._refuse = refuse
        self._find_pauses = find_pauses
        self._world_size = 0
        self.last_s: float | None = None
        """When the last step ended that was in an interval; None before the first."""
        self._recent: deque[float] = deque(maxlen=_RECENT)  # seconds of the last steps
        self._long_in_a_row = 0
        self.before_first: list[float] = []
        """When the steps in front of the first logged one ended; whoever looks empties it."""
        self.steps = 0
        """How many ended in the last interval, whether or not it is known when they began."""
        self.paused_s = 0.0
        """Seconds of the last interval that were no training."""

    def measure(self, ticks: Ticks) -> dict[str, float]:
        """Return the metrics of the interval that ends with the last of `ticks`.

        Args:
            ticks: (`time.perf_counter()` in seconds, batch size) of each step since the last call,
                and (end, `PausedSince`) of each pause; first `FellOut` where some are missing.

        Returns:
            `perf/steps_per_sec`; `perf/samples_per_sec` over all ranks, where every batch size is
            a number; `perf/pause_s`, which is in neither, where there was a pause;
            `perf/step_time_ms/p50`, `/p99` (nearest rank) and `/max`. Empty for the first step of a
            run: no interval has ended yet.
        """
        metrics: dict[str, float] = {}
        if len(ticks) == 1 and self.add_usual(metrics, *ticks[0]):
            return metrics
        fell_out = bool(ticks) and ticks[0][1] is FellOut
        if fell_out:
            ticks = ticks[1:]
        batches = [batch_size for _, batch_size in ticks]
        times = [at_s for at_s, _ in ticks]
        pauses: list[tuple[float, float]] = []
        if PausedSince in map(type, batches):
            pauses = sorted([(float(b), at) for at, b in ticks if type(b) is PausedSince])
            times = [at_s for at_s, batch_size in ticks if type(batch_size) is not PausedSince]
            batches = [batch_size for batch_size in batches if type(batch_size) is not PausedSince]
        self.steps, self.paused_s = len(times), 0.0
        if not times:  # another thread's call took this one's
            return {}
        if self.last_s is None and not fell_out:
            self.before_first = times[:-1]
        if self.last_s is None or fell_out:
            del batches[0]
        else:
            times.insert(0, self.last_s)
        self.last_s = times[-1]
        elapsed_s = times[-1] - times[0]
        if elapsed_s <= 0:
            return {}
        durations, self.paused_s = gaps(times, pauses)
        if self._find_pauses:
            self.paused_s += self._unmarked_s(durations)
        return self._rates(elapsed_s - self.paused_s, durations, batches)

    def add_usual(self, metrics: dict[str, float], at_s: float, batch_size: Any) -> bool:
        """Add the metrics of an interval of one step, where nothing is to be looked into.

        Returns:
            Whether that is so. If not, nothing has changed, and `measure` has to look.
        """
        if type(batch_size) is not int or self.last_s is None or not self._world_size:
            return False
        took_s = at_s - self.last_s
        if not (0 < took_s <= _SHORTEST_PAUSE_S and 0 <= batch_size < _MOST_SAMPLES):
            return False
        self.last_s = at_s
        self.steps, self.paused_s = 1, 0.0
        if self._find_pauses:
            self._long_in_a_row = 0
            self._recent.append(took_s)
        metrics["perf/steps_per_sec"] = 1 / took_s
        metrics[SAMPLES_PER_SEC] = float(batch_size) * self._world_size / took_s
        took_ms = took_s * 1e3
        metrics["perf/step_time_ms/p50"] = took_ms
        metrics["perf/step_time_ms/p99"] = took_ms
        metrics["perf/step_time_ms/max"] = took_ms
        return True

    def _rates(
        self, trained_s: float, durations: list[float], batches: Sequence[Any]
    ) -> dict[str, float]:
        metrics: dict[str, float] = {}
        steps = len(durations)
        if trained_s > 0:
            metrics["perf/steps_per_sec"] = steps / trained_s
            samples = self._total(batches)
            if samples is not None:
                if not self._world_size:
                    self._world_size = self._ask_world_size()
                metrics[SAMPLES_PER_SEC] = samples * self._world_size / trained_s
        if self.paused_s > 0:
            metrics["perf/pause_s"] = self.paused_s
        ordered = sorted(durations)
        metrics["perf/step_time_ms/p50"] = ordered[math.ceil(0.50 * steps) - 1] * 1e3
        metrics["perf/step_time_ms/p99"] = ordered[math.ceil(0.99 * steps) - 1] * 1e3
        metrics["perf/step_time_ms/max"] = ordered[-1] * 1e3
        return metrics

    def _unmarked_s(self, durations: list[float]) -> float:
        """Return for how long the steps paused, as it seems, beyond what a step usually takes."""
        paused_s = 0.0
        if max(durations) > _SHORTEST_PAUSE_S:
            known = sorted([*self._recent, *durations])
            usual_s = known[len(known) // 2]
            longest_s = max(_SHORTEST_PAUSE_S, _TIMES_THE_MEDIAN * usual_s)
            if sum([seconds > longest_s for seconds in known]) > _FREQUENT * len(known):
                longest_s = max(longest_s, _TIMES_IF_FREQUENT * usual_s)
            for seconds in durations if len(known) >= _FEWEST else ():
                self._long_in_a_row = self._long_in_a_row + 1 if seconds > longest_s else 0
                if 0 < self._long_in_a_row <= _MOST_IN_A_ROW:
                    paused_s += seconds - usual_s
        else:
            self._long_in_a_row = 0
        self._recent.extend(durations)
        return paused_s

    def _total(self, batches: Sequence[Any]) -> float | None:
        # None where a batch size is unknown: a tensor is not read, that could wait for the device.
        kinds = set(map(type, batches))
        if type(None) in kinds:
            return None
        if kinds == {int} and min(batches) >= 0 and max(batches) < _MOST_SAMPLES:
            return float(sum(batches))
        wrong = next((size for size in batches if not _is_size(size)), None)
        if wrong is None:
            return math.fsum(batches)  # not sum(): NumPy's narrow integers overflow
        number = type(wrong) is int or issubclass(type(wrong), np.number)
        what = str(wrong) if type(wrong) is OddSize else spell(wrong) if number else describe(wrong)
        self._refuse(
            SAMPLES_PER_SEC,
            f"batch_size must be this rank's number of samples, not {what}; pass an int, such as "
            "len(batch)",
        )
        return None


def _is_size(size: Any) -> bool:
    if type(size) is bool or not issubclass(type(size), _NUMBERS):
        return False
    try:
        return 0 <= float(size) < _MOST_SAMPLES
    except Exception:  # too large for a float, or a number of the user's own class
        return False


def gaps(times: list[float], pauses: list[tuple[float, float]]) -> tuple[list[float], float]:
    """Return the seconds from each of `times` to the next, without those in `pauses`; and these.

    Pauses are ordered by their beginning; they may hold or overlap one another, and steps.
    """
    if not pauses:
        return [b - a for a, b in itertools.pairwise(times)], 0.0
    merged: list[tuple[float, float]] = []
    for began_s, ended_s in pauses:
        if merged and began_s <= merged[-1][1]:
            began_s, ended_s = merged[-1][0], max(merged.pop()[1], ended_s)
        merged.append((began_s, ended_s))
    gaps, all_paused_s = [], 0.0
    first = 0
    for a, b in itertools.pairwise(times):
        while first < len(merged) and merged[first][1] <= a:
            first += 1
        paused_s = 0.0
        for began_s, ended_s in itertools.islice(merged, first, None):
            if began_s >= b:
                break
            paused_s += min(b, ended_s) - max(a, began_s)
        gaps.append(b - a - paused_s)
        all_paused_s += paused_s
    return gaps, all_paused_s
