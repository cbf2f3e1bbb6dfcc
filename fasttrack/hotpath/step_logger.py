"""The logging calls: what of a training step is noted on the caller's thread, and how."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from threading import RLock
from time import perf_counter, time
from typing import TYPE_CHECKING, Any

import numpy as np

from fasttrack.errors import FasttrackError, ValueRefusedError
from fasttrack.handler_errors import is_handlers
from fasttrack.hotpath.advice import describe, explain
from fasttrack.hotpath.arguments import (
    AMP_SCALE,
    LEARNING_RATE,
    add_further,
    add_learning_rates,
    add_loss_scale,
    add_scale,
)
from fasttrack.hotpath.call_meter import LOGGED, METRICS, METRICS_EVERY, SKIPPED, SKIPPED_EVERY
from fasttrack.hotpath.capture import order, step_number
from fasttrack.hotpath.meeting import Meeting
from fasttrack.hotpath.pause import Pause
from fasttrack.hotpath.records import GRAD_NORM, LOSS, MOST_TICKS, Gradients, OddSize

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from fasttrack.hotpath.call_meter import CallMeter
    from fasttrack.hotpath.capture import Capture
    from fasttrack.hotpath.gradients import GradientSource
    from fasttrack.hotpath.records import Captured, RawRecord
    from fasttrack.hotpath.ring import Ring
    from fasttrack.notices import Notices


class StepLogger:
    """Capture what the training loop logs and push it into the ring. Nothing raises into training.

    Threads: log from any; `set_interval` from the worker; `close` from whoever ends the run,
    signal handlers included.
    """

    __slots__ = (
        "_capture",
        "_gradients",
        "_lock",
        "_meeting",
        "_metrics_calls",
        "_metrics_step",
        "_notices",
        "_open",
        "_plain_optimizer",
        "_refuse",
        "_ring",
        "_step_before",
        "_timed",
        "_wake",
        "interval",
        "step",
        "ticks",
        "timed_from",
    )

    def __init__(
        self,
        ring: Ring[RawRecord],
        capture: Capture,
        gradients: GradientSource,
        calls: CallMeter,
        notices: Notices,
        *,
        log_interval: int,
        wake: Callable[[], None],
    ) -> None:
        """Log every `log_interval`-th step; `wake` is called when gradients wait in the ring."""
        # caller thread
        # Python specialises a call of an object's method, not of a function kept in an attribute.
        self._ring = ring
        self._capture = capture
        self._gradients = gradients
        self._timed = calls.timed
        self._notices = notices
        self._refuse = notices.refuse  # handed on with every call, called hardly ever
        self._wake = wake
        self._open = True
        self._plain_optimizer: type | None = None  # torch's own, which have no loss scale
        self._meeting = Meeting(notices.warn)
        self._metrics_calls = 0
        self._metrics_step = 0  # of the last call of `metrics` that had one
        self._step_before: int | None = None  # of the last training step before that call
        # what `ExperimentTracker.log_training_step` does by itself where nothing is logged
        self.interval = log_interval
        """Every how many steps one is logged; 1 once closed, so that all calls find that out."""
        self.ticks: deque[tuple[float, Any]] = deque(maxlen=MOST_TICKS)
        """(`time.perf_counter()`, batch size) of each step since the last that was logged."""
        self.step: int | None = None
        """Of the last training step; None before the first, and while `_metrics_step` is later."""
        self.timed_from = 0
        """The first step from which a call that logs nothing is timed again."""
        # any thread
        self._lock = RLock()  # of `interval`, which two threads set; the calls take none

    def set_interval(self, steps: int) -> None:
        """Log every `steps`-th step from now on."""
        with self._lock:
            if self._open:
                self.interval = steps

    def close(self) -> None:
        """Log nothing any more: further calls are late."""
        with self._lock:
            self._open = False
            self.interval = 1
        self._gradients.close()

    def training_step(
        self,
        loss: Any,
        step: int,
        batch_size: int | None,
        optimizer: torch.optim.Optimizer | None,
        model: torch.nn.Module | None,
        scaler: Any,
        loss_ar: Any,
        loss_fm: Any,
        grad_norm: Any,
        extra: Mapping[str, Any] | None,
    ) -> None:
        """Do what `ExperimentTracker.log_training_step` says."""
        try:
            if type(step) is not int:
                step = step_number(step)
            now_s = perf_counter()
            if batch_size is not None and type(batch_size) is not int:
                batch_size = self._size(batch_size)
            self.ticks.append((now_s, batch_size))
            before, self.step = self.training_step_number, step
            if step % self.interval:
                if step >= self.timed_from:
                    self.timed_from = step + SKIPPED_EVERY
                    self._timed.append((SKIPPED, perf_counter() - now_s, now_s))
                    self._meeting.missed(before, step, self.interval)
                if isinstance(batch_size, OddSize):
                    self.timed_from = step  # the next call comes here, too, and leaves nothing
                return
            self._meeting.calls = 0
            if not self._open:
                self.late_call()
                return
            metrics: dict[str, Captured] = {} if loss is None else {LOSS: loss}
            if loss_ar is not None:
                metrics["loss/ar"] = loss_ar
            if loss_fm is not None:
                metrics["loss/fm"] = loss_fm
            if optimizer is not None:
                plain = type(optimizer) is self._plain_optimizer
                if plain and len(groups := optimizer.param_groups) == 1 and "lr" in groups[0]:
                    metrics[LEARNING_RATE] = groups[0]["lr"]
                else:
                    self._add_what_the_optimizer_tells(metrics, optimizer, scaler)
            if scaler is not None:
                self._read(scaler, add_scale, metrics, AMP_SCALE, "scaler")
            gradients = None
            if grad_norm is not None:
                metrics[GRAD_NORM] = grad_norm
            elif model is not None:
                gradients = self._add_grad_norm(metrics, model, optimizer, scaler)
            if extra is not None:
                if type(extra) is dict:
                    metrics.update(extra)
                else:
                    self._read(extra, add_further, metrics, "extra", "it")
            ticks = tuple(self.ticks)
            self.ticks.clear()
            pending = self._capture.mapping(metrics, self._refuse)
            waits = pending is not None or gradients is not None
            events: tuple[torch.Event, ...] = ()
            if waits:
                readable, events = order(metrics, pending, gradients, self._refuse)
                if gradients is not None and not readable:
                    self._gradients.was_dropped(gradients)
                    gradients = None
            if not self._ring.push((step, time(), metrics, pending, ticks, gradients, events)):
                self._say_full()
                if gradients is not None:
                    self._gradients.was_dropped(gradients)
            elif gradients is not None:
                self._wake()  # gradients are large, and may soon be zeroed in place
            if step < self.timed_from - SKIPPED_EVERY:  # the trainer counts anew
                self.timed_from = step
            self._timed.append((LOGGED, perf_counter() - now_s, now_s))
        except Exception as error:  # nothing may raise into training
            if is_handlers(error):
                raise
            self.failed_call("log_training_step", error)

    def metrics(self, metrics: Mapping[str, Any], step: int | None) -> None:
        """Do what `ExperimentTracker.log_metrics` says."""
        if not self._open:
            self.late_call()
            return
        try:
            self._metrics_calls += 1
            start_s = 0.0 if self._metrics_calls % METRICS_EVERY else perf_counter()
            if step is None:
                step = self._metrics_step if self.step is None else self.step
            else:
                if type(step) is not int:
                    step = step_number(step)
                self._step_before, self.step = self.training_step_number, None
                self._metrics_step = step
            values: dict[Any, Any] = {}
            if type(metrics) is dict:
                values.update(metrics)
            elif isinstance(metrics, Mapping):
                self._read(metrics, add_further, values, "log_metrics", "metrics")
            else:
                raise ValueRefusedError(f"metrics must be a mapping, not {describe(metrics)}")
            pending = self._capture.mapping(values, self._refuse)
            events: tuple[torch.Event, ...] = ()
            if pending is not None:
                _, events = order(values, pending, None, self._refuse)
            if not self._ring.push((step, time(), values, pending, None, None, events)):
                self._say_full()
            if start_s:
                self._timed.append((METRICS, perf_counter() - start_s, start_s))
        except Exception as error:  # nothing may raise into training
            if is_handlers(error):
                raise
            self.failed_call("log_metrics", error)

    @property
    def training_step_number(self) -> int | None:
        """That of the last training step; None before the first."""
        return self._step_before if self.step is None else self.step

    def pause(self) -> Pause:
        """Do what `ExperimentTracker.pause` says."""
        return Pause(self.ticks)

    def _size(self, batch_size: Any) -> Any:
        """Return a batch size to keep: itself, or what it is. It may be the batch, and large."""
        if issubclass(type(batch_size), (float, np.number)):
            return batch_size
        odd = OddSize(describe(batch_size))
        kept = [
            (at_s, odd if type(size) is type(batch_size) else size) for at_s, size in self.ticks
        ]
        self.ticks.clear()
        self.ticks.extend(kept)
        return odd

    def _read(
        self,
        argument: Any,
        add: Callable[[dict[str, Captured], Any, Callable[[str, str], None]], object],
        metrics: dict[str, Captured],
        metric: str,
        word: str,
    ) -> None:
        """Let `add` read an argument; whatever is wrong with it costs its own metrics only."""
        try:
            add(metrics, argument, self._refuse)
        except Exception as error:  # the argument's own code runs here; the row must not suffer
            if is_handlers(error):
                raise
            self._refuse(metric, f"{word} {explain(error)}")

    def _add_what_the_optimizer_tells(
        self, metrics: dict[str, Captured], optimizer: Any, scaler: Any
    ) -> None:
        self._read(optimizer, add_learning_rates, metrics, LEARNING_RATE, "optimizer")
        kind = type(optimizer)
        if kind.__module__.startswith("torch.optim.") and hasattr(kind, "add_param_group"):
            self._plain_optimizer = kind  # it has no loss scale, and raises nothing
        elif scaler is None:
            self._read(optimizer, add_loss_scale, metrics, AMP_SCALE, "optimizer")

    def _add_grad_norm(
        self, metrics: dict[str, Captured], model: Any, optimizer: Any, scaler: Any
    ) -> Gradients | None:
        try:
            norm = self._gradients.capture(model, optimizer, scaler)
        except Exception as error:  # the model's own code runs here; the row must not suffer
            if is_handlers(error):
                raise
            known = isinstance(error, FasttrackError)
            self._refuse(GRAD_NORM, str(error) if known else f"model {explain(error)}")
            return None
        if isinstance(norm, Gradients):
            return norm
        if norm is not None:
            metrics[GRAD_NORM] = norm
        return None

    def _say_full(self) -> None:
        self._notices.warn("ring", "the ring is full (the worker hangs?); rows are dropped")

    def say_if_nothing_was_logged(self, logged: int, interval: int) -> None:
        """Say so at the end of a run where there were calls, but none that was logged."""
        last = self.training_step_number
        if last is not None and not logged:
            self._meeting.say(interval, f", the last time at {last}")

    def late_call(self) -> None:
        """Count a call that came after the end."""
        self._notices.count("late_calls")
        self._notices.warn("late", "a log call came after finish(); nothing is logged any more")

    def failed_call(self, method: str, error: Exception) -> None:
        """Count a call that is given up as a whole, and say why."""
        self._notices.lose("failed_calls", method, explain(error), result="the call was ignored")
