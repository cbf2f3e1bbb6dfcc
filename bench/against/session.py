"""What the measured processes serve: a tracker, open, with its delivery in hand."""

from __future__ import annotations

import contextlib
import signal
import time
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from bench.against.internals import idle_worker, worker_cpu_s
from bench.lib.measure import US, percentile
from bench.lib.processes import DescendantsWatch, signal_descendants
from bench.lib.trackers import WORKER
from bench.lib.ways import (
    EmptyCall,
    Fasttrack,
    FasttrackNotLogged,
    FasttrackTraining,
    Way,
    timed_calls,
    train,
)
from bench.lib.workload import SIZES, Workload
from bench.overhead.blocks import block_steps, run_block
from bench.targets.gil import GilBursts

if TYPE_CHECKING:
    from collections.abc import Callable

MANY = 500  # metrics of a step that has many
_WAYS: dict[str, Callable[..., Fasttrack]] = {
    "metrics": Fasttrack,
    "many": Fasttrack,
    "training": FasttrackTraining,
    "not-logged": FasttrackNotLogged,
}
_WARM_UP_STEPS = 200
_LEAD_IN_STEPS = 4  # of a turn: the other process has just had the caches
_BLOCK_MS = 10.0
_HELD_TIMEOUT_S = 3600.0  # delivery is stopped for as long as others have their turn


class Session:
    """A way of logging that is open and warm, its delivery stopped."""

    def __init__(self) -> None:
        """Have nothing open yet."""
        self._step = 0

    def open(self, key: str, step_ms: str = "1") -> None:
        """Start a run, and wait until all that starts in the background has started."""
        self._key, self._step_ms = key, step_ms
        self._work = Workload(SIZES[step_ms], MANY if key == "many" else 5)
        self._way = _WAYS[key](self._work, hang_timeout_s=_HELD_TIMEOUT_S)
        self._nothing = Way(self._work)
        self._way.open()
        self._way.settle()
        signal_descendants(signal.SIGSTOP)
        train(self._work, self._way, self._steps(_WARM_UP_STEPS), _WARM_UP_STEPS)
        self.flush()

    def flush(self) -> None:
        """Wait until all rows are in the journal."""
        self._way.flush()

    def close(self) -> None:
        """End the run, all of it delivered."""
        signal_descendants(signal.SIGCONT)
        self._way.close()

    def _steps(self, number: int) -> int:
        """Return the first of so many step numbers that nobody has used yet."""
        first = self._step
        self._step += number
        return first


class Calls(Session):
    """Single calls after real steps, and the worker's CPU time for them."""

    def turn(self, steps: int) -> dict[str, float]:
        """Return the median call in us; beside one that is not logged, that of an empty one."""
        total = steps + _LEAD_IN_STEPS
        first = self._steps(total)
        if self._key != "not-logged":
            call_s = timed_calls(self._work, [self._way], first, total)
            return {"call_us": percentile(call_s[_LEAD_IN_STEPS:], 50) * US}
        call_s = timed_calls(self._work, [EmptyCall(self._work), self._way], first, total)
        call_s = call_s[_LEAD_IN_STEPS + first % 2 :]  # an even step's, an empty call, comes first
        empty_us, ours_us = (percentile(call_s[which::2], 50) * US for which in (0, 1))
        return {"call_us": ours_us, "above_us": ours_us - empty_us}

    def worker_s(self) -> float:
        """Return the worker's CPU time so far, all rows written."""
        self.flush()
        return worker_cpu_s()


class Pairs(Calls):
    """Pairs of short blocks, with logging and without."""

    def block_steps(self) -> int:
        """Return how many steps a block has on this machine now."""
        return block_steps(self._step_ms, _BLOCK_MS)

    def turn(self, steps: int) -> Any:
        """Return two pairs of blocks (with, without) of so many steps, each kind first once."""
        train(self._work, self._nothing, 0, _LEAD_IN_STEPS)
        block = partial(run_block, self._work, steps)
        pairs = []
        for ways in ((self._way, self._nothing), (self._nothing, self._way)):
            first = self._steps(steps)
            found = {way is self._way: block(way, first) for way in ways}
            pairs.append((found[True], found[False]))
        return pairs


class Bursts(Session):
    """What the worker does under the GIL. In a process of its own: the clocks stay in place."""

    def __init__(self) -> None:
        """Put the clocks in place, before there is a worker."""
        super().__init__()
        self._watch = GilBursts()

    def turn(self, steps: int) -> float:
        """Return the worker's time under the GIL, in us per row."""
        self._watch.watch(WORKER)
        train(self._work, self._way, self._steps(steps), steps)
        self.flush()
        return sum(burst.cpu_s for burst in self._watch.bursts()) / steps * US


class LongBlocks(Session):
    """Blocks of seconds; between them delivery catches up, unseen."""

    def block(self, kind: str, seconds: float, lead_in_s: float) -> dict[str, Any]:
        """Train for so long; return the time of every step in us, and delivery's CPU time.

        `kind` is "running" (logging, with delivery), "stopped" (logging, delivery stopped),
        "caller" (logging, and nobody carries it on) or "none" (no logging). The lead-in is the
        same, not measured: what delivery is behind, it is behind from the beginning.
        """
        log = (self._nothing if kind == "none" else self._way).log
        others = DescendantsWatch()
        if kind == "running":
            signal_descendants(signal.SIGCONT)
        with idle_worker() if kind == "caller" else contextlib.nullcontext():
            _, self._step = stamped(self._work, log, self._step, lead_in_s)
            others.look()
            before_s = others.total().cpu_s
            step_us, self._step = stamped(self._work, log, self._step, seconds)
            others.look()
        if kind in ("running", "stopped"):
            signal_descendants(signal.SIGCONT)
            self._way.catch_up()
        signal_descendants(signal.SIGSTOP)
        return {"step_us": step_us, "delivery_s": others.total().cpu_s - before_s}


def stamped(
    work: Workload, log: Callable[[Any, int], None], first_step: int, seconds: float
) -> tuple[list[float], int]:
    """Train and log for so long; return the time of each step in us, and the next step's number.

    One clock reading a step, so that a step is all that happens from one to the next.
    """
    clock, step_once, step = time.perf_counter, work.step, first_step
    stamps = [clock()]
    deadline_s = stamps[0] + seconds
    while stamps[-1] < deadline_s:
        log(step_once(step), step)
        stamps.append(clock())
        step += 1
    return [(b - a) * US for a, b in pairwise(stamps)], step
