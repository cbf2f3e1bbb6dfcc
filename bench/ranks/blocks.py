"""One rank's blocks of steps: logged by a tracker of its own, and by one that all ranks share.

Blocks of both kinds take turns in one process, in alternating order, and each pair gives a ratio;
whatever drifts slower than two blocks cancels. A block's CPU time is that of the tracker's own
threads, by their clocks, from its first step until all of it is written.
"""

from __future__ import annotations

import statistics
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.lib.measure import percentile, timed_loop
from bench.lib.workload import SIZES, Workload
from fasttrack import ExperimentTracker, Options

if TYPE_CHECKING:
    from bench.lib.scalars import Scalars

_WAIT_S = 60.0
KINDS = ("main", "all")


class Block(NamedTuple):
    """Of one block: the median call, and the CPU time of the tracker's threads per step, in s."""

    call_s: float
    threads_s: dict[str, float]
    """By the thread's name."""


class Tracked:
    """A tracker with the threads that it has started.

    Threads: one.
    """

    def __init__(self, kind: str, rank: int) -> None:
        """Begin a run of `rank` alone ("main"), or take part in one of all ranks ("all")."""
        before = set(threading.enumerate())
        log_rank = rank if kind == "main" else 0
        self.tracker = ExperimentTracker(
            "bench",
            mode="offline",
            log_interval=1,
            options=Options(ranks=kind, log_rank=log_rank, backends=("none",), console=False),
        )
        self._clocks = {
            thread.name: time.pthread_getcpuclockid(thread.ident or 0)
            for thread in set(threading.enumerate()) - before
            if thread.name in ("fasttrack-worker", "fasttrack-ranks")
        }

    def cpu_s(self) -> dict[str, float]:
        """Return the CPU time of each thread so far."""
        return {name: time.clock_gettime(clock) for name, clock in self._clocks.items()}

    def flush(self) -> None:
        """Wait until the worker has handled all that was logged."""
        run: Any = self.tracker._engine or self.tracker._other
        run._worker.flush(_WAIT_S)


def run_block(work: Workload, tracked: Tracked, first_step: int, steps: int) -> Block:
    """Train and log one block."""

    def log(scalars: Scalars, step: int) -> None:
        tracked.tracker.log_training_step(
            scalars["loss/total"], step, work.batch_size, work.optimizer
        )

    before = tracked.cpu_s()
    times = timed_loop(work.step, log, first_step, steps)
    tracked.flush()
    spent = {name: (now_s - before[name]) / steps for name, now_s in tracked.cpu_s().items()}
    return Block(percentile(times.call_s, 50), spent)


def measure(rank: int, pairs: int, steps: int) -> list[dict[str, Block]]:
    """Return the blocks of both kinds, a pair at a time."""
    work = Workload(SIZES["1"])
    tracked = {kind: Tracked(kind, rank) for kind in KINDS}
    block = partial(run_block, work)
    for kind in KINDS:
        block(tracked[kind], 0, steps)  # warms everything up
    found = []
    for number in range(1, pairs + 1):
        order = KINDS if number % 2 else KINDS[::-1]
        found.append({kind: block(tracked[kind], number * steps, steps) for kind in order})
    for each in tracked.values():
        each.tracker.finish()
    return found


def ratios(found: list[dict[str, Block]]) -> dict[str, list[float]]:
    """Return of each pair the ratios of "all" to "main": the call, the worker, all threads."""
    worker = "fasttrack-worker"
    return {
        "call": [pair["all"].call_s / pair["main"].call_s for pair in found],
        "worker": [
            pair["all"].threads_s[worker] / pair["main"].threads_s[worker] for pair in found
        ],
        "threads": [
            sum(pair["all"].threads_s.values()) / sum(pair["main"].threads_s.values())
            for pair in found
        ],
    }


def medians_us(found: list[dict[str, Block]], kind: str) -> list[float]:
    """Return the medians over the blocks of one kind: the call, the worker, the ranks' thread."""
    blocks = [pair[kind] for pair in found]
    threads = ("fasttrack-worker", "fasttrack-ranks")
    return [
        1e6 * statistics.median(block.call_s for block in blocks),
        *(
            1e6 * statistics.median(block.threads_s.get(name, 0.0) for block in blocks)
            for name in threads
        ),
    ]
