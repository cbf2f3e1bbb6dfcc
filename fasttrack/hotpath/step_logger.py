"""The logging calls: what of a training step is noted on the caller's thread, and how."""

from __future__ import annotations

from collections.abc import Mapping
from threading import RLock
from time import perf_counter, time
from typing import TYPE_CHECKING, Any

from fasttrack.errors import FasttrackError, ValueRefusedError
from fasttrack.handler_errors import is_handlers
from fasttrack.hotpath.advice import describe, explain
from fasttrack.hotpath.arguments import (
    AMP_SCALE,
    add_further,
    add_learning_rates,
    add_loss_scale,
    add_scale,
)
from fasttrack.hotpath.call_meter import (
    FIRST,
    LOGGED,
    LOGGED_EVERY,
    METRICS,
    METRICS_EVERY,
    SKIPPED,
    SKIPPED_EVERY,
)
from fasttrack.hotpath.capture import order, step_number
from fasttrack.hotpath.meeting import Meeting
from fasttrack.hotpath.pause import Pause
from fasttrack.hotpath.phases import NO_PHASE, Phases
from fasttrack.hotpath.records import (
    GRAD_NORM,
    LARGEST_STEP,
    LEARNING_RATE,
    LOSS,
    Gradients,
    OddSize,
    WithTokens,
)
from fasttrack.hotpath.ticks import shorten, size_of_step

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from contextlib import AbstractContextManager

    import torch

    from fasttrack.hotpath.call_meter import CallMeter
    from fasttrack.hotpath.capture import Capture
    from fasttrack.hotpath.gradients import GradientSource
    from fasttrack.hotpath.records import Captured, RawRecord
    from fasttrack.hotpath.ring import Ring
    from fasttrack.notices import Notices
    from fasttrack.quick_calls import QuickCalls


class StepLogger:
    """Capture what the training loop logs and push it into the ring. Nothing raises into training.

    Usual calls do not come here; see `QuickCalls`.

    Threads: log from any; `set_interval` from the worker; `close` from whoever ends the run,
    signal handlers included.
    """

    __slots__ = (
        "_capture",
        "_gradients",
        "_hot",
        "_lock",
        "_logged",
        "_meeting",
        "_notices",
        "_open",
        "_open_pauses",
        "_phases",
        "_refuse",
        "_ring",
        "_timed",
        "_timed_from",
        "_untimed_before",
        "_wake",
    )

    def __init__(
        self,
        hot: QuickCalls,
        ring: Ring[RawRecord],
        capture: Capture,
        gradients: GradientSource,
        calls: CallMeter,
        notices: Notices,
        *,
        log_interval: int,
        wake: Callable[[], None],
        open_pauses: list[float] | None = None,
    ) -> None:
        """Log every `log_interval`-th step.

        Args:
            hot: the state of the calls; gets all that usual ones need to do without this.
            ring: takes the records.
            capture: keeps the values.
            gradients: keeps what the norm is computed of.
            calls: told how long calls take.
            notices: told what is refused and lost.
            log_interval: in steps.
            wake: called when gradients wait in the ring.
            open_pauses: holds when those pauses began that have not ended.
        """
        # caller thread
        # Python specialises a call of an object's method, not of a function kept in an attribute.
        self._hot = hot
        self._ring = ring
        self._capture = capture
        self._gradients = gradients
        self._timed = calls.timed
        self._notices = notices
        self._refuse = notices.refuse  # handed on with every call, called hardly ever
        self._wake = wake
        self._open = True
        self._meeting = Meeting(notices.warn)
        self._timed_from = 0  # as that of the quick calls, where not all of them come here
        self._untimed_before = 0  # as the meeting saw it last
        hot._interval = log_interval
        self._logged = FIRST
        hot._untimed_steps, hot._untimed_metrics = 1, METRICS_EVERY
        hot._waiting, hot._room = ring.items, ring.capacity
        hot._tensor = capture.read_at_once
        hot._logger = self
        # any thread
        self._open_pauses: list[float] = [] if open_pauses is None else open_pauses
        self._phases = Phases(hot, self._refuse)
        self._lock = RLock()  # of the interval, which two threads set; the calls take none

    def set_interval(self, steps: int) -> None:
        """Log every `steps`-th step from now on."""
        with self._lock:
            if self._open:
                self._hot._interval = steps

    def close(self) -> None:
        """Log nothing any more: further calls are late."""
        with self._lock:
            self._open = False
            self._hot._interval, self._hot._room = 1, 0  # all calls come here, and find that out
            self._phases.close()
        self._gradients.close()

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
        hot = self._hot
        if not self._open:
            self.late_call()
            return
        try:
            if type(step) is not int:
                step = step_number(step)
            now_s = perf_counter()
            size: Any = batch_size
            if tokens is not None or (size is not None and type(size) is not int):
                size = size_of_step(hot, batch_size, tokens)
            before, hot._step, hot._metrics_step = hot._step, step, None
            if step % hot._interval:
                hot._ticks.append((now_s, size))
                if step >= self._timed_from:
                    self._timed_from = step + SKIPPED_EVERY
                    self._timed.append((SKIPPED, perf_counter() - now_s, now_s))
                    self._look_after_skipped(before, step)
                if type(size) is not WithTokens and type(size) is not OddSize:
                    hot._timed_from = self._timed_from
                return
            metrics: dict[str, Captured] = {} if loss is None else {LOSS: loss}
            if loss_ar is not None:
                metrics["loss/ar"] = loss_ar
            if loss_fm is not None:
                metrics["loss/fm"] = loss_fm
            if optimizer is not None:
                plain = type(optimizer) is hot._plain_optimizer
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
                if gradients is not None and GRAD_NORM in metrics:  # the caller's own is kept
                    self._gradients.was_dropped(gradients)
                    gradients = None
            pending = self._capture.mapping(metrics, self._refuse)
            waits = pending is not None or gradients is not None
            events: tuple[torch.Event, ...] = ()
            if waits:
                readable, events = order(metrics, pending, gradients, self._refuse)
                if gradients is not None and not readable:
                    self._gradients.was_dropped(gradients)
                    gradients = None
            hot._untimed_steps = untimed = hot._untimed_steps - 1
            tick = ((now_s, size),)
            if not self._ring.push((step, time(), metrics, pending, tick, gradients, events)):
                self._say_full()
                if gradients is not None:
                    self._gradients.was_dropped(gradients)
            elif gradients is not None:
                self._wake()  # gradients are large, and may soon be zeroed in place
            if untimed <= 0:
                self.note_logged(step, now_s)
        except Exception as error:  # nothing may raise into training
            if is_handlers(error):
                raise
            self.failed_call("log_training_step", error)

    def metrics(self, metrics: Mapping[str, Any], step: int | None) -> None:
        """Do what `ExperimentTracker.log_metrics` says."""
        hot = self._hot
        if not self._open:
            self.late_call()
            return
        try:
            hot._untimed_metrics -= 1
            start_s = 0.0 if hot._untimed_metrics > 0 else perf_counter()
            step = self.step_of(step)
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
                self.note_metrics(start_s)
        except Exception as error:  # nothing may raise into training
            if is_handlers(error):
                raise
            self.failed_call("log_metrics", error)

    def step_of(self, step: Any) -> int:
        """Return the step of a call that may have none; see `ExperimentTracker.log_metrics`.

        Raises:
            ValueRefusedError: it is no integer.
        """
        hot = self._hot
        if step is None:
            last = hot._metrics_step
            return (hot._step or 0) if last is None else last
        number: int = step if type(step) is int else step_number(step)
        hot._metrics_step = number
        return number

    def not_floats(self, values: dict[Any, Any], metrics: dict[Any, Any]) -> Collection[Any]:
        """Return the names of `values` that are no floats; note those of `metrics`.

        Args:
            values: a copy of `metrics`, some of its tensors read.
            metrics: the caller's.
        """
        names = [name for name in values if type(values[name]) is not float]
        again = [
            name for name in self._hot._not_floats if type(metrics.get(name, 0.0)) is not float
        ]
        # Each name once, and none that is equal to another in a way of its own: they are counted.
        texts = [name for name in (*again, *names) if type(name) is str]
        self._hot._not_floats = tuple(dict.fromkeys(texts))
        return names

    def note_logged(self, step: int, entered_s: float) -> None:
        """Note how long a call took that logged a training step."""
        self._hot._untimed_steps = LOGGED_EVERY
        self._timed.append((self._logged, perf_counter() - entered_s, entered_s))
        self._logged = LOGGED
        # The trainer may count anew.
        self._timed_from = min(self._timed_from, step + SKIPPED_EVERY)
        self._hot._timed_from = min(self._hot._timed_from, self._timed_from)

    def note_metrics(self, entered_s: float) -> None:
        """Note how long a call of `log_metrics` took."""
        self._hot._untimed_metrics = METRICS_EVERY
        self._timed.append((METRICS, perf_counter() - entered_s, entered_s))

    @property
    def training_step_number(self) -> int | None:
        """That of the last training step; None before the first, and where no row can have it."""
        step = self._hot._step
        return step if step is not None and abs(step) <= LARGEST_STEP else None

    @property
    def gradients(self) -> GradientSource:
        """What keeps gradients for the norm."""
        return self._gradients

    def pause(self) -> Pause:
        """Do what `ExperimentTracker.pause` says."""
        return Pause(self._hot._ticks, self._open_pauses)

    def phase(self, name: str) -> AbstractContextManager[None]:
        """Do what `ExperimentTracker.phase` says; nothing once the run has ended."""
        return self._phases.make(name) if self._open else NO_PHASE

    def _look_after_skipped(self, before: int | None, step: int) -> None:
        hot = self._hot
        if self._untimed_before != hot._untimed_steps:  # a step was logged since
            self._untimed_before = hot._untimed_steps
            self._meeting.calls = 0
        self._meeting.missed(before, step, hot._interval)
        shorten(hot._ticks)  # the interval may be that long, or the worker that late

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
            self._hot._plain_optimizer = kind  # it has no loss scale, and raises nothing
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
        last = self._hot._step
        if last is not None and not logged:
            self._meeting.say(interval, f", the last time at {last}")

    def late_call(self) -> None:
        """Count a call that came after the end."""
        self._notices.count("late_calls")
        self._notices.warn("late", "a log call came after finish(); nothing is logged any more")

    def failed_call(self, method: str, error: Exception) -> None:
        """Count a call that is given up as a whole, and say why."""
        self._notices.lose("failed_calls", method, explain(error), result="the call was ignored")
