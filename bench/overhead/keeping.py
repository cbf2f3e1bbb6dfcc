"""What it costs, after a real step, to keep a CPU loss until the worker reads it.

The measurement behind hotpath/capture.py's snapshot; all ways are taken in turns in one loop.
"""

from __future__ import annotations

import statistics
import time
from array import array
from collections import deque
from typing import TYPE_CHECKING, Any

from bench.lib.measure import US, percentile
from bench.lib.scalars import LOSS
from bench.lib.workload import Workload

if TYPE_CHECKING:
    from collections.abc import Callable

KEEP: dict[str, Callable[[Any], object]] = {
    "`tensor.item()`": lambda tensor: tensor.item(),
    "`tensor.detach().clone()`": lambda tensor: tensor.detach().clone(),
    "`tensor.detach()`": lambda tensor: tensor.detach(),
}


def keeping_a_tensor(steps_each: int) -> list[list[str]]:
    """Return, for each way to keep a CPU loss, its p50 and p99 in microseconds after real steps.

    What was kept stays alive for 160 steps, as it does until the worker's next round.
    """
    work, clock = Workload(), time.perf_counter
    seconds: dict[str, array[float]] = {name: array("d") for name in KEEP}
    empty: array[float] = array("d")
    kept: deque[object] = deque(maxlen=160)
    for step in range(50):
        work.step(step)
    for step in range(steps_each):
        for name, keep in KEEP.items():
            loss = work.step(step)[LOSS]
            before = clock()
            start = clock()
            value = keep(loss)
            end = clock()
            kept.append(value)
            seconds[name].append(end - start)
            empty.append(start - before)
    clock_s = statistics.median(empty)
    return [
        [name, *(f"{(percentile(taken, p) - clock_s) * US:.2f}" for p in (50, 99))]
        for name, taken in seconds.items()
    ]
