"""Blocks of training steps with logging and without, in pairs in one process.

Each pair gives one difference of the mean step time; their median with its 95% interval is what
logging adds: whatever drifts slower than two blocks (20 ms) cancels. Longer blocks do not do on a
shared machine: its speed jumps by half within seconds. They are multiples of 10 steps, so that as
many steps are logged in each at the default interval. The worker works in both kinds of blocks, so
its part does not show in the difference; its CPU time per logged step is taken from the whole run,
and the sum of both is an upper bound of what training feels (on another core the worker only costs
while it holds the GIL). The time of a single call is measured afterwards, in a loop of its own, so
that reading the clock costs the blocks nothing.
"""

from __future__ import annotations

import statistics
import time
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from bench.lib.measure import median_interval, percentile, timed_loop
from bench.lib.turns import in_pairs
from bench.lib.ways import Way, train
from bench.lib.workload import SIZES, Workload

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_CALLS_S = 10.0  # the longest that single calls are measured, where steps are long


class Plan(NamedTuple):
    """How much to measure."""

    pairs: int
    block_steps: int
    call_steps: int
    step_ms: str = "1"
    """Key of `SIZES`."""


FULL = Plan(pairs=1200, block_steps=10, call_steps=3000)
QUICK = Plan(pairs=30, block_steps=20, call_steps=300)


class Block(NamedTuple):
    """Mean seconds per step of one block."""

    wall_s: float
    caller_cpu_s: float
    process_cpu_s: float


class Cost(NamedTuple):
    """What one way of logging costs, in seconds."""

    pairs: list[tuple[Block, Block]]
    """(with the call, without)."""
    call_s: list[float]
    """Single calls."""


class Added(NamedTuple):
    """What logging adds to a step, in seconds."""

    caller_s: tuple[float, float, float]
    """The step's own time: median, and its 95% interval."""
    worker_s: float
    step_s: float
    """Without logging."""

    @property
    def share(self) -> float:
        """Both as a share of a step without logging: an upper bound."""
        return (self.caller_s[0] + self.worker_s) / self.step_s


def added(pairs: Sequence[tuple[Block, Block]]) -> Added:
    """Return what logging adds, from pairs of blocks (with, without)."""
    # Of both blocks: the worker also works in the one that does not log.
    worker_s = 2 * statistics.fmean(
        block.process_cpu_s - block.caller_cpu_s for pair in pairs for block in pair
    )
    return Added(
        median_interval([logged.wall_s - without.wall_s for logged, without in pairs]),
        worker_s,
        statistics.median(without.wall_s for _, without in pairs),
    )


def block_steps(step_ms: str, block_ms: float) -> int:
    """Return how many steps take about `block_ms` on this machine: a multiple of 10."""
    work = Workload(SIZES[step_ms])
    times = timed_loop(work.step, Way(work).log, 0, 1000, limit_s=0.5)
    return max(1, round(block_ms / percentile(times.step_s, 50) / 1e4)) * 10


def run_block(work: Workload, steps: int, way: Way, first_step: int) -> Block:
    """Train and log one block."""
    wall_s, caller_s, process_s = time.perf_counter(), time.thread_time(), time.process_time()
    train(work, way, first_step, steps)
    return Block(
        (time.perf_counter() - wall_s) / steps,
        (time.thread_time() - caller_s) / steps,
        (time.process_time() - process_s) / steps,
    )


def measure(build: Callable[[Workload], Way], plan: Plan) -> Cost:
    """Measure one way in pairs of blocks, then its single calls."""
    work, steps = Workload(SIZES[plan.step_ms]), plan.block_steps
    way, block = build(work), partial(run_block, work, steps)
    way.open()
    try:
        way.settle()
        block(way, 1)  # warms everything up
        pairs = in_pairs(block, way, 1 + steps, plan.pairs, steps)
        next_step = 1 + steps * (1 + plan.pairs)
        times = timed_loop(work.step, way.log, next_step, plan.call_steps, _CALLS_S)
    finally:
        way.close()
    return Cost(pairs, times.call_s)
