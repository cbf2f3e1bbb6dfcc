"""What the training process carries: memory, the constructor, `finish()`."""

from __future__ import annotations

import gc
import time
from typing import Any

from bench.lib.processes import call_in_new_process, memory_mb
from bench.lib.scalars import FIVE, LOSS, TAGS
from bench.lib.trackers import cut_short, known_options
from bench.targets.figure import ROUNDS, Figure, over_rounds

_WARM_UP_STEPS = 100
_FINISH_ROWS = 10_000
_ROWS_PER_S = 1000
_GROWTH_LIMIT_MB = 1.0  # "none" needs a number: of the allocator's own to and fro


def memory(quick: bool) -> list[Figure]:
    """Measure the training process's memory above that without logging, in processes by turns."""
    steps, number = (100, 1) if quick else (4000, ROUNDS)
    above: dict[str, list[float]] = {"now_mb": [], "peak_mb": []}
    for _ in range(number):
        plain, tracked = (
            call_in_new_process(train_with, key, steps) for key in ("none", "fasttrack")
        )
        for name, values in above.items():
            values.append(tracked[name] - plain[name])
    return [
        over_rounds("memory above no logging, after training", above["now_mb"], "MB", 10),
        over_rounds("memory above no logging, highest", above["peak_mb"], "MB", 10),
    ]


def train_with(key: str, steps: int) -> dict[str, float]:
    """Train with a way of logging; return the memory in use at the end, and the most so far."""
    from bench.lib.ways import COMPARED, train
    from bench.lib.workload import Workload

    work = Workload()
    for step in range(_WARM_UP_STEPS):
        work.step(step)
    way = COMPARED[key].build(work)
    way.open()
    try:
        way.settle()
        train(work, way, 0, steps)
        gc.collect()
        return {"now_mb": memory_mb(), "peak_mb": memory_mb("VmHWM")}
    finally:
        way.close()


def growth(quick: bool) -> list[Figure]:
    """Measure the training process's memory after many logged steps and after ten times as many."""
    few, many = (1000, 10_000) if quick else (100_000, 1_000_000)
    found = call_in_new_process(log_steps, few, many)
    return [
        Figure(
            f"memory growth from {few:,} to {many:,} logged steps",
            found["many_mb"] - found["few_mb"],
            "MB",
            _GROWTH_LIMIT_MB,
            note=f"{found['few_mb']:.1f} to {found['many_mb']:.1f} MB",
        )
    ]


def log_steps(few: int, many: int) -> dict[str, float]:
    """Log steps; return the memory in use after `few` and after `many`."""
    from bench.lib.workload import Workload

    work = Workload()
    scalars = work.step(0)
    with cut_short() as tracker:
        for step in range(1, many + 1):
            tracker.log_training_step(scalars[LOSS], step, 32, work.optimizer, work.model)
            if step % 1000 == 0:
                tracker.flush()
            if step == few:
                few_mb = memory_mb()
        return {"few_mb": few_mb, "many_mb": memory_mb()}


def constructor(quick: bool) -> list[Figure]:
    """Measure the constructor, torch being imported, and `finish()`; a process per round."""
    rows = 500 if quick else _FINISH_ROWS
    number = 1 if quick else ROUNDS
    steady = [call_in_new_process(one_run, rows, _ROWS_PER_S) for _ in range(number)]
    at_once = [call_in_new_process(one_run, rows, None) for _ in range(number)]

    def of(rounds: list[dict[str, float]], name: str) -> list[float]:
        return [found[name] for found in rounds]

    both = steady + at_once
    imports = "`from fasttrack import ExperimentTracker`, torch being imported"
    return [
        over_rounds("constructor", of(both, "constructor_ms"), "ms", 150),
        over_rounds(imports, of(both, "import_ms"), "ms"),
        over_rounds(
            f"`finish()` offline after {rows:,} rows, {_ROWS_PER_S:,} a second",
            of(steady, "finish_s"),
            "s",
            2,
        ),
        over_rounds(
            f"`finish()` offline after {rows:,} rows at once", of(at_once, "finish_s"), "s"
        ),
    ]


def one_run(rows: int, rows_per_s: int | None) -> dict[str, Any]:
    """Import, construct, log, finish; return how long each but the logging took."""
    import torch  # noqa: F401  # what a training script has done before

    gc.collect()  # torch's; else it comes due somewhere in the constructor
    start_s = time.perf_counter()
    from fasttrack import ExperimentTracker

    imported_s = time.perf_counter()
    options = known_options(wait_for_delivery="finish")
    begin_s = time.perf_counter()
    tracker = ExperimentTracker(tags=TAGS, mode="offline", options=options)
    constructed_s = time.perf_counter()
    for step in range(rows):
        if rows_per_s is not None:
            time.sleep(max(0.0, constructed_s + step / rows_per_s - time.perf_counter()))
        tracker.log_metrics(FIVE, step)
    logged_s = time.perf_counter()
    tracker.finish()
    finished_s = time.perf_counter()
    stats = tracker.stats()
    if stats.rows_delivered != rows:
        raise RuntimeError(f"not all was delivered: {stats}")
    return {
        "import_ms": (imported_s - start_s) * 1e3,
        "constructor_ms": (constructed_s - begin_s) * 1e3,
        "finish_s": finished_s - logged_s,
    }
