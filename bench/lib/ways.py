"""The ways of logging that are measured, one class each: fasttrack's and wandb's.

All are given the same scalars by the workload, which builds them for "no logging" too. A way's
library is imported by its constructor, so that `open` can be timed alone. Other trackers' are in
compare/peers.py.
"""

from __future__ import annotations

import statistics
import sys
import time
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.lib.scalars import LOSS, TAGS
from bench.lib.trackers import known_options, run_files, wait_for_delivery

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch

    from bench.lib.scalars import Scalars
    from bench.lib.workload import Workload


_WAIT_S = 120.0
_LONG_INTERVAL = 100


class Timed(NamedTuple):
    """How long one call took, its arguments at hand, in seconds."""

    call_s: float
    """The clock's own cost is in it."""
    clock_s: float
    """Two readings with nothing in between."""


class Way:
    """No logging; also the base of all ways."""

    def __init__(self, work: Workload) -> None:
        self._work = work

    def without_logging(self) -> Way:
        """Return the same workload with no logging."""
        return Way(self._work)

    def open(self) -> None:
        """Start a run: what a user calls before the loop."""

    def settle(self) -> None:
        """Wait until everything that starts in the background has started."""

    def log(self, scalars: Scalars, step: int) -> None:
        """Log one step."""

    def timed(self, scalars: Scalars, step: int) -> Timed:
        """Log one step."""
        clock = time.perf_counter
        before, start = clock(), clock()
        self.log(scalars, step)
        return Timed(clock() - start, start - before)

    def close(self) -> None:
        """End the run: what a user calls after the loop."""

    def reap(self) -> None:
        """Wait for processes that `close` left, so that their CPU time can be read."""

    def expected(self, steps: int) -> int:
        """Return how many rows should arrive when steps 0 to `steps` - 1 are logged."""
        return steps

    def arrived(self) -> int | None:
        """Return how many rows lie in the run's files after `reap`; None where none are written."""
        return None


class Fasttrack(Way):
    """`log_metrics` of the scalars at every step, offline."""

    def __init__(self, work: Workload, log_interval: int = 1, **options: Any) -> None:
        super().__init__(work)
        import fasttrack

        self._log_interval = log_interval
        self._start = partial(
            fasttrack.ExperimentTracker,
            tags=TAGS,
            mode="offline",
            log_interval=log_interval,
            options=known_options(**{"wait_for_delivery": "finish", **options}),
        )

    def open(self) -> None:
        self._runs_before = run_files()
        self._tracker = self._start()

    def settle(self) -> None:
        wait_for_delivery(self._runs_before)

    def log(self, scalars: Scalars, step: int) -> None:
        self._tracker.log_metrics(scalars, step)

    def timed(self, scalars: Scalars, step: int) -> Timed:
        clock, tracker = time.perf_counter, self._tracker
        before, start = clock(), clock()
        tracker.log_metrics(scalars, step)
        return Timed(clock() - start, start - before)

    def flush(self) -> None:
        """Wait until all that was logged is in the journal."""
        if not self._tracker.flush(_WAIT_S):
            raise TimeoutError("the journal took too long")

    def catch_up(self) -> None:
        """Wait until delivery, which says so about once a second, has all of it."""
        self.flush()
        deadline_s = time.monotonic() + _WAIT_S
        while (stats := self._tracker.stats()).rows_delivered < stats.rows_written:
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"delivery took too long: {stats}")
            time.sleep(0.02)

    def close(self) -> None:
        self._tracker.finish()
        stats = self._tracker.stats()
        if stats.rows_delivered != stats.rows_written or stats.dropped or stats.failed_calls:
            raise RuntimeError(f"rows were lost, the figures mean nothing: {stats}")

    def reap(self) -> None:
        if wandb := sys.modules.get("wandb"):  # delivery as a thread has wandb-core as its child
            wandb.teardown()

    def expected(self, steps: int) -> int:
        return -(-steps // self._log_interval)

    def arrived(self) -> int | None:
        return rows_in_wandb_files()


class FasttrackTraining(Fasttrack):
    """`log_training_step` with loss and optimizer; with `model`, the gradients' norm, too."""

    def __init__(
        self, work: Workload, log_interval: int = 1, *, model: bool = False, **options: Any
    ) -> None:
        super().__init__(work, log_interval, **options)
        self._model = work.model if model else None

    def log(self, scalars: Scalars, step: int) -> None:
        self._tracker.log_training_step(
            loss=scalars[LOSS],
            step=step,
            batch_size=self._work.batch_size,
            optimizer=self._work.optimizer,
            model=self._model,
        )

    def timed(self, scalars: Scalars, step: int) -> Timed:
        return _timed_step(self._tracker, scalars[LOSS], step, self._work, self._model)


class FasttrackEverything(Fasttrack):
    """The same, with the model and with what else the workload has to log."""

    def log(self, scalars: Scalars, step: int) -> None:
        self._tracker.log_training_step(
            loss=scalars[LOSS],
            step=step,
            batch_size=self._work.batch_size,
            optimizer=self._work.optimizer,
            model=self._work.model,
            extra=self._work.further(step),
        )


def _left_out(number: int) -> int:
    """Return one of the steps that a long interval leaves out, counted from 0: 1 to 99, 101 on."""
    return number + number // (_LONG_INTERVAL - 1) + 1


class FasttrackNotLogged(Fasttrack):
    """`log_training_step` at steps that the interval leaves out."""

    def __init__(self, work: Workload, **options: Any) -> None:
        super().__init__(work, log_interval=_LONG_INTERVAL, **options)

    def log(self, scalars: Scalars, step: int) -> None:
        self.timed(scalars, step)

    def timed(self, scalars: Scalars, step: int) -> Timed:
        work = self._work
        return _timed_step(self._tracker, scalars[LOSS], _left_out(step), work, work.model)


class EmptyCall(Way):
    """A method that does nothing, called as `FasttrackNotLogged` calls its: what a call costs."""

    def timed(self, scalars: Scalars, step: int) -> Timed:
        work = self._work
        return _timed_step(self, scalars[LOSS], _left_out(step), work, work.model)

    def log_training_step(
        self,
        loss: Any,
        step: int,
        batch_size: int | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        model: torch.nn.Module | None = None,
        *,
        scaler: Any = None,
        loss_ar: Any = None,
        loss_fm: Any = None,
        grad_norm: Any = None,
        extra: Any = None,
    ) -> None:
        """Return at once."""


def _timed_step(
    tracker: Any, loss: Any, step: int, work: Workload, model: torch.nn.Module | None
) -> Timed:
    clock, batch_size, optimizer = time.perf_counter, work.batch_size, work.optimizer
    before, start = clock(), clock()
    tracker.log_training_step(
        loss=loss, step=step, batch_size=batch_size, optimizer=optimizer, model=model
    )
    return Timed(clock() - start, start - before)


class WandbInline(Way):
    """`run.log` of the scalars at every step, in the loop, offline."""

    def __init__(self, work: Workload) -> None:
        super().__init__(work)
        import wandb

        self._wandb = wandb

    def open(self) -> None:
        self._run = self._wandb.init(project="bench", mode="offline")

    def log(self, scalars: Scalars, step: int) -> None:
        scalars[LOSS] = float(scalars[LOSS])  # as most people write it; a tensor is slower
        self._run.log(scalars, step=step)

    def close(self) -> None:
        self._run.finish()

    def reap(self) -> None:
        self._wandb.teardown()

    def arrived(self) -> int | None:
        return rows_in_wandb_files()


def rows_in_wandb_files() -> int:
    """Return how many rows the offline runs in `WANDB_DIR` hold."""
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    from bench.lib.internals import read_payloads

    return sum(
        Record.FromString(payload).WhichOneof("record_type") == "history"
        for file in run_files()
        for payload in read_payloads(file)
    )


def timed_calls(work: Workload, ways: Sequence[Way], first_step: int, steps: int) -> list[float]:
    """Train, and log by the `ways` in turn; return each call's seconds, less the clock's own."""
    found = []
    for step in range(first_step, first_step + steps):
        scalars = work.step(step)
        found.append(ways[step % len(ways)].timed(scalars, step))
    clock_s = statistics.median(each.clock_s for each in found)
    return [max(0.0, each.call_s - clock_s) for each in found]


def train(work: Workload, way: Way, first_step: int, steps: int) -> None:
    """Train and log; nothing else happens in this loop."""
    step_once, log = work.step, way.log
    for step in range(first_step, first_step + steps):
        scalars = step_once(step)
        log(scalars, step)


class Kind(NamedTuple):
    """A way of logging, described and ready to be built."""

    description: str
    build: Callable[[Workload], Way]
    module: str = "fasttrack"
    """What it needs to be installed."""
    interval: int = 1
    """Steps from one logged step to the next."""

    def is_installed(self) -> bool:
        return find_spec(self.module) is not None


OVERHEAD = {
    "metrics": Kind("`log_metrics`, 5 scalars, every step (snapshot)", Fasttrack),
    "reference": Kind("the same, `capture='reference'`", partial(Fasttrack, capture="reference")),
    "training": Kind("`log_training_step`, every step", FasttrackTraining),
    "training-reference": Kind(
        "the same, `capture='reference'`", partial(FasttrackTraining, capture="reference")
    ),
    "grads": Kind(
        "`log_training_step` with `model=`, every step", partial(FasttrackTraining, model=True)
    ),
    "default": Kind(
        "`log_training_step` with `model=`, every 10th step (the default)",
        partial(FasttrackTraining, log_interval=10, model=True),
        interval=10,
    ),
    "not-logged": Kind("`log_training_step`, steps that are not logged", FasttrackNotLogged),
    "watched": Kind(
        "the same, `watch_nonfinite=True`", partial(FasttrackNotLogged, watch_nonfinite=True)
    ),
    "recorded": Kind(
        "the same, `flight_recorder=200`", partial(FasttrackNotLogged, flight_recorder=200)
    ),
    "empty": Kind("the same call of a method that does nothing", EmptyCall),
}
"""fasttrack's calls one by one: what bench.overhead measures."""

COMPARED = {
    "none": Kind("no logging", Way),
    "fasttrack": Kind("fasttrack, every step", Fasttrack),
    "fasttrack-reference": Kind(
        "fasttrack, every step, `capture='reference'`", partial(Fasttrack, capture="reference")
    ),
    "fasttrack-thread": Kind(
        "fasttrack, every step, `delivery='thread'`", partial(Fasttrack, delivery="thread")
    ),
    "fasttrack-training": Kind("fasttrack, `log_training_step` at every step", FasttrackTraining),
    "fasttrack-grads": Kind("fasttrack, every step, with grad norm", FasttrackEverything),
    "fasttrack-default": Kind(
        "fasttrack, every 10th step, with grad norm (the default)",
        partial(FasttrackEverything, log_interval=10),
        interval=10,
    ),
    "wandb": Kind("`wandb.log` inline, every step", WandbInline, "wandb"),
}
"""Whole loops: what `python -m bench` measures beside the peers'."""
