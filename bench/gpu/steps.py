"""Measure one way of logging on a device: steps, calls, synchronisations, memory."""

from __future__ import annotations

import statistics
import time
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from bench.gpu.devices import LENGTHS, TINY_LENGTHS, Cuda, DeviceWork, Host
from bench.measure import median_interval, percentile, timed_loop
from bench.ways import Fasttrack, FasttrackGradients, WandbInline, Way
from bench.workload import LOSS

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable

    from bench.gpu.devices import Device, Length
    from bench.workload import Scalars

_US, _MS = 1e6, 1e3
_WARM_UP_STEPS = 30
_ONE_ROUND_OF_THE_WORKER_S = 0.5

WAYS: dict[str, tuple[str, Callable[[Any], Way], int]] = {
    "metrics": ("`log_metrics`, 5 scalars, every step (snapshot)", Fasttrack, 1),
    "reference": ("the same, `capture='reference'`", partial(Fasttrack, capture="reference"), 1),
    "grads": ("`log_training_step` with `model=`, every step", FasttrackGradients, 1),
    "default": (
        "`log_training_step` with `model=`, every 10th step (the default)",
        partial(FasttrackGradients, log_interval=10),
        10,
    ),
    "wandb": ("`wandb.log` inline, every step, 5 scalars", WandbInline, 1),
}
"""Key to (description, way, steps from one logged step to the next)."""


class Plan(NamedTuple):
    """How much to measure."""

    pairs: int
    block_steps: int
    steps: int


FULL = Plan(pairs=100, block_steps=20, steps=1000)
QUICK = Plan(pairs=5, block_steps=5, steps=30)


def calibrated(device: str, length: Length, side: Device) -> DeviceWork:
    """Return work of at least the wanted length, its batch doubled until it takes as long."""
    batch_size = length.batch_size
    while True:
        work = DeviceWork(device, length, batch_size)
        step_times(work, Way(work), 0, _WARM_UP_STEPS, side)  # type: ignore[arg-type]
        times = step_times(work, Way(work), 0, _WARM_UP_STEPS, side)  # type: ignore[arg-type]
        if statistics.median(times) * _MS >= length.at_least_ms * 0.75:
            return work
        batch_size *= 2


def step_times(
    work: DeviceWork, way: Way, first_step: int, steps: int, side: Device
) -> list[float]:
    """Train and log; return how long each step took on the device, in seconds."""
    side.wait()
    marks = [side.mark()]
    for step in range(first_step, first_step + steps):
        scalars = work.step(step)
        way.log(scalars, step)
        marks.append(side.mark())
    side.wait()
    return [side.seconds(a, b) for a, b in pairwise(marks)]


def block_s(work: DeviceWork, way: Way, first_step: int, steps: int, side: Device) -> float:
    """Train and log one block; return the mean step, in seconds of the device."""
    side.wait()
    start = side.mark()
    for step in range(first_step, first_step + steps):
        scalars = work.step(step)
        way.log(scalars, step)
    end = side.mark()
    side.wait()
    return side.seconds(start, end) / steps


def paired(
    work: DeviceWork, ways: tuple[Way, Way], first_step: int, plan: Plan, side: Device
) -> list[tuple[float, float]]:
    """Return the mean steps in seconds of pairs of blocks, one per way, each first by turns."""
    pairs = []
    for number in range(plan.pairs):
        order = (0, 1) if number % 2 else (1, 0)
        found = [0.0, 0.0]
        for which in order:
            found[which] = block_s(work, ways[which], first_step, plan.block_steps, side)
            first_step += plan.block_steps
        pairs.append((found[0], found[1]))
    return pairs


def measure(key: str, length: str, device: str, quick: bool) -> dict[str, Any]:
    """Measure one way at one length of step, in this process."""
    _, build, interval = WAYS[key]
    plan = QUICK if quick else FULL
    side, lengths = (Cuda(), LENGTHS) if device == "cuda" else (Host(), TINY_LENGTHS)
    torch.set_num_threads(1)
    work = calibrated(device, lengths[length], side)
    way = build(work)
    ways = (Way(work), way)  # type: ignore[arg-type]  # looks like a Workload
    way.open()
    try:
        way.settle()
        first = iter(range(0, 1_000_000_000, 100_000))  # step numbers for each part

        def train(logged: Way) -> list[float]:
            return step_times(work, logged, next(first), plan.steps, side)

        train(way)  # warms everything up
        pairs = paired(work, ways, next(first), plan, side)
        without_s, with_s = map(train, ways)
        call_s = call_times(work, way, next(first), plan.steps, side)
        memory_mb = [side.peak_mb(partial(train, each)) for each in ways]
        counts = count_syncs(work, [partial(train, each) for each in ways], side)
    finally:
        way.close()
    return {
        "added_us": [s * _US for s in median_interval([after - before for before, after in pairs])],
        "without_ms": statistics.median(without for without, _ in pairs) * _MS,
        "steps_ms": {
            "without": [percentile(without_s, p) * _MS for p in (50, 99)],
            "with": [percentile(with_s, p) * _MS for p in (50, 99)],
        },
        "call_us": [percentile(call_s, p) * _US for p in (50, 99)],
        "syncs": per_logged_step(counts, plan.steps / interval),
        "memory_mb": memory_mb,
        "batch_size": work.batch_size,
    }


def call_times(
    work: DeviceWork, way: Way, first_step: int, steps: int, side: Device
) -> list[float]:
    """Train and log; return how long each call took on the host, in seconds."""

    def train(step: int) -> Scalars:
        side.wait()  # else the device's queue fills up, and whatever is launched next waits
        return work.step(step)

    return timed_loop(train, way.log, first_step, steps).call_s


def count_syncs(
    work: DeviceWork, runs: list[Callable[[], object]], side: Device
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
    counts: list[Counter[str] | None], logged_steps: float
) -> dict[str, float] | None:
    """Return the synchronisations of (no logging, logging) as those of logging, by thread."""
    without, logged = counts
    if without is None or logged is None:
        return None
    names = without.keys() | logged.keys()
    return {name: (logged[name] - without[name]) / logged_steps for name in sorted(names)}
