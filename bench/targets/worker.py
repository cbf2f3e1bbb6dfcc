"""How long the worker keeps the GIL: by CPU time per burst, and as another thread feels it.

Two instruments. The bursts (`GilBursts`): the worker's CPU time between two points where it
gives the GIL up, in a real training loop. And a probe, the logging thread itself, that reads the
clock without pause in pure Python, as a training thread that needs the GIL all the time: a gap in
its readings in which the worker has the GIL is what such a thread loses, the hand-over there and
back included. Gaps at other times are the machine's (another process on the core), and so is much
of the others' tail, although nothing but the probe and the worker runs there. The switch interval
stays at Python's 5 ms: a shorter one would have the probe cut the bursts in pieces.
"""

from __future__ import annotations

import bisect
import statistics
import time
from typing import TYPE_CHECKING

from bench.lib.measure import US, percentile
from bench.lib.processes import call_in_new_process
from bench.lib.scalars import FIVE
from bench.lib.trackers import WORKER, held_back
from bench.targets.figure import ROUNDS, Figure, over_rounds
from bench.targets.gil import GilBursts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench.targets.gil import Burst

_GAP_S = 20e-6  # shorter ones are the interpreter's own
_ROW_EVERY_S = 1e-3
_WARM_UP_STEPS = 1000
_WAYS = (
    ("metrics", "`log_metrics` of five", 8),
    ("training", "`log_training_step`, two and five `perf/`", None),
)


def gil(quick: bool) -> list[Figure]:
    """Measure the bursts, of rows logged at every step of 1 ms."""
    figures = []
    steps, number = (300, 1) if quick else (5000, ROUNDS)
    for key, description, limit in _WAYS:
        rounds = [call_in_new_process(burst_round, key, steps) for _ in range(number)]
        per_row = [found["us_per_row"] for found in rounds]
        figures.append(
            over_rounds(f"worker, GIL held per row, {description}", per_row, "us", limit)
        )
        p50, p99 = (statistics.median(found[p] for found in rounds) for p in ("p50_us", "p99_us"))
        largest = [found["max_us"] for found in rounds]
        note = (
            f"{sum(found['bursts'] for found in rounds):,} bursts, p50 {p50:.1f} us, "
            f"p99 {p99:.1f} us; longest in each round: {', '.join(f'{us:.0f}' for us in largest)}"
        )
        figures.append(
            Figure("the same, longest of all bursts", max(largest), "us", 200, note=note)
        )
    return figures


def burst_round(key: str, steps: int) -> dict[str, float]:
    """Train and log, and return what the worker's bursts under the GIL were."""
    from bench.lib.ways import OVERHEAD, train
    from bench.lib.workload import Workload

    work, watch = Workload(), GilBursts()
    way = OVERHEAD[key].build(work)
    way.open()
    try:
        way.settle()
        train(work, way, 0, _WARM_UP_STEPS)
        watch.watch(WORKER)
        train(work, way, _WARM_UP_STEPS, steps)
        bursts = watch.bursts()
    finally:
        way.close()
    held_us = [burst.cpu_s * US for burst in bursts]
    return {
        "bursts": len(bursts),
        # The rows still in the ring are as many as those that were there at the beginning.
        "us_per_row": sum(held_us) / steps,
        "p50_us": percentile(held_us, 50),
        "p99_us": percentile(held_us, 99),
        "max_us": max(held_us),
    }


# --- as another thread feels it --------------------------------------------------------------


def gil_probe(quick: bool) -> list[Figure]:
    """Measure what a thread that needs the GIL all the time loses to the worker's bursts."""
    seconds, number = (1.0, 1) if quick else (10.0, ROUNDS)
    rounds = [call_in_new_process(probe_round, seconds) for _ in range(number)]

    def of(name: str) -> list[float]:
        return [found[name] for found in rounds]

    gaps = f"{sum(of('gaps')):,.0f} gaps"
    return [
        over_rounds(
            "spinning thread, gap while the worker works, p50", of("p50_us"), "us", note=gaps
        ),
        over_rounds("the same, p99", of("p99_us"), "us"),
        over_rounds("spinning thread, gap that is the machine's, p99", of("machine_p99_us"), "us"),
        over_rounds("spinning thread, time in gaps while the worker works", of("lost"), "%"),
    ]


def probe_round(seconds: float) -> dict[str, float]:
    """Spin, log a row each millisecond, and return the gaps."""
    watch = GilBursts()
    with held_back() as tracker:
        spin(1.0, tracker.log_metrics)
        watch.watch(WORKER)
        gaps = spin(seconds, tracker.log_metrics)
        bursts = watch.bursts()
    theirs, rest = attributed(gaps, bursts)
    return {
        "gaps": len(theirs),
        "lost": sum(theirs) / seconds,
        "p50_us": percentile(theirs, 50) * US,
        "p99_us": percentile(theirs, 99) * US,
        "machine_p99_us": percentile(rest, 99) * US if rest else 0.0,
    }


def spin(seconds: float, log: Callable[[dict[str, float], int], None]) -> list[tuple[float, float]]:
    """Read the clock until `seconds` have passed; return (start, end) of every gap in between."""
    clock = time.perf_counter
    gaps = []
    last = clock()
    end, next_row, step = last + seconds, last, 0
    while last < end:
        now = clock()
        if now - last > _GAP_S:
            gaps.append((last, now))
        if now >= next_row:
            log(FIVE, step)
            step += 1
            next_row += _ROW_EVERY_S
            now = clock()  # the call is no gap
        last = now
    return gaps


def attributed(
    gaps: Sequence[tuple[float, float]], bursts: Sequence[Burst]
) -> tuple[list[float], list[float]]:
    """Return the lengths of the gaps in which a burst lies, in part at least, and of the others."""
    ends = [burst.end_s for burst in bursts]
    theirs: list[float] = []
    rest: list[float] = []
    for start_s, end_s in gaps:
        following = bisect.bisect_right(ends, start_s)  # the first burst that ends after the start
        overlaps = following < len(bursts) and bursts[following].start_s < end_s
        (theirs if overlaps else rest).append(end_s - start_s)
    return theirs, rest
