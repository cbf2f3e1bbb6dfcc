"""The delivery process: rows a second into wandb offline, its lag, CPU time and memory."""

from __future__ import annotations

import os
import resource
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

from bench.lib.measure import US
from bench.lib.processes import (
    DescendantsWatch,
    adopt_orphans,
    call_in_new_process,
    cpu_s,
    wait_for_children,
)
from bench.lib.scalars import FIVE, TAGS
from bench.lib.trackers import known_options, run_files, signal_delivery, wait_for_delivery
from bench.targets.figure import ROUNDS, Figure, over_rounds

if TYPE_CHECKING:
    from bench.lib.processes import Usage

_ROWS_PER_S = 1000
_LAG_LIMIT = 2 * _ROWS_PER_S  # delivery reports once a second; a lag of a second is none
_LOOK_EVERY_S = 0.05
_END_TIMEOUT_S = 300.0


def rate(quick: bool) -> list[Figure]:
    """Measure a backlog's way, from delivery going on, its run open, to the proof."""
    rows, number = (500, 1) if quick else (20_000, ROUNDS)
    rounds = [call_in_new_process(deliver_backlog, rows) for _ in range(number)]

    def of(name: str) -> list[float]:
        return [found[name] for found in rounds]

    return [
        over_rounds(
            f"delivery of {rows:,} waiting rows, offline",
            of("rows_per_s"),
            "rows/s",
            3000,
            at_least=True,
        ),
        over_rounds("its CPU time per row, wandb-core's with it", of("cpu_us"), "us"),
        over_rounds("its memory, highest, wandb-core's with it", of("peak_mb"), "MB"),
    ]


def deliver_backlog(rows: int, server: dict[str, str] | None = None) -> dict[str, float]:
    """Have rows wait while delivery is stopped, let it go on, and return what they took.

    `server` is the environment that points clients at one; without, the run is offline.
    """
    from fasttrack import ExperimentTracker

    os.environ.update(server or {})
    mode = "online" if server else "offline"
    adopt_orphans()  # wandb-core outlives the process that started it
    watch = DescendantsWatch()
    options = known_options(wait_for_delivery="finish", finish_timeout_s=_END_TIMEOUT_S)
    tracker = ExperimentTracker(tags=TAGS, mode=mode, options=options)
    wait_for_delivery(set(), mode)
    signal_delivery(signal.SIGSTOP)
    (file,) = run_files(mode)
    size_before = file.stat().st_size
    watch.look()
    cpu_before_s = watch.total().cpu_s + cpu_s(resource.RUSAGE_CHILDREN)
    for step in range(rows):
        tracker.log_metrics(FIVE, step)
    tracker.flush()

    looking = threading.Event()
    looker = threading.Thread(target=watch.look_until, args=(looking, _LOOK_EVERY_S))
    looker.start()
    start_s = time.perf_counter()
    signal_delivery(signal.SIGCONT)
    tracker.finish()
    took_s = time.perf_counter() - start_s
    looking.set()
    looker.join()
    stats = tracker.stats()
    if stats.rows_delivered != rows:
        raise RuntimeError(f"not all was delivered: {stats}")
    wait_for_children(_END_TIMEOUT_S)
    return {
        "rows_per_s": rows / took_s,
        "finish_s": took_s,
        "bytes": (file.stat().st_size - size_before) / rows,
        "cpu_us": (cpu_s(resource.RUSAGE_CHILDREN) - cpu_before_s) / rows * US,
        "peak_mb": watch.total().peak_mb,
    }


# --- beside a trainer that never rests -------------------------------------------------------


def lag(quick: bool) -> list[Figure]:
    """Measure how far delivery is behind a trainer that logs 1,000 rows/s and keeps a core busy."""
    seconds = 4.0 if quick else 30.0
    found = call_in_new_process(train_and_watch, seconds)
    lags = found["lags"]
    later = lags[len(lags) // 2 :]
    used = {name: f"{cpu:.1f} s, {mb:.0f} MB" for name, (cpu, mb) in found["used"].items()}
    return [
        Figure(
            "rows not yet delivered, most in the second half of "
            f"{seconds:.0f} s at {_ROWS_PER_S:,} rows/s",
            max(later),
            "rows",
            _LAG_LIMIT,
            note=f"largest {max(lags):,.0f} (wandb is imported at first), last {lags[-1]:,.0f}; "
            f"`finish()` took {found['finish_s']:.2f} s; CPU time and highest memory of "
            + ", ".join(f"{name}: {text}" for name, text in used.items()),
        ),
        Figure(
            "delivery's CPU time per row in this run, its start included",
            sum(cpu for cpu, _ in found["used"].values()) / found["rows"] * US,
            "us",
        ),
    ]


def train_and_watch(seconds: float) -> dict[str, Any]:
    """Train without a pause, log 1,000 rows/s, and look at delivery once a second."""
    from bench.lib.workload import Workload
    from fasttrack import ExperimentTracker, Options

    work, watch = Workload(), DescendantsWatch()
    lags: list[int] = []
    logged = 0
    options = Options(wait_for_delivery="finish")
    tracker = ExperimentTracker(tags=TAGS, mode="offline", options=options)
    start_s = time.perf_counter()
    while (elapsed_s := time.perf_counter() - start_s) < seconds:
        scalars = work.step(logged)
        for step in range(logged, int(elapsed_s * _ROWS_PER_S)):
            tracker.log_metrics(scalars, step)
            logged = step + 1
        if elapsed_s >= len(lags) + 1:
            stats = tracker.stats()
            lags.append(stats.rows_written - stats.rows_delivered)
            watch.look()
    finish_s = time.perf_counter()
    tracker.finish()
    finish_s = time.perf_counter() - finish_s
    stats = tracker.stats()
    if stats.rows_delivered != logged:
        raise RuntimeError(f"{logged} rows logged, not all delivered: {stats}")
    used: dict[str, Usage] = watch.by_name()
    return {"lags": lags, "rows": logged, "finish_s": finish_s, "used": used}
