"""What ways of logging cost beside each other: one process per way and round, interleaved.

`python -m bench.compare [--rounds N] [--steps N] [--quick] [--only KEY,KEY] [--json FILE]`

Every round runs every way once, in an order shuffled anew (from a fixed seed), each in a process
of its own. A ratio is taken within its round and then the median over the rounds, so that a slow
minute of the machine meets all ways alike. Even so processes differ by 5% on small machines: for
fasttrack's own share of a step, overhead.py is the finer instrument.

A process imports torch, builds and warms the workload, opens the run, waits until what that starts
in the background has started, logs some steps that do not count, and then measures the loop. This
module imports no torch by itself: a child's peak memory (`ru_maxrss`) begins with its parent's.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench.measure import (
    describe_machine,
    machine,
    percentile,
    private_wandb,
    table,
    timed_loop,
)
from bench.ways import COMPARED

_ROOT = Path(__file__).resolve().parent.parent
_SEED = 20
_TORCH_WARM_UP_STEPS = 100
_WARM_UP_STEPS = 400  # with logging; these do not count
_CHILD_TIMEOUT_S = 300.0
_BASELINE = "none"


def run_child(key: str, steps: int) -> dict[str, float]:
    """Measure one way in this process; return its figures, units in their names."""
    from bench.workload import Workload  # here, not above: it imports torch

    work = Workload()
    for step in range(_TORCH_WARM_UP_STEPS):
        work.step(step)
    start_rss_mb = _peak_rss_mb()
    way = COMPARED[key][1](work)
    start_s = time.perf_counter()
    way.open()
    open_s = time.perf_counter() - start_s
    way.settle()
    for step in range(_WARM_UP_STEPS):
        scalars = work.step(step)
        way.log(scalars, step)
    start_cpu_s = _cpu_s(resource.RUSAGE_SELF)
    times = timed_loop(work.step, way.log, _WARM_UP_STEPS, steps)
    loop_cpu_s = _cpu_s(resource.RUSAGE_SELF) - start_cpu_s
    peak_rss_mb = _peak_rss_mb()
    start_s = time.perf_counter()
    way.close()
    finish_s = time.perf_counter() - start_s
    way.reap()
    return {
        "loop_s": times.loop_s,
        **{f"step_p{p:g}_ms": percentile(times.step_s, p) * 1e3 for p in (50, 99, 99.9)},
        **{f"call_p{p:g}_us": percentile(times.call_s, p) * 1e6 for p in (50, 99)},
        "loop_cpu_s": loop_cpu_s,
        "other_processes_cpu_s": _cpu_s(resource.RUSAGE_CHILDREN),
        "start_rss_mb": start_rss_mb,
        "peak_rss_mb": peak_rss_mb,
        "growth_rss_mb": peak_rss_mb - start_rss_mb,
        "open_s": open_s,
        "finish_s": finish_s,
    }


def _cpu_s(who: int) -> float:
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime


def _peak_rss_mb() -> float:
    unit_bytes = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit_bytes / 2**20


def spawn_child(key: str, steps: int) -> dict[str, float]:
    """Run one child process to its end; return what it measured.

    Raises:
        RuntimeError: it failed; the message holds what it said.
    """
    command = [sys.executable, "-m", "bench.compare", "--child", key, "--steps", str(steps)]
    done = subprocess.run(
        command,
        cwd=_ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=_CHILD_TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed ({done.returncode}):\n{done.stderr}")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def run_rounds(keys: list[str], rounds: int, steps: int) -> dict[str, list[dict[str, float]]]:
    """Return, for each way, what it measured in each round."""
    shuffler = random.Random(_SEED)
    results: dict[str, list[dict[str, float]]] = {key: [] for key in keys}
    for number in range(rounds):
        order = shuffler.sample(keys, len(keys))
        for key in order:
            print(f"round {number + 1}/{rounds}: {key}", file=sys.stderr, flush=True)
            results[key].append(spawn_child(key, steps))
    return results


HEADINGS = (
    "way of logging",
    "loop / no logging",
    "(lowest-highest)",
    "call p50, us",
    "call p99, us",
    "step p50, ms",
    "step p99, ms",
    "step p99.9, ms",
    "CPU / no logging",
    "other processes' CPU, s",
    "memory, MB",
    "open, s",
    "finish, s",
)


def row(key: str, results: dict[str, list[dict[str, float]]]) -> list[str]:
    """Return one line of the table: medians over the rounds."""
    own, baseline = results[key], results[_BASELINE]

    def ratios(name: str) -> list[float]:
        return [a[name] / b[name] for a, b in zip(own, baseline, strict=True)]

    def median(name: str) -> float:
        return statistics.median(figures[name] for figures in own)

    loop = ratios("loop_s")
    memory_mb = [a["peak_rss_mb"] - b["peak_rss_mb"] for a, b in zip(own, baseline, strict=True)]
    return [
        COMPARED[key][0],
        f"{statistics.median(loop):.3f}",
        f"{min(loop):.3f}-{max(loop):.3f}",
        f"{median('call_p50_us'):.2f}",
        f"{median('call_p99_us'):.1f}",
        f"{median('step_p50_ms'):.3f}",
        f"{median('step_p99_ms'):.2f}",
        f"{median('step_p99.9_ms'):.2f}",
        f"{statistics.median(ratios('loop_cpu_s')):.3f}",
        f"{median('other_processes_cpu_s'):.2f}",
        f"{statistics.median(memory_mb):+.1f}",
        f"{median('open_s'):.3f}",
        f"{median('finish_s'):.2f}",
    ]


def main() -> None:
    """Measure and print; or be a child."""
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=4000, help="steps of each measured loop")
    parser.add_argument("--quick", action="store_true", help="1 round of 400 steps; runs, no more")
    parser.add_argument("--only", help=f"some of {','.join(COMPARED)}; {_BASELINE} always runs")
    parser.add_argument("--json", type=Path, help="write everything here")
    parser.add_argument("--child", choices=COMPARED, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        with private_wandb():
            print(json.dumps(run_child(arguments.child, arguments.steps)))
        return
    rounds, steps = (1, 400) if arguments.quick else (arguments.rounds, arguments.steps)
    chosen = set(arguments.only.split(",") if arguments.only else COMPARED) | {_BASELINE}
    if unknown := chosen - set(COMPARED):
        parser.error(f"--only: no such key: {', '.join(sorted(unknown))}")
    keys = [key for key in COMPARED if key in chosen]

    details = machine()
    results = run_rounds(keys, rounds, steps)
    print(f"{describe_machine(details)}; {rounds} rounds of {steps} steps\n")
    print(table(HEADINGS, [row(key, results) for key in keys]))
    if arguments.json:
        everything: dict[str, Any] = {
            "machine": details,
            "rounds": rounds,
            "steps": steps,
            "ways": {key: COMPARED[key][0] for key in keys},
            "results": results,
        }
        arguments.json.write_text(json.dumps(everything, indent=2))


if __name__ == "__main__":
    main()
