"""Measure one way of logging on a device: steps, calls, synchronisations, memory."""

from __future__ import annotations

import statistics
import time
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.gpu.devices import LENGTHS, TINY_LENGTHS, Cuda, Host
from bench.lib.measure import MS, US, median_interval, percentile, timed_loop
from bench.lib.scalars import LOSS
from bench.lib.turns import in_pairs
from bench.lib.ways import OVERHEAD, Kind, WandbInline, Way, train
from bench.lib.workload import Workload

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Sequence

    from bench.gpu.devices import Device, Length
    from bench.lib.scalars import Scalars

_WARM_UP_STEPS = 30
_ONE_ROUND_OF_THE_WORKER_S = 0.5

KINDS = {
    **{key: OVERHEAD[key] for key in ("metrics", "reference", "grads", "default")},
    "recorded": OVERHEAD["recorded"]._replace(
        description="`log_training_step`, steps that are not logged, `flight_recorder=200`"
    ),
    "wandb": Kind("`wandb.log` inline, every step, 5 scalars", WandbInline, "wandb"),
}
"""What is measured."""


class Plan(NamedTuple):
    """How much to measure."""

    pairs: int
    block_steps: int
    steps: int


FULL = Plan(pairs=100, block_steps=20, steps=1000)
QUICK = Plan(pairs=5, block_steps=5, steps=30)


def calibrated(device: str, length: Length, side: Device) -> Workload:
    """Return work of at least the wanted length, its batch doubled until it takes as long."""
    size = length.size
    while True:
        work = Workload(size, device=device)
        step_times(work, Way(work), 0, _WARM_UP_STEPS, side)
        times = step_times(work, Way(work), 0, _WARM_UP_STEPS, side)
        if statistics.median(times) * MS >= length.at_least_ms * 0.75:
            return work
        size = size._replace(batch_size=2 * size.batch_size)


def step_times(work: Workload, way: Way, first_step: int, steps: int, side: Device) -> list[float]:
    """Train and log; return how long each step took on the device, in seconds."""
    side.wait()
    marks = [side.mark()]
    for step in range(first_step, first_step + steps):
        scalars = work.step(step)
        way.log(scalars, step)
        marks.append(side.mark())
    side.wait()
    return [side.seconds(a, b) for a, b in pairwise(marks)]


def block_s(work: Workload, steps: int, side: Device, way: Way, first_step: int) -> float:
    """Train and log one block; return the mean step, in seconds of the device."""
    side.wait()
    start = side.mark()
    train(work, way, first_step, steps)
    end = side.mark()
    side.wait()
    return side.seconds(start, end) / steps


def measure(key: str, length: str, device: str, quick: bool) -> dict[str, Any]:
    """Measure one way at one length of step, in this process."""
    kind = KINDS[key]
    plan = QUICK if quick else FULL
    side, lengths = (Cuda(), LENGTHS) if device == "cuda" else (Host(), TINY_LENGTHS)
    work = calibrated(device, lengths[length], side)
    way = kind.build(work)
    ways = (way.without_logging(), way)
    way.open()
    try:
        way.settle()
        first = iter(range(0, 1_000_000_000, 100_000))  # step numbers for each part

        def run(logged: Way) -> list[float]:
            return step_times(work, logged, next(first), plan.steps, side)

        run(way)  # warms everything up
        block = partial(block_s, work, plan.block_steps, side)
        pairs = in_pairs(block, way, next(first), plan.pairs, plan.block_steps)
        without_s, with_s = map(run, ways)
        call_s = call_times(work, way, next(first), plan.steps, side)
        memory_mb = [side.peak_mb(partial(run, each)) for each in ways]
        counts = count_syncs(work, [partial(run, each) for each in ways], side)
    finally:
        way.close()
    return {
        "added_us": [s * US for s in median_interval([logged - bare for logged, bare in pairs])],
        "without_ms": statistics.median(without for _, without in pairs) * MS,
        "steps_ms": {
            "without": [percentile(without_s, p) * MS for p in (50, 99)],
            "with": [percentile(with_s, p) * MS for p in (50, 99)],
        },
        "call_us": [percentile(call_s, p) * US for p in (50, 99)],
        "syncs": per_logged_step(counts, plan.steps / kind.interval),
        "memory_mb": memory_mb,
        "batch_size": work.batch_size,
    }


def call_times(work: Workload, way: Way, first_step: int, steps: int, side: Device) -> list[float]:
    """Train and log; return how long each call took on the host, in seconds."""

    def train_alone(step: int) -> Scalars:
        side.wait()  # else the device's queue fills up, and whatever is launched next waits
        return work.step(step)

    return timed_loop(train_alone, way.log, first_step, steps).call_s


def count_syncs(
    work: Workload, runs: list[Callable[[], object]], side: Device
) -> list[Counter[str] | None]:
    """Return how often each thread waited for the device during each of `runs`.

    Raises:
        RuntimeError: the count is blind.
    """
    control = side.syncs(lambda: work.step(0)[LOSS].item())  # type: ignore[union-attr]
    if control is not None and not control:
        raise RuntimeError("an item() was not seen: synchronisations cannot be counted here")

    def rest_after(run: Callable[[], object]) -> None:
        run()
        time.sleep(_ONE_ROUND_OF_THE_WORKER_S)  # its synchronisations are counted, too

    return [side.syncs(partial(rest_after, run)) for run in runs]


def per_logged_step(
    counts: Sequence[Counter[str] | None], logged_steps: float
) -> dict[str, float] | None:
    """Return the synchronisations of (no logging, logging) as those of logging, by thread."""
    without, logged = counts
    if without is None or logged is None:
        return None
    names = without.keys() | logged.keys()
    return {name: (logged[name] - without[name]) / logged_steps for name in sorted(names)}
