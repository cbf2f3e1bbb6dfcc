"""Losses that are no finite numbers: told by the steps that they were of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fasttrack.handler_errors import is_handlers
from fasttrack.hotpath.records import FIRST_NONFINITE_STEP
from fasttrack.integrations.loss_watch import LossWatch
from fasttrack.notices import say

if TYPE_CHECKING:
    from fasttrack.integrations.lasting_run import LastingRun


class NonfiniteLosses:
    """Say and log a run's first such loss, and at the end of training how many steps had one.

    Threads: one.
    """

    def __init__(self, run: LastingRun, remark: str = "") -> None:
        """Look at nothing yet.

        Args:
            run: what it is logged in.
            remark: what is to be said of the first one, too.
        """
        self.first_step: int | None = None
        """The first step of the run whose loss was NaN or infinite."""
        self._run = run
        self._remark = remark
        self._watch: LossWatch | None = LossWatch(self._found)
        self._steps: set[int] = set()

    def begin(self) -> None:
        """Count from 0: training begins."""
        self._steps.clear()

    def note(self, step: int, loss: Any, earlier: Any = None) -> Any:
        """Look at what a training step made. Never waits, never raises.

        Args:
            step: of the training.
            loss: a tensor of one element.
            earlier: the sum of the step's other losses, where it has several.

        Returns:
            Their sum: a number where it is known already; None where nothing is looked at any more.
        """
        if self._watch is None:
            return None
        try:
            noted = self._watch.note(step, loss)
            return noted if earlier is None else earlier + noted
        except Exception as error:  # a trainer's step may return anything
            self._give_up(error)
            return None

    def look(self, *, idle: bool = False) -> None:
        """Look at what has come of a device since; `idle` is `LossWatch.look`'s."""
        if self._watch is None:
            return
        try:
            self._watch.look(idle=idle)
        except Exception as error:  # what is wrong with the device comes up here, too
            self._give_up(error)

    def end(self, step: int) -> None:
        """Look at the last, which waits for the device, and log how many there were, at `step`."""
        if self._watch is not None:
            try:
                self._watch.settle()
            except Exception as error:
                self._give_up(error)
        if self._steps and self._run.tracker is not None:
            self._run.tracker.log_metrics({"train/nonfinite_steps": len(self._steps)}, step)

    def _give_up(self, error: Exception) -> None:
        if is_handlers(error):
            raise error
        self._watch = None
        say(f"the losses of single steps are not looked at any more: {error}")

    def _found(self, step: int, loss: float) -> None:
        self._steps.add(step)
        if self.first_step is not None or self._run.tracker is None:
            return
        self.first_step = step
        say(f"the loss is {loss} at step {step}, the first that is no finite number{self._remark}")
        row = {"train/nonfinite_loss": loss, FIRST_NONFINITE_STEP: step}
        self._run.tracker.log_metrics(row, step)
