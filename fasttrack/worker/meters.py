"""Throughput, pauses and the distribution of step times over one log interval."""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np

from fasttrack.hotpath.advice import describe
from fasttrack.hotpath.records import OddSize, WithTokens
from fasttrack.notices import spell
from fasttrack.worker.intervals import PhaseTimes, gaps, sort_ticks

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fasttrack.hotpath.records import Ticks
    from fasttrack.worker.utilization import Utilization

SAMPLES_PER_SEC = "perf/samples_per_sec"
TOKENS_PER_SEC = "perf/tokens_per_sec"
PHASES = "perf/phase_pct/"
_MOST = 1e18  # samples or tokens
_WRONG = {  # the argument behind each of the two, what it must be, and what to pass
    SAMPLES_PER_SEC: ("batch_size", "samples", "len(batch)"),
    TOKENS_PER_SEC: ("tokens", "tokens", "input_ids.numel()"),
}
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
        utilization: Utilization | None = None,
    ) -> None:
        """Meter steps.

        Args:
            world_size: asked once, when the first interval is complete.
            refuse: told (metric, why) where batch sizes are wrong.
            find_pauses: whether steps that took far longer than usual hold a pause; False: only
                marked ones count. Time in a phase is none.
            utilization: told the throughput, where what it makes of it is wanted.
        """
        self._ask_world_size = world_size
        self._refuse = refuse
        self._find_pauses = find_pauses
        self.utilization = utilization
        """Told the throughput; None: nobody."""
        self._world_size = 0
        self._usual = False  # whether an interval of one step may be as most are
        self._phases = PhaseTimes()
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
        self.phases_s: dict[str, float] = {}
        """Seconds of the last interval in each phase, if there ever was one."""

    def measure(self, ticks: Ticks) -> dict[str, float]:
        """Return the metrics of the interval that ends with the last of `ticks`.

        Args:
            ticks: (`time.perf_counter()` in seconds, batch size) of each step since the last call,
                and what else is noted among them (`hotpath/records.py`).

        Returns:
            `perf/steps_per_sec`; `perf/samples_per_sec` and `perf/tokens_per_sec` over all ranks,
            where each of the steps has such a number; what `utilization` makes of these;
            `perf/pause_s`, which is in none of them, where there was a pause; `perf/phase_pct/...`;
            `perf/step_time_ms/p50`, `/p99` (nearest rank) and `/max`. Empty for the first step of a
            run: no interval has ended yet.
        """
        metrics: dict[str, float] = {}
        if len(ticks) == 1 and self.add_usual(metrics, *ticks[0]):
            return metrics
        times, batches, pauses, marks, fell_out = sort_ticks(ticks)
        self.steps, self.paused_s, self.phases_s = len(times), 0.0, {}
        if times:
            if self.last_s is None and not fell_out:
                self.before_first = times[:-1]
            if self.last_s is None or fell_out:
                del batches[0]
            else:
                times.insert(0, self.last_s)
            self.last_s = times[-1]
        in_steps: list[float] = []
        if marks or self._phases:
            if fell_out:
                self._phases.forget_open()
            self.phases_s, in_steps = self._phases.take(marks, times, pauses)
            self._usual = False
        # Without times another thread's call took this one's.
        elapsed_s = times[-1] - times[0] if times else 0.0
        if elapsed_s <= 0:
            return {}
        durations, self.paused_s = gaps(times, pauses)
        if self._find_pauses:
            outside = [a - b for a, b in zip(durations, in_steps, strict=True)] if in_steps else []
            self.paused_s += self._unmarked_s(outside or durations)
        return self._rates(elapsed_s - self.paused_s, durations, batches)

    def add_usual(self, metrics: dict[str, float], at_s: float, batch_size: Any) -> bool:
        """Add the metrics of an interval of one step, where nothing is to be looked into.

        Returns:
            Whether that is so. If not, nothing has changed, and `measure` has to look.
        """
        if type(batch_size) is not int or self.last_s is None or not self._usual:
            return False
        took_s = at_s - self.last_s
        if not (0 < took_s <= _SHORTEST_PAUSE_S and 0 <= batch_size < _MOST):
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
            self._add_throughput(metrics, trained_s, batches)
        if self.paused_s > 0:
            metrics["perf/pause_s"] = self.paused_s
        if trained_s > 0:
            for name, in_phase_s in self.phases_s.items():
                metrics[PHASES + name] = min(100.0, 100 * in_phase_s / trained_s)
        ordered = sorted(durations)
        metrics["perf/step_time_ms/p50"] = ordered[math.ceil(0.50 * steps) - 1] * 1e3
        metrics["perf/step_time_ms/p99"] = ordered[math.ceil(0.99 * steps) - 1] * 1e3
        metrics["perf/step_time_ms/max"] = ordered[-1] * 1e3
        return metrics

    def _add_throughput(
        self, metrics: dict[str, float], trained_s: float, batches: Sequence[Any]
    ) -> None:
        tokens = None
        if WithTokens in set(map(type, batches)):
            counts = [size.tokens if type(size) is WithTokens else None for size in batches]
            batches = [size.batch_size if type(size) is WithTokens else size for size in batches]
            tokens = self._total(counts, TOKENS_PER_SEC)
        samples = self._total(batches, SAMPLES_PER_SEC)
        if not self._world_size and not (tokens is None and samples is None):
            self._world_size = self._ask_world_size()
            self._usual = not self._phases and not self.utilization
        rates: list[float | None] = []
        for name, total in ((SAMPLES_PER_SEC, samples), (TOKENS_PER_SEC, tokens)):
            if total is not None:
                metrics[name] = total * self._world_size / trained_s
            rates.append(None if total is None else total / trained_s)
        if self.utilization:
            metrics.update(self.utilization.metrics(rates[1], rates[0]))

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

    def _total(self, batches: Sequence[Any], metric: str) -> float | None:
        # None where a number is unknown: a tensor is not read, that could wait for the device.
        kinds = set(map(type, batches))
        if type(None) in kinds:
            return None
        if kinds == {int} and min(batches) >= 0 and max(batches) < _MOST:
            return float(sum(batches))
        wrong = next((size for size in batches if not _is_size(size)), None)
        if wrong is None:
            return math.fsum(batches)  # not sum(): NumPy's narrow integers overflow
        number = type(wrong) is int or issubclass(type(wrong), np.number)
        what = str(wrong) if type(wrong) is OddSize else spell(wrong) if number else describe(wrong)
        argument, of_what, instead = _WRONG[metric]
        self._refuse(
            metric,
            f"{argument} must be this rank's number of {of_what}, not {what}; pass an int, such as "
            f"{instead}",
        )
        return None


def _is_size(size: Any) -> bool:
    if type(size) is bool or not issubclass(type(size), _NUMBERS):
        return False
    try:
        return 0 <= float(size) < _MOST
    except Exception:  # too large for a float, or a number of the user's own class
        return False
