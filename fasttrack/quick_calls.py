"""The logging calls as most loops make them: each does by itself what it needs.

What such a call costs after a training step is mostly fetching, as little of it is in the
processor's caches: one more object, call or attribute is dearer than some arithmetic. So the state
stands side by side in slots of the tracker itself, keywords that are seldom given are not named
(each would be looked up in a table of defaults, 0.8 us for five), and only what the caller alone
can know is left for the worker: the numbers, and the clock. Whatever is not quite usual goes to the
`StepLogger`, which shares the state.
"""

from __future__ import annotations

from operator import countOf
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol

from fasttrack.handler_errors import is_handlers

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from contextlib import AbstractContextManager

_FEW = 16  # metrics; of more, those that are no floats are found in a quicker way


class Logger(Protocol):
    """What the calls that are not quite usual go to: a `StepLogger`, or what stands for it."""

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

    def metrics(self, metrics: Mapping[str, Any], step: int | None) -> None:
        """Log metrics."""

    def not_floats(self, values: dict[Any, Any], metrics: dict[Any, Any]) -> Collection[Any]:
        """Return the names of `values` that are no floats; note those of `metrics`."""

    def note_logged(self, step: int, entered_s: float) -> None:
        """Note how long a call took that logged a training step."""

    def note_metrics(self, entered_s: float) -> None:
        """Note how long a call of `log_metrics` took."""

    def pause(self) -> AbstractContextManager[None]:
        """Begin what is no training."""

    def phase(self, name: str) -> AbstractContextManager[None]:
        """Begin a part of the training step."""

    def late_call(self) -> None:
        """Note a call that comes after the end."""


class QuickCalls:
    """The state of the logging calls, and the calls.

    Threads: log from any (two at once may lose a count); `_interval` and `_room` are set by any;
    from `_ticks` and `_waiting` the worker takes; `_phases` grow on any.
    """

    __slots__ = (
        "_interval",
        "_logger",
        "_metrics_step",
        "_not_floats",
        "_phases",
        "_plain_optimizer",
        "_room",
        "_step",
        "_tensor",
        "_ticks",
        "_timed_from",
        "_untimed_metrics",
        "_untimed_steps",
        "_waiting",
    )

    def __init__(self) -> None:
        """Begin with calls that go nowhere."""
        self._hand_calls_to(None)

    def _hand_calls_to(self, logger: Logger | None) -> None:
        """Have every call go to `logger`; None: to nobody."""
        self._logger: Logger | None = logger
        self._interval = 1
        """Every how many steps one is logged."""
        self._timed_from = 0
        """The first step from which a call that logs nothing is timed again."""
        self._ticks: list[tuple[float, Any]] = []
        """Of training steps that were not logged, of pauses and phases, until the worker has put
        them to a step that was."""
        self._waiting: list[Any] = []
        """The records that the ring holds; `hotpath/records.py` says of what form."""
        self._room = 0
        """How many it may hold; 0: a call may not add to it by itself."""
        self._tensor: Any = None
        """The type of tensors whose number is read at once where it lies in the host's memory."""
        self._not_floats: tuple[str, ...] = ()
        """Each once, the metrics that were no floats when there were last others in a long call."""
        self._phases: dict[Any, AbstractContextManager[None]] = {}
        """Those that there were, by name."""
        self._plain_optimizer: Any = None
        """One of torch's own: these have no loss scale, and raise nothing."""
        self._untimed_steps = self._untimed_metrics = 1
        """How many calls until one that logs a step, and one of `log_metrics`, is timed."""
        self._step: int | None = None
        """Of the last training step; None before the first."""
        self._metrics_step: int | None = None
        """Of the last call of `log_metrics` that had one, if no training step came after it."""

    def _quick_training_step(
        self,
        loss: Any,
        step: int,
        batch_size: int | None = None,
        optimizer: Any = None,
        model: Any = None,
        **further: Any,
    ) -> None:
        """Do what `ExperimentTracker.log_training_step` says."""
        if type(step) is int:
            if step % self._interval:
                if step < self._timed_from:
                    self._ticks.append((perf_counter(), batch_size))
                    self._step = step
                    self._metrics_step = None
                    return
            elif (
                (room := self._room)
                and model is None
                and not further
                and (type(batch_size) is int or batch_size is None)
            ):
                try:
                    now_s, rate = perf_counter(), None
                    number = loss
                    if type(loss) is self._tensor and loss.get_device() < 0:  # beats is_cpu
                        number = loss.item()
                    if (
                        type(number) is float
                        and (
                            optimizer is None
                            or (
                                type(optimizer) is self._plain_optimizer
                                and len(groups := optimizer.param_groups) == 1
                                and type(rate := groups[0]["lr"]) is float
                            )
                        )
                        and len(waiting := self._waiting) < room
                    ):
                        waiting.append((step, now_s, number, rate, batch_size))
                        self._step = step
                        self._metrics_step = None
                        self._untimed_steps = untimed = self._untimed_steps - 1
                        if untimed <= 0:
                            self._logger.note_logged(step, now_s)  # type: ignore[union-attr]
                        return
                except Exception as error:  # below, it is said what is wrong
                    if is_handlers(error):
                        raise
        if further:
            log_training_step(**further)
        logger = self._logger
        if logger is not None:
            logger.training_step(loss, step, batch_size, optimizer, model, **further)

    def _quick_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Do what `ExperimentTracker.log_metrics` says."""
        if (room := self._room) and type(metrics) is dict and type(step) is int:
            now_s = perf_counter()
            values: dict[Any, Any] = metrics.copy()
            names: Any = values
            try:
                if len(values) > _FEW:
                    names = self._others(values, metrics)
                for name in names:
                    value = values[name]
                    if type(value) is float:
                        continue
                    if (
                        type(value) is self._tensor
                        and value.get_device() < 0
                        and type(number := value.item()) is float
                    ):
                        values[name] = number
                    elif type(value) is not int:
                        break
                else:
                    if len(waiting := self._waiting) < room:
                        waiting.append((step, now_s, values))
                        self._metrics_step = step
                        self._untimed_metrics = untimed = self._untimed_metrics - 1
                        if untimed <= 0:
                            self._logger.note_metrics(now_s)  # type: ignore[union-attr]
                        return
            except Exception as error:  # below, it is said what is wrong
                if is_handlers(error):
                    raise
        logger = self._logger
        if logger is not None:
            logger.metrics(metrics, step)

    def _others(self, values: dict[Any, Any], metrics: dict[Any, Any]) -> Collection[Any]:
        """Make floats of the tensors among many `values` where the last ones were.

        To count the floats is the quickest way of Python's to look at all types (`marshal`, whose
        format tells them, takes twice as long in a training loop).

        Returns:
            The names of what else has to be looked at.
        """
        integers = 0
        for name in self._not_floats:
            value = values.get(name, 0.0)
            if (
                type(value) is self._tensor
                and value.get_device() < 0
                and type(number := value.item()) is float
            ):
                values[name] = number
            elif type(value) is int:
                integers += 1
            elif type(value) is not float:
                return (name,)
        if countOf(map(type, values.values()), float) + integers == len(values):
            return ()
        return self._logger.not_floats(values, metrics)  # type: ignore[union-attr]


def log_training_step(
    *,
    scaler: object = None,
    loss_ar: object = None,
    loss_fm: object = None,
    grad_norm: object = None,
    extra: object = None,
    tokens: object = None,
) -> None:
    """Raise TypeError where a keyword is none of these; the message has the method's name."""
