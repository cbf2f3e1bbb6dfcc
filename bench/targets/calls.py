"""What the caller's thread pays: the share of a step, and single calls in the loop."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from bench.lib.measure import MS, US, percentile
from bench.lib.processes import call_in_new_process
from bench.targets.figure import ROUNDS, Figure, over_rounds

if TYPE_CHECKING:
    from bench.lib.ways import Way
    from bench.lib.workload import Workload
    from bench.overhead.blocks import Block

_WARM_UP_STEPS = 200
_METRICS = 500
_BLOCK_MS = 10.0
_BESIDE_WANDB = (
    ("metrics", "our call, snapshot", 30),
    ("reference", "our call, reference", 30),
    ("training", "our `log_training_step`, snapshot", 60),
)
_OVERHEAD = (
    ("1 ms step, five scalars at every step", "metrics", "1", 0.010),
    ("1 ms step, default interval, grad norm, snapshots", "default", "1", 0.002),
    ("0.1 ms step, five scalars at every step", "metrics", "0.1", 0.100),
)


def paired_overhead(quick: bool) -> list[Figure]:
    """Measure what logging adds to a step, in pairs of blocks; see overhead/blocks.py.

    The figure is an upper bound: what the step takes longer, and all of the worker's CPU time.
    """
    from bench.lib.ways import OVERHEAD
    from bench.overhead.blocks import Plan, block_steps, measure

    number, pairs = (1, 3) if quick else (ROUNDS, 300)
    plans = {  # single calls have a target of their own
        step_ms: Plan(pairs, block_steps(step_ms, _BLOCK_MS), call_steps=1, step_ms=step_ms)
        for _, _, step_ms, _ in _OVERHEAD
    }
    rounds = [
        [measure(OVERHEAD[key].build, plans[step_ms]).pairs for _, key, step_ms, _ in _OVERHEAD]
        for _ in range(number)
    ]
    return [
        overhead_figure(f"paired overhead, {what}", [found[i] for found in rounds], limit)
        for i, (what, _, _, limit) in enumerate(_OVERHEAD)
    ]


def overhead_figure(target: str, rounds: list[list[tuple[Block, Block]]], limit: float) -> Figure:
    """Return the share of a step that logging adds, from each round's pairs (with, without)."""
    from bench.overhead.blocks import added

    found = [added(pairs) for pairs in rounds]
    together = added([pair for pairs in rounds for pair in pairs])
    caller_us = [seconds * US for seconds in together.caller_s]
    worker_us = statistics.median(each.worker_s for each in found) * US
    note = (
        f"caller {caller_us[0]:.1f} us [{caller_us[1]:.1f}, {caller_us[2]:.1f}], "
        f"worker {worker_us:.1f} us of CPU, step {together.step_s * MS:.3f} ms"
    )
    return over_rounds(target, [each.share for each in found], "%", limit, note=note)


# --- single calls ----------------------------------------------------------------------------


def calls(quick: bool) -> list[Figure]:
    """Measure the median call after a real step, all ways in one process per round."""
    rounds = [call_in_new_process(call_round, quick) for _ in range(1 if quick else ROUNDS)]

    def p50(key: str) -> list[float]:
        return [figures[key] for figures in rounds]

    wandb = p50("wandb")
    above = [a - b for a, b in zip(p50("not-logged"), p50("empty"), strict=True)]
    figures = [
        over_rounds("call p50, five scalars, reference", p50("reference"), "us", 5),
        over_rounds("call p50, five scalars, snapshot", p50("metrics"), "us", 12),
        over_rounds("call p50, `log_training_step`, snapshot", p50("training"), "us"),
        over_rounds("call p50, a step that is not logged", p50("not-logged"), "us"),
        over_rounds("the same above an empty call", above, "us", 0.3),
        over_rounds("call p50, `wandb.log`", wandb, "us"),
    ]
    for key, name, limit in _BESIDE_WANDB:
        ratios = [theirs / ours for theirs, ours in zip(wandb, p50(key), strict=True)]
        figures.append(over_rounds(f"`wandb.log` / {name}", ratios, "x", limit, at_least=True))
    figures.append(over_rounds(f"`log_metrics`, {_METRICS} metrics", p50("many"), "us", 25))
    return figures


def call_round(quick: bool) -> dict[str, float]:
    """Return the median call of each way, in microseconds."""
    from bench.lib.ways import OVERHEAD, WandbInline
    from bench.lib.workload import Workload

    steps = 100 if quick else 2000
    work = Workload()
    p50_us = {
        key: _p50_us(OVERHEAD[key].build(work), work, steps)
        for key in ("metrics", "reference", "training")
    }
    p50_us |= _not_logged(work, steps)
    many = Workload(metrics=_METRICS)
    p50_us["many"] = _p50_us(OVERHEAD["metrics"].build(many), many, steps // 4)
    p50_us["wandb"] = _p50_us(WandbInline(work), work, steps)  # last: its threads stay
    return p50_us


def _p50_us(way: Way, work: Workload, steps: int) -> float:
    from bench.lib.ways import timed_calls

    way.open()
    try:
        way.settle()
        call_s = timed_calls(work, [way], 0, _WARM_UP_STEPS + steps)
    finally:
        way.close()
    return percentile(call_s[_WARM_UP_STEPS:], 50) * US


def _not_logged(work: Workload, steps: int) -> dict[str, float]:
    """Return the medians of a step that is not logged and of an empty call, taken in turns."""
    from bench.lib.ways import EmptyCall, FasttrackNotLogged, timed_calls

    not_logged = FasttrackNotLogged(work)
    not_logged.open()
    try:
        not_logged.settle()
        ways = [EmptyCall(work), not_logged]
        call_s = timed_calls(work, ways, 0, _WARM_UP_STEPS + 2 * steps)
    finally:
        not_logged.close()
    return {
        "empty": percentile(call_s[_WARM_UP_STEPS::2], 50) * US,
        "not-logged": percentile(call_s[_WARM_UP_STEPS + 1 :: 2], 50) * US,
    }
