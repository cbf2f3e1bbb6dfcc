"""The ways of logging that are measured, one class each: fasttrack's and wandb's; see peers.py.

All are given the same scalars by the workload, which builds them for "no logging" too. A way's
library is imported by its constructor, so that `open` can be timed alone.
"""

from __future__ import annotations

import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from bench.workload import Scalars, Workload

_TAGS = {"model": "m", "dataset": "d", "objective": "o", "experiment_group": "bench"}
LOSS = "loss/total"  # workload.LOSS; importing that module would import torch, see child.py
_SETTLE_TIMEOUT_S = 60.0


class Way:
    """No logging; also the base of all ways."""

    def __init__(self, work: Workload) -> None:
        self._work = work

    def open(self) -> None:
        """Start a run: what a user calls before the loop."""

    def settle(self) -> None:
        """Wait until everything that starts in the background has started."""

    def log(self, scalars: Scalars, step: int) -> None:
        """Log one step."""

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
            tags=_TAGS,
            mode="offline",
            log_interval=log_interval,
            options=fasttrack.Options(**options),
        )

    def open(self) -> None:
        self._tracker = self._start()

    def settle(self) -> None:
        # Delivery, another process, imports wandb meanwhile; that would disturb the first seconds.
        deadline = time.monotonic() + _SETTLE_TIMEOUT_S
        while not self._tracker.is_offline():
            if time.monotonic() > deadline:
                raise TimeoutError("delivery did not start")
            time.sleep(0.05)
        time.sleep(0.5)

    def log(self, scalars: Scalars, step: int) -> None:
        self._tracker.log_metrics(scalars, step)

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
    """`log_training_step` with loss and optimizer."""

    def log(self, scalars: Scalars, step: int) -> None:
        self._tracker.log_training_step(
            loss=scalars[LOSS],
            step=step,
            batch_size=self._work.batch_size,
            optimizer=self._work.optimizer,
        )


class FasttrackGradients(Fasttrack):
    """`log_training_step` with loss, optimizer and model, hence the gradients' norm."""

    def log(self, scalars: Scalars, step: int) -> None:
        self._tracker.log_training_step(
            loss=scalars[LOSS],
            step=step,
            batch_size=self._work.batch_size,
            optimizer=self._work.optimizer,
            model=self._work.model,
        )


class FasttrackEverything(FasttrackGradients):
    """The same, with what else the workload has to log."""

    def log(self, scalars: Scalars, step: int) -> None:
        self._tracker.log_training_step(
            loss=scalars[LOSS],
            step=step,
            batch_size=self._work.batch_size,
            optimizer=self._work.optimizer,
            model=self._work.model,
            extra=self._work.further(step),
        )


class FasttrackNotLogged(Fasttrack):
    """`log_training_step` at steps that the interval leaves out."""

    def __init__(self, work: Workload) -> None:
        super().__init__(work, log_interval=100)

    def log(self, scalars: Scalars, step: int) -> None:
        self._tracker.log_training_step(
            loss=scalars[LOSS],
            step=100 * step + 1,
            batch_size=self._work.batch_size,
            optimizer=self._work.optimizer,
            model=self._work.model,
        )


class EmptyCall(Way):
    """A method that does nothing, called as `FasttrackNotLogged` calls its: what a call costs."""

    def log(self, scalars: Scalars, step: int) -> None:
        self._log_training_step(
            loss=scalars[LOSS],
            step=100 * step + 1,
            batch_size=self._work.batch_size,
            optimizer=self._work.optimizer,
            model=self._work.model,
        )

    def _log_training_step(
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
        return


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

    from fasttrack.delivery.backends.wandb.file import read_payloads

    return sum(
        Record.FromString(payload).WhichOneof("record_type") == "history"
        for file in Path(os.environ["WANDB_DIR"]).glob("wandb/offline-run-*/run-*.wandb")
        for payload in read_payloads(file)
    )


OVERHEAD: dict[str, tuple[str, Callable[[Workload], Way]]] = {
    "metrics": ("`log_metrics`, 5 scalars, every step (snapshot)", Fasttrack),
    "reference": (
        "the same, `capture='reference'`",
        partial(Fasttrack, capture="reference"),
    ),
    "training": ("`log_training_step`, every step", FasttrackTraining),
    "training-reference": (
        "the same, `capture='reference'`",
        partial(FasttrackTraining, capture="reference"),
    ),
    "grads": ("`log_training_step` with `model=`, every step", FasttrackGradients),
    "default": (
        "`log_training_step` with `model=`, every 10th step (the default)",
        partial(FasttrackGradients, log_interval=10),
    ),
    "not-logged": ("`log_training_step`, steps that are not logged", FasttrackNotLogged),
    "empty": ("the same call of a method that does nothing", EmptyCall),
}
"""What overhead.py measures: key to (description, way)."""

COMPARED: dict[str, tuple[str, Callable[[Workload], Way]]] = {
    "none": ("no logging", Way),
    "fasttrack": ("fasttrack, every step", Fasttrack),
    "fasttrack-reference": (
        "fasttrack, every step, `capture='reference'`",
        partial(Fasttrack, capture="reference"),
    ),
    "fasttrack-thread": (
        "fasttrack, every step, `delivery='thread'`",
        partial(Fasttrack, delivery="thread"),
    ),
    "fasttrack-grads": ("fasttrack, every step, with grad norm", FasttrackEverything),
    "fasttrack-default": (
        "fasttrack, every 10th step, with grad norm (the default)",
        partial(FasttrackEverything, log_interval=10),
    ),
    "wandb": ("`wandb.log` inline, every step", WandbInline),
}
"""What `python -m bench` measures beside peers.py's: key to (description, way)."""
