"""The ways of logging that are measured, one class each. A peer is one more class and one line.

All are given the same five scalars by the workload, which builds them for "no logging" too. A way's
library is imported by its constructor, so that `open` can be timed alone.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from bench.workload import Scalars, Workload

_TAGS = {"model": "m", "dataset": "d", "objective": "o", "experiment_group": "bench"}
_LOSS = "loss/total"  # workload.LOSS; importing that module would import torch, see compare.py
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


class Fasttrack(Way):
    """`log_metrics` of the five scalars at every step, offline."""

    def __init__(self, work: Workload, log_interval: int = 1, **options: Any) -> None:
        super().__init__(work)
        import fasttrack

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


class FasttrackTraining(Fasttrack):
    """`log_training_step` with loss and optimizer."""

    def log(self, scalars: Scalars, step: int) -> None:
        self._tracker.log_training_step(
            loss=scalars[_LOSS],
            step=step,
            batch_size=self._work.batch_size,
            optimizer=self._work.optimizer,
        )


class FasttrackGradients(Fasttrack):
    """`log_training_step` with loss, optimizer and model, hence the gradients' norm."""

    def log(self, scalars: Scalars, step: int) -> None:
        self._tracker.log_training_step(
            loss=scalars[_LOSS],
            step=step,
            batch_size=self._work.batch_size,
            optimizer=self._work.optimizer,
            model=self._work.model,
        )


class FasttrackNotLogged(Fasttrack):
    """`log_training_step` at steps that the interval leaves out."""

    def __init__(self, work: Workload) -> None:
        super().__init__(work, log_interval=100)

    def log(self, scalars: Scalars, step: int) -> None:
        self._tracker.log_training_step(
            loss=scalars[_LOSS],
            step=100 * step + 1,
            batch_size=self._work.batch_size,
            optimizer=self._work.optimizer,
            model=self._work.model,
        )


class EmptyCall(Way):
    """A method that does nothing, called as `FasttrackNotLogged` calls its: what a call costs."""

    def log(self, scalars: Scalars, step: int) -> None:
        self._log_training_step(
            loss=scalars[_LOSS],
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
    """`run.log` of the five scalars at every step, in the loop, offline."""

    def __init__(self, work: Workload) -> None:
        super().__init__(work)
        import wandb

        self._wandb = wandb

    def open(self) -> None:
        self._run = self._wandb.init(project="bench", mode="offline")

    def log(self, scalars: Scalars, step: int) -> None:
        scalars[_LOSS] = float(scalars[_LOSS])  # as most people write it; a tensor is slower
        self._run.log(scalars, step=step)

    def close(self) -> None:
        self._run.finish()

    def reap(self) -> None:
        self._wandb.teardown()


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
    "fasttrack": ("fasttrack, every step, 5 scalars", Fasttrack),
    "fasttrack-grads": ("fasttrack, every step, with grad norm", FasttrackGradients),
    "fasttrack-default": (
        "fasttrack, every 10th step, with grad norm (the default)",
        partial(FasttrackGradients, log_interval=10),
    ),
    "wandb": ("`wandb.log` inline, every step, 5 scalars", WandbInline),
}
"""What compare.py measures: key to (description, way)."""
