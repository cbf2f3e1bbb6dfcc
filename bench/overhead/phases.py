"""What `with tracker.phase("data"):` costs after a real step, beside a block that marks nothing.

Pairs of steps of one training loop, which logs as most do: behind one stands the phase, behind the
other an empty block. Their difference is what marking takes: both have the same cold caches.
"""

from __future__ import annotations

import time
from contextlib import nullcontext

from bench.lib.measure import US, median_interval, percentile
from bench.lib.scalars import LOSS
from bench.lib.workload import Workload
from fasttrack import ExperimentTracker, Options

_WARM_STEPS = 50


def marking_a_phase(pairs: int) -> list[list[str]]:
    """Return of a phase, of an empty block and of their difference the times in microseconds."""
    work, clock = Workload(), time.perf_counter
    nothing = nullcontext()

    def block(step: int, *, marked: bool) -> float:
        loss = work.step(step)[LOSS]
        if marked:
            start = clock()
            with tracker.phase("data"):
                pass
            end = clock()
        else:
            start = clock()
            with nothing:
                pass
            end = clock()
        tracker.log_training_step(loss, step, work.batch_size, work.optimizer)
        return end - start

    marked_s, empty_s = [], []
    with ExperimentTracker("bench", options=Options(backends=("none",))) as tracker:
        for pair in range(_WARM_STEPS + pairs):
            order = (True, False) if pair % 2 else (False, True)
            taken = {marked: block(2 * pair + n, marked=marked) for n, marked in enumerate(order)}
            if pair >= _WARM_STEPS:
                marked_s.append(taken[True])
                empty_s.append(taken[False])
    added = [marked - empty for marked, empty in zip(marked_s, empty_s, strict=True)]
    median_us, low_us, high_us = (seconds * US for seconds in median_interval(added))
    alone = [
        [name, f"{percentile(taken, 50) * US:.2f}", f"{percentile(taken, 99) * US:.2f}"]
        for name, taken in (
            ('`with tracker.phase("data"):`', marked_s),
            ("an empty block", empty_s),
        )
    ]
    return [
        *alone,
        ["the phase's part [95%]", f"{median_us:.2f} [{low_us:.2f}, {high_us:.2f}]", ""],
    ]
