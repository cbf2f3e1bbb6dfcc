"""How long the logging calls take, from a sample of them.

Measuring must cost a small part of what it measures: of the calls that log something, one in
`LOGGED_EVERY`, of those of `log_metrics` one in `METRICS_EVERY` is timed; of the far cheaper ones
that log nothing, one in `SKIPPED_EVERY` steps. Times run from the entry of the method to its end;
what it costs to call a method, and to build its arguments, is not in them.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections import deque
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence

# log_training_step that logs, that does not; log_metrics; the first of those that log. That one is
# timed so that there is a time from then on; it finds nothing in the caches, and stands for itself.
LOGGED, SKIPPED, METRICS, FIRST = range(4)

LOGGED_EVERY = METRICS_EVERY = 8  # calls
SKIPPED_EVERY = 17  # steps; a prime, so that it falls out of step with any interval
_WEIGHTS = (LOGGED_EVERY, SKIPPED_EVERY, METRICS_EVERY, 1)
_KEPT = 128  # they are sorted under the GIL

Timed: TypeAlias = "tuple[int, float, float]"
"""The kind of a call, the seconds that it took, and the `perf_counter` at which it was entered."""


class CallMeter:
    """The last timed calls.

    Threads: callers append to `timed`; the rest on any.
    """

    def __init__(self) -> None:
        """Start without a timed call."""
        self.timed: deque[Timed] = deque(maxlen=_KEPT)

    def mean_s(self, kind: int, since_s: float = -math.inf) -> float | None:
        """Return the mean of one kind's timed calls, in seconds; None where there is none.

        Args:
            kind: LOGGED, SKIPPED or METRICS.
            since_s: earlier calls do not count (`time.perf_counter()`).
        """
        timed = self.timed.copy()
        chosen = [seconds for a_kind, seconds, at_s in timed if a_kind == kind and at_s >= since_s]
        return sum(chosen) / len(chosen) if chosen else None

    def percentiles_us(self) -> tuple[float, float] | None:
        """Return p50 and p99 over all calls, in microseconds; None before the first.

        Every timed call stands for as many as were not timed beside it (nearest rank).
        """
        timed = list(self.timed)
        if not timed:
            return None
        weights = [_WEIGHTS[call[0]] for call in timed]
        seconds = [call[1] for call in timed]
        reached: Sequence[int]
        if weights.count(weights[0]) == len(weights):  # as a rule; this is done in most rounds
            seconds.sort()
            reached = range(weights[0], sum(weights) + 1, weights[0])
        else:
            order = sorted(range(len(seconds)), key=seconds.__getitem__)
            seconds = [seconds[i] for i in order]
            reached = list(itertools.accumulate([weights[i] for i in order]))
        p50, p99 = (bisect.bisect_left(reached, share * reached[-1]) for share in (0.50, 0.99))
        return seconds[p50] * 1e6, seconds[p99] * 1e6
