"""What fasttrack costs the training process, resolved to microseconds: paired blocks.

`python -m bench.overhead [--quick] [--pairs N] [--only KEY,KEY] [--step 0.1|1|20] [--block-ms MS]`

Blocks of training steps with the logging call and as many without alternate in one process. Each
pair gives one difference of the mean step time, and the table holds the median of the differences
with its 95% interval: whatever drifts slower than two blocks (20 ms) cancels. Longer blocks do not
do on a shared machine: its speed jumps by half within seconds. They are multiples of 10 steps, so
that as many steps are logged in each at the default interval. The worker works in both kinds of
blocks, so its part does not show in the difference; its CPU time per logged step is taken from the
whole run, and the sum of both is an upper bound of what training feels (on another core the worker
only costs while it holds the GIL). The delivery process is in `python -m bench`. The time of a
single call is measured afterwards, in a loop of its own, so that reading the clock costs the blocks
nothing.

Last comes what it costs, after a real step, to keep a CPU loss by `item()`, `detach().clone()` or
`detach()`, taken in turns in one loop: the measurement behind hotpath/capture.py's snapshot.
"""

from __future__ import annotations

import argparse
import statistics
import time
from array import array
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.measure import (
    describe_machine,
    machine,
    median_interval,
    percentile,
    private_wandb,
    table,
    timed_loop,
)
from bench.ways import OVERHEAD, Way
from bench.workload import LOSS, SIZES, Workload

if TYPE_CHECKING:
    from collections.abc import Callable

_US = 1e6
_CALLS_S = 10.0  # the longest that single calls are measured, where steps are long


class Plan(NamedTuple):
    """How much to measure."""

    pairs: int
    block_steps: int
    call_steps: int
    step_ms: str = "1"


FULL = Plan(pairs=1200, block_steps=10, call_steps=3000)
QUICK = Plan(pairs=30, block_steps=20, call_steps=300)


class Block(NamedTuple):
    """Mean seconds per step of one block."""

    wall_s: float
    caller_cpu_s: float
    process_cpu_s: float


class Cost(NamedTuple):
    """What one way of logging costs."""

    pairs: list[tuple[Block, Block]]  # (with the call, without)
    call_s: list[float]


def run_block(work: Workload, way: Way, first_step: int, plan: Plan) -> Block:
    """Train one block with `way` logging; return its costs."""
    train, log, steps = work.step, way.log, plan.block_steps
    wall_s, caller_s, process_s = time.perf_counter(), time.thread_time(), time.process_time()
    for step in range(first_step, first_step + steps):
        scalars = train(step)
        log(scalars, step)
    return Block(
        (time.perf_counter() - wall_s) / steps,
        (time.thread_time() - caller_s) / steps,
        (time.process_time() - process_s) / steps,
    )


def measure(build: Callable[[Workload], Way], plan: Plan) -> Cost:
    """Measure one way in pairs of blocks, the order turned round in every second pair."""
    work = Workload(plan.step_ms)
    way, nothing = build(work), Way(work)
    way.open()
    try:
        way.settle()
        next_step = 1
        run_block(work, way, next_step, plan)  # warms everything up
        pairs = []
        for i in range(plan.pairs):
            next_step += plan.block_steps
            if i % 2:
                without = run_block(work, nothing, next_step, plan)
                pairs.append((run_block(work, way, next_step, plan), without))
            else:
                logged = run_block(work, way, next_step, plan)
                pairs.append((logged, run_block(work, nothing, next_step, plan)))
        next_step += plan.block_steps
        times = timed_loop(work.step, way.log, next_step, plan.call_steps, _CALLS_S)
    finally:
        way.close()
    return Cost(pairs, times.call_s)


def row(description: str, cost: Cost) -> list[str]:
    """Return one line of the table."""
    wall = [logged.wall_s - without.wall_s for logged, without in cost.pairs]
    # Of both blocks: the worker also works in the one that does not log.
    worker_s = statistics.fmean(
        block.process_cpu_s - block.caller_cpu_s for pair in cost.pairs for block in pair
    )
    worker_s *= 2
    step_s = statistics.median(without.wall_s for _, without in cost.pairs)
    median_s, low_s, high_s = median_interval(wall)
    return [
        description,
        f"{median_s * _US:.1f} [{low_s * _US:.1f}, {high_s * _US:.1f}]",
        f"{worker_s * _US:.1f}",
        f"{(median_s + worker_s) / step_s:.2%}",
        f"{step_s * 1e3:.3f}",
        f"{percentile(cost.call_s, 50) * _US:.2f}",
        f"{percentile(cost.call_s, 99) * _US:.2f}",
    ]


HEADINGS = (
    "every step",
    "us per step [95%]",
    "worker CPU, us",
    "both, of the step",
    "step, ms",
    "call p50, us",
    "call p99, us",
)


KEEP: dict[str, Callable[[Any], object]] = {
    "`tensor.item()`": lambda tensor: tensor.item(),
    "`tensor.detach().clone()`": lambda tensor: tensor.detach().clone(),
    "`tensor.detach()`": lambda tensor: tensor.detach(),
}


def block_steps(step_ms: str, block_ms: float) -> int:
    """Return how many steps take about `block_ms` on this machine: a multiple of 10."""
    work = Workload(step_ms)
    times = timed_loop(work.step, Way(work).log, 0, 1000, limit_s=0.5)
    return max(1, round(block_ms / percentile(times.step_s, 50) / 1e4)) * 10


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
        [name, *(f"{(percentile(taken, p) - clock_s) * _US:.2f}" for p in (50, 99))]
        for name, taken in seconds.items()
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.overhead", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--quick", action="store_true", help="a minute; shows that it runs, no more"
    )
    parser.add_argument("--pairs", type=int, help="pairs of blocks per way")
    parser.add_argument("--step", choices=SIZES, default="1", help="about how many ms a step takes")
    parser.add_argument("--block-ms", type=float, default=10.0, help="about how long a block takes")
    parser.add_argument("--only", help=f"some of {','.join(OVERHEAD)},keep")
    arguments = parser.parse_args()
    plan = QUICK if arguments.quick else FULL
    if arguments.pairs is not None:
        plan = plan._replace(pairs=arguments.pairs)
    chosen = arguments.only.split(",") if arguments.only else [*OVERHEAD, "keep"]
    unknown = set(chosen) - {*OVERHEAD, "keep"}
    if unknown:
        parser.error(f"--only: no such key: {', '.join(sorted(unknown))}")

    details = machine()
    steps = block_steps(arguments.step, arguments.block_ms)
    plan = plan._replace(step_ms=arguments.step, block_steps=steps)
    rows = []
    with private_wandb():
        for key, (description, build) in OVERHEAD.items():
            if key in chosen:
                rows.append(row(description, measure(build, plan)))
    print(f"{describe_machine(details)}; {plan.pairs} pairs of {plan.block_steps} steps\n")
    if rows:
        print(table(HEADINGS, rows), end="\n\n")
    if "keep" in chosen:
        kept = keeping_a_tensor(plan.call_steps)
        print(table(("keeping a CPU loss, after a step", "p50, us", "p99, us"), kept))


if __name__ == "__main__":
    main()
