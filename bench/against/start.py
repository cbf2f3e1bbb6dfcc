"""What a process pays once: imports, and the first seconds of training."""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import statistics
import time

from bench.lib.measure import MS
from bench.lib.processes import check_build, signal_descendants
from bench.lib.scalars import TAGS


class Imports:
    """A process that has imported torch; its forks import fasttrack, each anew."""

    def __init__(self) -> None:
        """Import what a training script has imported before, and leave no garbage of it."""
        importlib.import_module("torch")
        gc.collect()  # else it comes due in the first import of many objects, or just after it

    def fork(self, function: str) -> dict[str, float]:
        """Return what a function of this module returns in a fork."""
        ours, theirs = os.pipe()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                os.write(theirs, json.dumps(globals()[function]()).encode())
                code = 0
            finally:
                os._exit(code)
        os.close(theirs)
        with open(ours, "rb") as pipe:
            data = pipe.read()
        if os.waitpid(pid, 0)[1]:
            raise RuntimeError("the import failed")
        found: dict[str, float] = json.loads(data)
        return found


def import_recording() -> dict[str, float]:
    """Import the tracker's class; return how long that took."""
    start_s, start_cpu_s = time.perf_counter(), time.process_time()
    from fasttrack import ExperimentTracker  # noqa: F401

    return _since(start_s, start_cpu_s)


def import_not_recording() -> dict[str, float]:
    """Import it on a rank that does not record, and build one there."""
    os.environ.update(RANK="1", WORLD_SIZE="2", LOCAL_RANK="1")
    start_s, start_cpu_s = time.perf_counter(), time.process_time()
    from fasttrack import ExperimentTracker

    tracker = ExperimentTracker(tags=TAGS, mode="offline")
    found = _since(start_s, start_cpu_s)
    if tracker.is_active():
        raise RuntimeError("this rank records")
    return found


def _since(start_s: float, start_cpu_s: float) -> dict[str, float]:
    cpu_s = time.process_time() - start_cpu_s
    wall_s = time.perf_counter() - start_s
    check_build()
    return {"wall_ms": wall_s * MS, "cpu_ms": cpu_s * MS}


def first_seconds(seconds: float) -> dict[str, float]:
    """Begin a run and train with it at once; return the mean step beside those without logging.

    Half of these come before, half after, while delivery is stopped.
    """
    from bench.against.session import stamped
    from bench.lib.ways import Fasttrack, Way
    from bench.lib.workload import Workload

    work = Workload()
    nothing, way = Way(work), Fasttrack(work)
    stamped(work, nothing.log, 0, seconds / 10)  # warms torch up
    before_us, _ = stamped(work, nothing.log, 0, seconds / 2)
    way.open()
    begun_us, _ = stamped(work, way.log, 0, seconds)
    signal_descendants(signal.SIGSTOP)
    after_us, _ = stamped(work, nothing.log, 0, seconds / 2)
    signal_descendants(signal.SIGCONT)
    way.close()
    without_us = statistics.fmean([statistics.fmean(before_us), statistics.fmean(after_us)])
    return {"ratio": statistics.fmean(begun_us) / without_us}
