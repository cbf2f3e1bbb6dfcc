"""Tables and JSON of what rounds.py measured."""

from __future__ import annotations

import statistics
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from bench.compare.peers import versions
from bench.compare.rounds import DESCRIPTIONS
from bench.lib.measure import table
from bench.targets.figure import HEADINGS, over_rounds

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bench.compare.rounds import Result

_ENOUGH_STEPS = 1000  # for a 99.9th percentile to be more than the slowest step

_TIME = (
    "way of logging",
    "loop / no logging",
    "(lowest-highest)",
    "call p50, us",
    "call p99, us",
    "step p50, ms",
    "step p99, ms",
    "step p99.9, ms",
    "p99.9 / no logging",
)
_RESOURCES = (
    "way of logging",
    "CPU / no logging",
    "memory, MB",
    "others' CPU, s",
    "others' memory, MB",
    "open, s",
    "finish, s",
    "rows arrived",
)


def markdown(result: Result) -> str:
    """Return a scenario's heading, its two tables, and what failed."""
    scenario = result.scenario
    keys = result.measured()
    title = scenario.title()
    return "\n\n".join(
        [
            f"### {title[0].upper()}{title[1:]}",
            f"Rounds: {scenario.rounds}. A loop ends after {scenario.steps:,} steps or "
            f"{scenario.limit_s:g} s.",
            table(_TIME, [_time_row(result, key) for key in keys]),
            table(_RESOURCES, [_resources_row(result, key) for key in keys]),
            *(f"Failed: {failure}" for failure in result.failures),
        ]
    )


def _time_row(result: Result, key: str) -> list[str]:
    loop = result.ratios(key, "mean_step_ms")
    pairs = result.pairs(key)
    enough = min(figures["steps"] for pair in pairs for figures in pair) >= _ENOUGH_STEPS
    tail = result.ratios(key, "step_p99.9_ms")
    return [
        DESCRIPTIONS[key],
        f"{statistics.median(loop):.3f}",
        f"{min(loop):.3f}-{max(loop):.3f}",
        f"{result.median(key, 'call_p50_us'):.2f}",
        f"{result.median(key, 'call_p99_us'):.1f}",
        f"{result.median(key, 'step_p50_ms'):.3f}",
        f"{result.median(key, 'step_p99_ms'):.2f}",
        f"{result.median(key, 'step_p99.9_ms'):.2f}" if enough else "-",
        f"{statistics.median(tail):.2f}" if enough else "-",
    ]


def _resources_row(result: Result, key: str) -> list[str]:
    return [
        DESCRIPTIONS[key],
        f"{statistics.median(result.ratios(key, 'cpu_per_step_ms')):.3f}",
        f"{result.above(key, 'peak_rss_mb'):+.1f}",
        f"{result.median(key, 'other_processes_cpu_s'):.2f}",
        f"{result.median(key, 'other_processes_peak_rss_mb'):.0f}",
        f"{result.median(key, 'open_s'):.3f}",
        f"{result.median(key, 'finish_s'):.2f}",
        _rows(result, key),
    ]


def _rows(result: Result, key: str) -> str:
    rows = result.fewest_rows(key)
    if rows is None:
        return "-"
    arrived, expected = rows
    return "all" if arrived == expected else f"{arrived:,} of {expected:,}"


def limits(results: Iterable[Result]) -> str:
    """Return how we stand beside peers, as a table; nothing where none of them was measured."""
    figures = []
    for result in results:
        title = result.scenario.title()
        calls = _beside(result, "wandb", "fasttrack-training", "call_p50_us")
        if calls and not result.scenario.busy:
            what = f"`wandb.log` / our `log_training_step`, call p50, {title}"
            figures.append(over_rounds(what, calls, "x", 60, at_least=True))
        if loops := _beside(result, "trackio", "fasttrack", "mean_step_ms"):
            what = f"trackio's loop / ours, {title}"
            figures.append(over_rounds(what, loops, "x", 1, at_least=True))
    return table(HEADINGS, [figure.cells() for figure in figures]) if figures else ""


def _beside(result: Result, key: str, other: str, name: str) -> list[float]:
    return [theirs[name] / ours[name] for theirs, ours in result.beside(key, other)]


def as_json(
    results: dict[str, Result], machine: dict[str, Any], skipped: list[str]
) -> dict[str, Any]:
    """Return everything that was measured, with the machine and the peers' versions."""
    return {
        "machine": machine,
        "peers": versions(),
        "skipped": skipped,
        "ways": DESCRIPTIONS,
        "scenarios": {
            key: {**asdict(result.scenario), "results": result.rounds, "failures": result.failures}
            for key, result in results.items()
        },
    }
