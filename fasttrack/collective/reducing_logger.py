"""The logging calls where every rank makes them: what is split over ranks is made whole first."""

from __future__ import annotations

import itertools
from threading import get_ident
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, ref

import torch

from fasttrack.errors import FasttrackError
from fasttrack.handler_errors import is_handlers
from fasttrack.hotpath.capture import step_number
from fasttrack.hotpath.norms import is_distributed
from fasttrack.hotpath.records import GRAD_NORM

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from fasttrack.collective.together import Together
    from fasttrack.hotpath.step_logger import StepLogger
    from fasttrack.notices import Notices

_PLAIN = frozenset((float, int, torch.Tensor, type(None)))  # of types that need no closer look
_trackers = itertools.count()  # of this process, in the order of construction: alike on all ranks


class ReducingLogger:
    """Hand calls to a `StepLogger`, and DTensors in them as what they are over all ranks.

    Which steps are logged is the same on all ranks: those that the user's interval divides. Calls
    after the end reduce, too: another rank may be behind.

    Threads: log from any; only calls of the thread that made the tracker reduce.
    """

    __slots__ = (
        "_has_dtensors",
        "_interval",
        "_log_step",
        "_logger",
        "_norms",
        "_notices",
        "_number",
        "_plain_model",
        "_stretches",
        "_thread",
        "_together",
        "late_call",
        "not_floats",
        "note_logged",
        "note_metrics",
        "pause",
        "phase",
    )

    def __init__(
        self,
        logger: StepLogger,
        notices: Notices,
        *,
        log_interval: int,
        norms: bool,
        stretches: bool,
    ) -> None:
        """Stand before `logger`.

        Args:
            logger: takes the calls.
            notices: told why something is not reduced.
            log_interval: in steps; the user's.
            norms: whether models' gradient norms are wanted.
            stretches: whether a rank may log fewer steps than these, each as it decides.
        """
        self._logger = logger
        self._log_step = logger.training_step
        self._notices = notices
        self._interval = log_interval
        self._norms = norms
        self._stretches = stretches
        self._thread = get_ident()
        self._number = next(_trackers)
        self._together: Together | None = None
        self._has_dtensors: WeakKeyDictionary[torch.nn.Module, bool] = WeakKeyDictionary()
        self._plain_model: Callable[[], Any] = _nothing
        """Returns the last model that has none."""
        # What needs nothing of this goes straight on.
        self.late_call = logger.late_call
        self.not_floats = logger.not_floats
        self.note_logged = logger.note_logged
        self.note_metrics = logger.note_metrics
        self.pause = logger.pause
        self.phase = logger.phase

    def training_step(
        self,
        loss: Any,
        step: int,
        batch_size: Any,
        optimizer: Any,
        model: Any,
        scaler: Any = None,
        loss_ar: Any = None,
        loss_fm: Any = None,
        grad_norm: Any = None,
        extra: Any = None,
        tokens: Any = None,
    ) -> None:
        """Log a training step, or not, as the interval says."""
        if (
            not _PLAIN.issuperset(map(type, (loss, loss_ar, loss_fm, grad_norm)))
            or (model is not None and self._plain_model() is not model)
            or (
                extra is not None
                and not (type(extra) is dict and _PLAIN.issuperset(map(type, extra.values())))
            )
        ):
            given = {"loss": loss, "loss_ar": loss_ar, "loss_fm": loss_fm, "grad_norm": grad_norm}
            extra = self._look_at_step(step, given, extra, model, optimizer, scaler)
            loss, loss_ar, loss_fm, grad_norm = given.values()
        self._log_step(
            loss,
            step,
            batch_size,
            optimizer,
            model,
            scaler,
            loss_ar,
            loss_fm,
            grad_norm,
            extra,
            tokens,
        )

    def metrics(self, metrics: Mapping[str, Any], step: int | None) -> None:
        """Log metrics."""
        if type(metrics) is not dict or not _PLAIN.issuperset(map(type, metrics.values())):
            metrics = self._look_at_metrics(metrics, step)
        self._logger.metrics(metrics, step)

    def _look_at_metrics(self, metrics: Mapping[str, Any], step: int | None) -> Mapping[str, Any]:
        """Return metrics with what they are over all ranks."""
        try:
            split = _split_of("", metrics)
            if split and (together := self._ask()) is not None:
                call = f"log_metrics at step {step if type(step) is int else '?'}"
                whole = together.reduce(call, split, None)
                return {**metrics, **{name: value for (_, name), value in whole.items()}}
        except Exception as error:  # nothing may raise into training
            if is_handlers(error):
                raise
            self._logger.failed_call("log_metrics", error)
        return metrics

    def _look_at_step(
        self, step: Any, given: dict[str, Any], extra: Any, model: Any, optimizer: Any, scaler: Any
    ) -> Any:
        """Reduce what is split in `given`, in place, and in `extra`; return that."""
        try:
            asked = model if given["grad_norm"] is None and self._is_split(model) else None
            split = {**_split_of("", given), **_split_of("extra", extra)}
            if (split or asked is not None) and self._is_logged(step):
                return self._step_made_whole(step, split, given, extra, asked, optimizer, scaler)
        except Exception as error:  # nothing may raise into training
            if is_handlers(error):
                raise
            self._logger.failed_call("log_training_step", error)
        return extra

    def _is_logged(self, step: Any) -> bool:
        try:
            return (step if type(step) is int else step_number(step)) % self._interval == 0
        except FasttrackError:  # it is no step, as will be said
            return False

    def _is_split(self, model: Any) -> bool:
        if model is None or not self._norms or not isinstance(model, torch.nn.Module):
            return False
        known = self._has_dtensors.get(model)
        if known is None:
            known = any(map(is_distributed, model.parameters()))
            self._has_dtensors[model] = known
        if not known:
            self._plain_model = ref(model)
        return known

    def _step_made_whole(
        self,
        step: Any,
        split: dict[tuple[str, str], Any],
        given: dict[str, Any],
        extra: Any,
        model: Any,
        optimizer: Any,
        scaler: Any,
    ) -> Any:
        if self._stretches:
            self._notices.warn(
                "together_budget",
                "what several ranks hold parts of is not reduced by log_training_step, as "
                "overhead_budget has each rank decide which steps it logs; on every rank call "
                "tracker.reduce and tracker.reduce_grad_norm",
            )
            return extra
        together = self._ask()
        if together is None:
            return extra
        call = f"log_training_step at step {step if type(step) is int else '?'}"
        whole = together.reduce(call, split, model)
        more = {}
        for (argument, name), value in whole.items():
            if argument == "extra":
                more[name] = value
            elif name != GRAD_NORM:
                given[name] = value
            else:
                scale = self._logger.gradients.scale_of(
                    scaler, optimizer, together.parameters_of(model)
                )
                given["grad_norm"] = value if scale is None else value / _number_of(scale)
        return {**extra, **more} if more else extra

    def _ask(self) -> Together | None:
        """Return what reduces; None on a thread whose calls other ranks make in another order."""
        if get_ident() != self._thread:
            return None
        if self._together is None:
            from fasttrack.collective import agreement
            from fasttrack.collective.together import Together  # most runs need none of it

            self._together = Together(str(self._number), self._notices, agreement.PATIENCE_S)
        return self._together


def _split_of(argument: str, values: Any) -> dict[tuple[str, str], Any]:
    """Return the DTensors in a dict by `argument` and their names."""
    if not isinstance(values, dict):
        return {}
    return {
        (argument, name): value
        for name, value in values.items()
        if type(name) is str and is_distributed(value)
    }


def _nothing() -> None:
    """Return what is no model."""


def _number_of(scale: torch.Tensor) -> Any:
    return scale.item() if scale.is_cpu else scale
