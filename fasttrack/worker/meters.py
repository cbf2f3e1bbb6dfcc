"""Throughput and the distribution of step times over one log interval."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from fasttrack.hotpath.records import MOST_TICKS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class StepMeter:
    """Turn the clock readings of the training steps into `perf/` metrics.

    Threads: worker only.
    """

    def __init__(self, world_size: Callable[[], int], most_ticks: int = MOST_TICKS) -> None:
        """Meter steps.

        Args:
            world_size: asked once, when the first interval is complete.
            most_ticks: steps of one interval that are kept: of so many, some fell out.
        """
        self._ask_world_size = world_size
        self._most_ticks = most_ticks
        self._world_size = 0
        self._last_s: float | None = None

    def measure(self, ticks: Sequence[tuple[float, Any]]) -> dict[str, float]:
        """Return the metrics of the interval that ends with the last of `ticks`.

        Args:
            ticks: (`time.perf_counter()` in seconds, batch size) of each step since the last call.

        Returns:
            `perf/steps_per_sec`; `perf/samples_per_sec` over all ranks, where every batch size is
            a number; `perf/step_time_ms/p50`, `/p99` (nearest rank) and `/max`. Empty for the
            first step of a run: no interval has ended yet.
        """
        if not ticks:  # another thread's call took this one's
            return {}
        times = [at_s for at_s, _ in ticks]
        batches = [batch_size for _, batch_size in ticks]
        if self._last_s is None or len(ticks) >= self._most_ticks:  # the first, or some fell out
            del batches[0]
        else:
            times.insert(0, self._last_s)
        self._last_s = times[-1]
        elapsed_s = times[-1] - times[0]
        if elapsed_s <= 0:
            return {}
        if not self._world_size:
            self._world_size = self._ask_world_size()
        steps = len(batches)
        metrics = {"perf/steps_per_sec": steps / elapsed_s}
        samples = _total(batches)
        if samples is not None:
            metrics["perf/samples_per_sec"] = samples * self._world_size / elapsed_s
        durations = sorted([(b - a) * 1e3 for a, b in itertools.pairwise(times)])
        metrics["perf/step_time_ms/p50"] = durations[math.ceil(0.50 * steps) - 1]
        metrics["perf/step_time_ms/p99"] = durations[math.ceil(0.99 * steps) - 1]
        metrics["perf/step_time_ms/max"] = durations[-1]
        return metrics


def _total(batches: Sequence[Any]) -> float | None:
    # None where a batch size is unknown: a tensor is not read, that could wait for the device.
    if any(not issubclass(kind, (int, float, np.integer)) for kind in set(map(type, batches))):
        return None
    return float(sum(batches))
