"""The delivery process: rows a second into wandb offline, its lag, CPU time and memory."""

from __future__ import annotations

import json
import os
import subprocess
import time
from typing import TYPE_CHECKING, Any

from bench.probes import DescendantsWatch, call_in_new_process
from bench.targets.figure import ROUNDS, Figure, over_rounds
from bench.targets.tracking import FIVE, TAGS, undelivered

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bench.probes import Usage

_ROWS_PER_S = 1000
_LAG_LIMIT = 2 * _ROWS_PER_S  # delivery reports once a second; a lag of a second is none
_LOOK_EVERY_S = 0.05


def rate(quick: bool) -> list[Figure]:
    """Measure a backlog's way from the delivery process's first row to the proof."""
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


def deliver_backlog(rows: int) -> dict[str, float]:
    """Write a finished journal, deliver it in a process, and return what that took."""
    segment = finished_journal(rows)
    watch = DescendantsWatch()
    times: dict[str, float] = {}
    cpu_before_s = 0.0
    for event, at_s in follow_delivery(segment, watch):
        times.setdefault(event["event"], at_s)
        if event["event"] == "offline":  # wandb has opened the run; the first row comes next
            cpu_before_s = watch.total().cpu_s
        if event["event"] == "done" and not (event["delivered"] and event["rows"] == rows):
            raise RuntimeError(f"not all was delivered: {event}")
    used = watch.total()
    return {
        "rows_per_s": rows / (times["done"] - times["offline"]),
        "cpu_us": (used.cpu_s - cpu_before_s) / rows * 1e6,
        "peak_mb": used.peak_mb,
    }


def finished_journal(rows: int) -> Path:
    """Return the journal of an offline run that has ended, and of which nothing is delivered."""
    tracker = undelivered()
    for step in range(rows):
        tracker.log_metrics(FIVE, step)
    tracker.finish()
    directory = tracker.get_run_dir()
    assert directory is not None
    (segment,) = directory.glob("segment-*.jsonl")
    return segment


def follow_delivery(
    segment: Path, watch: DescendantsWatch
) -> Iterator[tuple[dict[str, Any], float]]:
    """Start a delivery process as a trainer does; yield what it reports, and when."""
    from fasttrack.delivery.spawn import delivery_command, delivery_environment

    ours, theirs = os.pipe()
    command = [*delivery_command(segment), "--trainer-pid", str(os.getpid())]
    process = subprocess.Popen(
        [*command, "--report-fd", str(theirs)],
        env=delivery_environment(),
        stdout=subprocess.DEVNULL,
        pass_fds=(theirs,),
        start_new_session=True,
    )
    os.close(theirs)
    os.set_blocking(ours, False)
    partial = b""
    while True:
        ended = process.poll() is not None
        try:
            data = os.read(ours, 65536)
        except BlockingIOError:
            data = b""
        *lines, partial = (partial + data).split(b"\n")
        at_s = time.perf_counter()
        watch.look()
        for line in lines:
            yield json.loads(line), at_s
        if ended:
            break
        time.sleep(_LOOK_EVERY_S)
    os.close(ours)
    if process.returncode != 0:
        raise RuntimeError(f"the delivery process ended with {process.returncode}")


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
            sum(cpu for cpu, _ in found["used"].values()) / found["rows"] * 1e6,
            "us",
        ),
    ]


def train_and_watch(seconds: float) -> dict[str, Any]:
    """Train without a pause, log 1,000 rows/s, and look at delivery once a second."""
    from bench.workload import Workload
    from fasttrack import ExperimentTracker

    work, watch = Workload(), DescendantsWatch()
    lags: list[int] = []
    logged = 0
    tracker = ExperimentTracker(tags=TAGS, mode="offline")
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
