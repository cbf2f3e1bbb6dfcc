"""Turns of 20 to 300 ms: single calls, pairs of short blocks, the worker's bursts."""

from __future__ import annotations

import contextlib
import statistics
from typing import TYPE_CHECKING, Any, TypeAlias

from bench.against.results import NO_LIMIT, Limit
from bench.against.session import Bursts, Calls, Pairs
from bench.lib.measure import US
from bench.lib.served import Served
from bench.lib.turns import in_turns
from bench.overhead.blocks import Block, added

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from bench.against.builds import Build
    from bench.against.plan import Plan
    from bench.against.results import Results

_TRAINING = "`log_training_step` (loss, optimizer)"
_METRICS = "`log_metrics` of five"
_CALLS = {
    "training": (_TRAINING, Limit(0.35)),
    "metrics": (_METRICS, Limit(0.5)),
    "many": ("`log_metrics` of 500", Limit(0.6)),
    "not-logged": ("a step that is not logged", NO_LIMIT),
}
_OVERHEAD = {"1": Limit(0.5, 0.01), "0.1": Limit(0.5, 0.06)}
_BURSTS = {"metrics": (_METRICS, Limit(0.7)), "training": (_TRAINING, Limit(0.5))}


@contextlib.contextmanager
def served(sides: Sequence[Build], build: Callable[..., Any]) -> Iterator[list[Served]]:
    """Give an object in a process of each build."""
    with contextlib.ExitStack() as stack:
        processes = []
        for side in sides:
            processes.append(Served(build, path=side.path))
            stack.callback(processes[-1].close)
        yield processes


@contextlib.contextmanager
def opened(processes: Sequence[Served], *arguments: str) -> Iterator[None]:
    """Have each process log in one way; at the end all that was logged must have arrived."""
    for process in processes:
        process.call("open", *arguments)
    yield
    for process in processes:
        process.call("close")


def calls(sides: Sequence[Build], plan: Plan, results: Results) -> None:
    """Measure single calls after real steps of 1 ms."""
    with served(sides, Calls) as processes:
        for key, (name, limit) in _CALLS.items():
            with opened(processes, key):
                turns = in_turns(
                    plan.call_turns, lambda side: processes[side].call("turn", plan.call_steps)
                )
            call_us = [(first["call_us"], second["call_us"]) for first, second in turns]
            results.add(f"call p50, {name}", "us", call_us, limit)
            if key == "not-logged":
                above_us = [(first["above_us"], second["above_us"]) for first, second in turns]
                results.add("the same above an empty call", "us", above_us, Limit(0.6))


def overhead(sides: Sequence[Build], plan: Plan, results: Results) -> None:
    """Measure what logging adds to a step, in pairs of short blocks, and what the worker takes."""
    with served(sides, Pairs) as processes:
        for step_ms, limit in _OVERHEAD.items():
            with opened(processes, "metrics", step_ms):
                steps = processes[0].call("block_steps")
                before_s = [process.call("worker_s") for process in processes]
                turns = in_turns(
                    plan.pair_turns,
                    lambda side: processes[side].call("turn", steps),  # noqa: B023
                )
                after_s = [process.call("worker_s") for process in processes]
            rows = plan.pair_turns * len(turns[0][0]) * steps
            worker_s = [(after_s[side] - before_s[side]) / rows for side in (0, 1)]
            pairs = [[_pairs(turn[side]) for turn in turns] for side in (0, 1)]
            add_overhead(results, f"{step_ms} ms step", pairs, worker_s, limit)


Blocks: TypeAlias = "list[tuple[Block, Block]]"
"""Pairs (with logging, without)."""


def _pairs(answer: list[list[list[float]]]) -> Blocks:
    return [(Block(*logged), Block(*without)) for logged, without in answer]


def add_overhead(
    results: Results,
    name: str,
    turns: Sequence[Sequence[Blocks]],
    worker_s: Sequence[float],
    limit: Limit,
) -> None:
    """Add the figures of both sides' turns and of their workers' CPU time per row."""

    def turn_us(pairs: Blocks) -> float:
        return statistics.fmean(logged.wall_s - without.wall_s for logged, without in pairs) * US

    def share(blocks: Sequence[Blocks], side: int) -> float:
        found = added([pair for pairs in blocks for pair in pairs])
        return found._replace(worker_s=worker_s[side]).share

    what = f"{_METRICS}, {name}"
    per_row_us = (worker_s[0] * US, worker_s[1] * US)
    results.add(f"worker, CPU time per row, {what}", "us", [per_row_us])
    in_cpu_time = [[[_in_cpu_time(pair) for pair in pairs] for pairs in side] for side in turns]
    clocks: tuple[tuple[Any, str, Limit], ...] = (
        (turns, "", limit),
        (in_cpu_time, ", by CPU time", NO_LIMIT),
    )
    for blocks, how, held_to in clocks:
        added_us = [(turn_us(a), turn_us(b)) for a, b in zip(*blocks, strict=True)]
        results.add(f"added to a step, {what}{how}", "us", added_us)
        shares = (share(blocks[0], 0), share(blocks[1], 1))
        results.add(f"paired overhead, {what}{how}", "%", [shares], held_to)


def _in_cpu_time(pair: tuple[Block, Block]) -> tuple[Block, Block]:
    """Return a pair whose time is the caller's CPU time: other work on the machine shows less."""
    logged, without = (block._replace(wall_s=block.caller_cpu_s) for block in pair)
    return logged, without


def worker(sides: Sequence[Build], plan: Plan, results: Results) -> None:
    """Measure how long the worker has the GIL for a row."""
    with served(sides, Bursts) as processes:
        for key, (name, limit) in _BURSTS.items():
            with opened(processes, key):
                per_row_us = in_turns(
                    plan.burst_turns, lambda side: processes[side].call("turn", plan.burst_steps)
                )
            results.add(f"worker, GIL time per row, {name}", "us", per_row_us, limit)
