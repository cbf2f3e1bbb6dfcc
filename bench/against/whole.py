"""Whole runs, one right after the other: delivery, memory, imports, start and finish."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.against.results import NO_LIMIT, Limit
from bench.against.short import served
from bench.against.start import Imports, first_seconds
from bench.lib.local_server import local_server
from bench.lib.processes import call_in_new_process
from bench.lib.turns import in_turns
from bench.targets.delivery import deliver_backlog
from bench.targets.process import one_run, train_with

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench.against.builds import Build
    from bench.against.plan import Plan
    from bench.against.results import Results

_ROWS_PER_S = 1000
_IMPORTS = {
    "import_recording": ("import", NO_LIMIT),
    "import_not_recording": ("import and constructor, rank that does not record", Limit(0.7)),
}


def one_each(sides: Sequence[Build], function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a function gives in a process of each build, one after the other."""
    first, second = (call_in_new_process(function, *arguments, path=side.path) for side in sides)
    return first, second


def offline(sides: Sequence[Build], plan: Plan, results: Results) -> None:
    """Measure delivery of rows that wait, into a file."""
    _deliver("offline", None, sides, plan, results)


def online(sides: Sequence[Build], plan: Plan, results: Results) -> None:
    """Measure the same to a server on this machine, whose own CPU time does not count."""
    with local_server() as server:
        _deliver("online", server, sides, plan, results)


def _deliver(
    how: str,
    server: dict[str, str] | None,
    sides: Sequence[Build],
    plan: Plan,
    results: Results,
) -> None:
    a, b = one_each(sides, deliver_backlog, plan.backlog_rows, server)
    rows = f"{plan.backlog_rows:,} waiting rows"
    cpu_us = (a["cpu_us"], b["cpu_us"])
    results.add(f"delivery, {how}, CPU time per row, {rows}", "us", [cpu_us], Limit(0.4))
    finish_s = (a["finish_s"], b["finish_s"])
    results.add(f"the same, until `finish()` returned ({how})", "s", [finish_s])
    if server is None:
        size = (a["bytes"], b["bytes"])
        results.add("the same, size of a row in the `.wandb` file", "bytes", [size], Limit(0.55))


def memory(sides: Sequence[Build], plan: Plan, results: Results) -> None:
    """Measure the training process's memory above that without logging."""
    plain = call_in_new_process(train_with, "none", plan.memory_steps, path=sides[0].path)["now_mb"]
    a, b = one_each(sides, train_with, "fasttrack", plan.memory_steps)
    above = (a["now_mb"] - plain, b["now_mb"] - plain)
    results.add("memory of the training process above no logging", "MB", [above], Limit(1.0))


def imports(sides: Sequence[Build], plan: Plan, results: Results) -> None:
    """Measure imports after torch's, in forks by turns."""
    with served(sides, Imports) as processes:
        for function, (name, limit) in _IMPORTS.items():

            def fork(side: int) -> Any:
                return processes[side].call("fork", function)  # noqa: B023

            in_turns(1, fork)  # compiles, and fills the page cache
            turns = in_turns(plan.import_turns, fork)
            wall_ms = [(a["wall_ms"], b["wall_ms"]) for a, b in turns]
            results.add(f"{name}, after torch", "ms", wall_ms, limit)
            cpu_ms = [(a["cpu_ms"], b["cpu_ms"]) for a, b in turns]
            results.add(f"{name}, after torch: CPU time", "ms", cpu_ms)


def run(sides: Sequence[Build], plan: Plan, results: Results) -> None:
    """Measure the constructor, and `finish()` after some seconds at a steady pace."""
    a, b = one_each(sides, one_run, plan.finish_rows, _ROWS_PER_S)
    results.add("constructor", "ms", [(a["constructor_ms"], b["constructor_ms"])])
    both = tuple(found["import_ms"] + found["constructor_ms"] for found in (a, b))
    results.add("import and constructor, after torch", "ms", [both])
    name = f"`finish()` offline after {plan.finish_rows:,} rows, {_ROWS_PER_S:,} a second"
    results.add(name, "s", [(a["finish_s"], b["finish_s"])])


def start(sides: Sequence[Build], plan: Plan, results: Results) -> None:
    """Measure the first seconds of training, while delivery starts."""
    a, b = one_each(sides, first_seconds, plan.start_s)
    name = f"first {plan.start_s:g} s of training / no logging, delivery starting"
    results.add(name, "x", [(a["ratio"], b["ratio"])], Limit(new=1.1))
