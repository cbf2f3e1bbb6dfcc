"""Clocks, statistics and tables. Imports no torch: see compare/child.py."""

from __future__ import annotations

import contextlib
import math
import os
import platform
import statistics
import sys
import time
from array import array
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

US, MS = 1e6, 1e3  # in a second
_PACKAGES = ("torch", "wandb", "numpy", "orjson")

TAILS = [10 ** (-exponent / 10) for exponent in range(41)]
"""Shares of steps, 1 to 0.0001, at which a distribution of step times is kept."""


class LoopTimes(NamedTuple):
    """Seconds of each step of a loop, logging included, and of each logging call in it."""

    loop_s: float
    step_s: list[float]
    call_s: list[float]


def timed_loop(
    train: Callable[[int], Any],
    log: Callable[[Any, int], None],
    first_step: int,
    steps: int,
    limit_s: float = math.inf,
) -> LoopTimes:
    """Train and log `steps` times, or until `limit_s` is over; read the clock around every call.

    Two readings with nothing in between come before each call; their median, the clock's own cost
    in this very loop, is taken off the calls' times (the steps' times hold all four readings).
    """
    clock = time.perf_counter
    empty = array("d", bytes(8 * steps))
    call = array("d", bytes(8 * steps))
    ends = array("d", bytes(8 * (steps + 1)))
    ends[0] = clock()
    deadline_s = ends[0] + limit_s
    done = steps
    for i in range(steps):
        step = first_step + i
        scalars = train(step)
        before = clock()
        start = clock()
        log(scalars, step)
        end = clock()
        empty[i] = start - before
        call[i] = end - start
        ends[i + 1] = end = clock()
        if end > deadline_s:
            done = i + 1
            break
    clock_cost_s = statistics.median(empty[:done])
    return LoopTimes(
        loop_s=ends[done] - ends[0],
        step_s=[ends[i + 1] - ends[i] for i in range(done)],
        call_s=[max(0.0, seconds - clock_cost_s) for seconds in call[:done]],
    )


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the nearest-rank percentile of `values`."""
    return sorted(values)[max(0, math.ceil(percent / 100 * len(values)) - 1)]


def median_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the median of `values` and its 95% confidence interval.

    The interval is that of the sign test: two order statistics, whatever the distribution. With
    fewer than six values there is none; it is then their whole range.
    """
    ordered = sorted(values)
    n = len(ordered)
    rank, below = 0, 0.5**n  # `below`: the chance that at most `rank` values lie under the median
    while below <= 0.025 and rank < (n - 1) // 2:
        rank += 1
        below += math.comb(n, rank) / 2**n
    rank = max(0, rank - 1)
    return statistics.median(ordered), ordered[rank], ordered[n - 1 - rank]


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table, its first column to the left and the others to the right."""
    lines = [headings, ["---", *["---:"] * (len(headings) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def machine() -> dict[str, Any]:
    """Return what the figures depend on: processor, cores, memory, load now, versions."""
    model = platform.processor()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    versions = {}
    for package in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(memory_bytes / 2**30, 1),
        "load": round(os.getloadavg()[0], 2),
        "system": platform.platform(terse=True),
        "python": sys.version.split()[0],
        **versions,
    }


def describe_machine(details: dict[str, Any]) -> str:
    """Return `machine()` as one line."""
    return ", ".join(f"{name} {value}" for name, value in details.items())
