"""Measure one way of logging in this process, which is its own: rounds.py starts it.

It imports torch, builds and warms the workload, opens the run, waits until what that starts in the
background has started, logs some steps that do not count, measures the loop, closes the run, and
counts the rows that arrived in its files.
"""

from __future__ import annotations

import resource
import time
from typing import TYPE_CHECKING

from bench.compare.peers import PEERS
from bench.lib.measure import MS, TAILS, US, percentile, timed_loop
from bench.lib.processes import DescendantsWatch, cpu_s, memory_mb
from bench.lib.ways import COMPARED

if TYPE_CHECKING:
    from bench.lib.measure import LoopTimes

_TORCH_WARM_UP_S = 0.3
_WARM_UP_STEPS = 400  # with logging; these do not count
_WARM_UP_S = 1.0

KINDS = {**COMPARED, **PEERS}
"""All ways, in the tables' order."""


def measure(
    key: str, step_ms: str, metrics: int, steps: int, limit_s: float
) -> dict[str, float | list[float] | None]:
    """Return the figures of one way, units in their names.

    The loop ends after `steps`, or `limit_s` seconds.
    """
    from bench.lib.workload import SIZES, Workload  # here, not above: it imports torch

    work = Workload(SIZES[step_ms], metrics)
    timed_loop(work.step, lambda scalars, step: None, 0, steps, _TORCH_WARM_UP_S)
    start_rss_mb = memory_mb()
    way = KINDS[key].build(work)
    start_s = time.perf_counter()
    way.open()
    open_s = time.perf_counter() - start_s
    way.settle()
    warm_up = timed_loop(work.step, way.log, 0, min(_WARM_UP_STEPS, steps), _WARM_UP_S)
    first_step = len(warm_up.step_s)
    start_cpu_s = cpu_s()
    times = timed_loop(work.step, way.log, first_step, steps, limit_s)
    loop_cpu_s = cpu_s() - start_cpu_s
    peak_rss_mb = memory_mb("VmHWM")
    others = DescendantsWatch()
    others.look()
    start_s = time.perf_counter()
    way.close()
    finish_s = time.perf_counter() - start_s
    way.reap()
    done = len(times.step_s)
    return {
        "steps": done,
        **_loop_figures(times),
        "cpu_per_step_ms": loop_cpu_s / done * MS,
        "other_processes_cpu_s": cpu_s(resource.RUSAGE_CHILDREN),
        "other_processes_peak_rss_mb": others.total().peak_mb,
        "start_rss_mb": start_rss_mb,
        "peak_rss_mb": peak_rss_mb,
        "open_s": open_s,
        "finish_s": finish_s,
        "rows_expected": way.expected(first_step + done),
        "rows_arrived": way.arrived(),
    }


def _loop_figures(times: LoopTimes) -> dict[str, float | list[float]]:
    done = len(times.step_s)
    step_ms = sorted(seconds * MS for seconds in times.step_s)
    return {
        "mean_step_ms": times.loop_s / done * MS,
        **{f"step_p{p:g}_ms": percentile(step_ms, p) for p in (50, 99, 99.9)},
        **{f"call_p{p:g}_us": percentile(times.call_s, p) * US for p in (50, 99)},
        # What each share of the steps takes at least, down to the slowest one.
        "step_tail_ms": [step_ms[-int(done * tail)] for tail in TAILS if done * tail >= 1],
    }
