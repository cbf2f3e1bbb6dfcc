"""Blocks of seconds, each of another kind, by turns: what a loop feels of all that logging does."""

from __future__ import annotations

import random
import statistics
from typing import TYPE_CHECKING, Any

from bench.against.results import NO_LIMIT, Limit
from bench.against.session import LongBlocks
from bench.against.short import opened, served
from bench.lib.measure import US, percentile
from bench.lib.turns import in_turns

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypeAlias

    from bench.against.builds import Build
    from bench.against.plan import Plan
    from bench.against.results import Results

    Cycle: TypeAlias = dict[str, dict[str, Any]]

KINDS = {
    "running": "logging, delivery running",
    "stopped": "logging, delivery stopped",
    "caller": "caller only",
    "none": "no logging",
}
_NONE = "none"
_LEAD_INS = 0.7  # of a block's length, in which delivery comes to work as it does for good
_FIVE = "five metrics"
_MANY = "500 metrics"


def five(sides: Sequence[Build], plan: Plan, results: Results) -> None:
    """Measure five metrics at every step of 1 ms."""
    limits = {"running": (Limit(new=1.02), Limit(new=1.25))}
    for _ in range(plan.repeats):
        _measure("metrics", _FIVE, limits, sides, plan, results)


def many(sides: Sequence[Build], plan: Plan, results: Results) -> None:
    """Measure 500 metrics at every step of 1 ms."""
    limits = {"running": (Limit(new=1.25), NO_LIMIT)}
    _measure("many", _MANY, limits, sides, plan, results)


def _measure(
    key: str,
    name: str,
    limits: dict[str, tuple[Limit, Limit]],
    sides: Sequence[Build],
    plan: Plan,
    results: Results,
) -> None:
    shuffler = random.Random(len(results.figures))
    orders = [shuffler.sample(list(KINDS), len(KINDS)) for _ in range(plan.cycles)]
    lead_in_s = plan.block_s * _LEAD_INS
    with served(sides, LongBlocks) as processes, opened(processes, key):
        orders_left = [iter(orders), iter(orders)]

        def cycle(side: int) -> Cycle:
            order = next(orders_left[side])
            return {
                kind: processes[side].call("block", kind, plan.block_s, lead_in_s) for kind in order
            }

        cycles = in_turns(plan.cycles, cycle)
    add_blocks(results, name, cycles, limits)


def add_blocks(
    results: Results,
    name: str,
    cycles: Sequence[tuple[Cycle, Cycle]],
    limits: dict[str, tuple[Limit, Limit]],
) -> None:
    """Add, of each kind of block, the mean step and its p99.9: in ms, or beside no logging."""

    def mean(blocks: Cycle, kind: str) -> float:
        return statistics.fmean(blocks[kind]["step_us"])

    def tail(side: int, kind: str) -> float:  # of all cycles: one holds two such steps
        steps = [us for pair in cycles for us in pair[side][kind]["step_us"]]
        return percentile(steps, 99.9)

    none_ms = [(mean(a, _NONE) / 1e3, mean(b, _NONE) / 1e3) for a, b in cycles]
    results.add(f"long blocks, {name}, {KINDS[_NONE]}: mean step", "ms", none_ms)
    tail_ms = (tail(0, _NONE) / 1e3, tail(1, _NONE) / 1e3)
    results.add(f"long blocks, {name}, {KINDS[_NONE]}: p99.9", "ms", [tail_ms])
    for kind, what in KINDS.items():
        if kind == _NONE:
            continue
        of_mean, of_tail = limits.get(kind, (NO_LIMIT, NO_LIMIT))
        means = [
            (mean(a, kind) / mean(a, _NONE), mean(b, kind) / mean(b, _NONE)) for a, b in cycles
        ]
        results.add(f"long blocks, {name}, {what}: loop / no logging", "x", means, of_mean)
        tails = (tail(0, kind) / tail(0, _NONE), tail(1, kind) / tail(1, _NONE))
        results.add(f"long blocks, {name}, {what}: p99.9 / no logging", "x", [tails], of_tail)
    per_row_us = [(_delivery_us(a), _delivery_us(b)) for a, b in cycles]
    results.add(f"long blocks, {name}: delivery's CPU time per row meanwhile", "us", per_row_us)


def _delivery_us(blocks: Cycle) -> float:
    running = blocks["running"]
    return float(running["delivery_s"] / len(running["step_us"]) * US)
