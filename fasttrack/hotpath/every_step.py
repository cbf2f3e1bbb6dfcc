"""The logging calls of runs that look at every step, also at those that are not logged."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch

from fasttrack.handler_errors import is_handlers
from fasttrack.hotpath.capture import step_number
from fasttrack.hotpath.records import GRAD_NORM, LEARNING_RATE, LOSS
from fasttrack.hotpath.step_logger import StepLogger
from fasttrack.hotpath.ticks import NEVER, size_of_step

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fasttrack.hotpath.layers import LayerSource
    from fasttrack.hotpath.trail import StepTrail

_TENSOR = torch.Tensor


class EveryStepLogger(StepLogger):
    """A `StepLogger` that leaves to a trail what the steps had that are not logged.

    Quick calls let it have them: as far as they know, each is one that is to be timed.

    Threads: as `StepLogger`.
    """

    __slots__ = ("_keeps_all", "_layers", "_trail")

    def __init__(
        self,
        *parts: Any,
        trail: StepTrail,
        layers: LayerSource | None = None,
        **further: Any,
    ) -> None:
        """Leave unlogged steps to `trail`, and models to `layers`; all else is `StepLogger`'s."""
        super().__init__(*parts, **further)
        self._trail = trail
        self._layers = layers
        self._keeps_all = trail.keeps_all
        self._hot._timed_from = NEVER

    def training_step(
        self,
        loss: Any,
        step: int,
        batch_size: int | None,
        optimizer: torch.optim.Optimizer | None,
        model: torch.nn.Module | None,
        scaler: Any = None,
        loss_ar: Any = None,
        loss_fm: Any = None,
        grad_norm: Any = None,
        extra: Mapping[str, Any] | None = None,
        tokens: Any = None,
    ) -> None:
        """Do what `ExperimentTracker.log_training_step` says."""
        further = (loss_ar, loss_fm, grad_norm, extra)
        if self._open:
            try:
                number = step if type(step) is int else step_number(step)
                known = _known(loss)
                if self._layers is not None and model is not None:
                    self._look_at_layers(number, known, model, optimizer, scaler)
                if self._keep(number, known, batch_size, optimizer, further, tokens):
                    return
            except Exception as error:  # a logged step with such arguments says what is wrong
                if is_handlers(error):
                    raise
        try:
            super().training_step(
                loss, step, batch_size, optimizer, model, scaler, *further, tokens
            )
        finally:
            self._hot._timed_from = NEVER

    def _keep(
        self,
        step: int,
        loss: Any,
        batch_size: Any,
        optimizer: Any,
        further: tuple[Any, ...],
        tokens: Any,
    ) -> bool:
        """Keep what there is to be kept of a step; return whether that is all that is to be done.

        Args:
            step: the user's number of it.
            loss: a number where it is known, else what was passed.
            batch_size: as it was passed.
            optimizer: likewise.
            further: what else was: `loss_ar`, `loss_fm`, `grad_norm` and `extra`.
            tokens: likewise.
        """
        hot = self._hot
        if step % hot._interval == 0:
            self._trail.mark()
            return False
        if self._keeps_all:
            values = {} if loss is None else {LOSS: loss}
            _add(values, optimizer, *further)
            size = batch_size if type(batch_size) is int else None  # it may be the batch
            self._trail.note(step, size, values)
        elif loss is not None and (type(loss) is not float or loss - loss != 0):
            self._trail.note(step, None, {LOSS: loss})
        if step >= self._timed_from:
            return False
        if tokens is not None or (batch_size is not None and type(batch_size) is not int):
            batch_size = size_of_step(hot, batch_size, tokens)
        hot._ticks.append((perf_counter(), batch_size))
        hot._step, hot._metrics_step = step, None
        return True

    def _look_at_layers(
        self, step: int, loss: Any, model: Any, optimizer: Any, scaler: Any
    ) -> None:
        layers = self._layers
        assert layers is not None
        urgent = (
            type(loss) is float and loss - loss != 0 and layers.bad(step, model, optimizer, scaler)
        )
        if step % self._hot._interval == 0 and layers.logged(step, model, optimizer, scaler):
            urgent = urgent or layers.is_urgent
        if urgent:
            self._wake()

    def note_logged(self, step: int, entered_s: float) -> None:
        """Note how long a call took that logged a training step."""
        super().note_logged(step, entered_s)
        self._hot._timed_from = NEVER

    def close(self) -> None:
        """Log nothing any more, and let the last steps be read."""
        super().close()
        self._trail.mark()
        if self._layers is not None:
            self._layers.close()


def _known(loss: Any) -> Any:
    """Return the number of a loss in the host's memory, else the loss. Never waits."""
    if type(loss) is _TENSOR and loss.get_device() < 0:
        return loss.item()
    return loss


def _add(
    values: dict[str, Any],
    optimizer: Any,
    loss_ar: Any,
    loss_fm: Any,
    grad_norm: Any,
    extra: Any,
) -> None:
    """Add what else a call was given."""
    if loss_ar is not None:
        values["loss/ar"] = loss_ar
    if loss_fm is not None:
        values["loss/fm"] = loss_fm
    groups = getattr(optimizer, "param_groups", None)
    if type(groups) is list and groups and "lr" in groups[0]:
        values[LEARNING_RATE] = groups[0]["lr"]
    if grad_norm is not None:
        values[GRAD_NORM] = grad_norm
    if extra is not None:
        values.update(extra)
