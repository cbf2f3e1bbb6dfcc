"""Random scripts: sequences of calls, and the tracker that they are made on."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st
from support import model_arguments as given
from support import model_values as values
from support.model import Refused
from support.model_calls import (
    Call,
    Flush,
    Metrics,
    Mixed,
    Pauses,
    Size,
    Step,
    Told,
    TrainingStep,
)

_FEWEST_CALLS = 12
_MOST_CALLS = 40
THREAD = "thread"
MOST_OF_A_THREAD = 1_000
"""A thread's number times this is the loss that its next call begins from, where all else it logs
is what all log."""
GRAD_NORMS = ("auto", "inline", "worker", "off")
KEPT = ("kept", values.number_itself(1.0))


@dataclass(frozen=True)
class Script:
    """A tracker's settings, and what is called on it."""

    log_interval: int
    gpu_stats_interval: int
    capture: str
    grad_norm: str
    flush_interval_s: float
    spoils: bool
    """Whether what was passed is spoiled right behind each call."""
    calls: tuple[Call, ...]
    late: tuple[Call, ...]
    """Made when the run is finished."""

    def _repr_pretty_(self, printer: Any, _: bool) -> None:
        # By itself Hypothesis shows how each value was drawn, which takes pages.
        printer.text("\n  ".join(map(repr, (self.setting, *self.calls, "finish", *self.late))))

    @property
    def setting(self) -> dict[str, Any]:
        """All but the calls."""
        told = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}
        return {name: value for name, value in told.items() if name not in ("calls", "late")}


class _Drawer:
    """Draw the calls of one thread; it knows how far that has come."""

    def __init__(self, draw: st.DrawFn, script: Script, thread: int | None = None) -> None:
        self.draw = draw
        self.now = 0
        self._all_sized = draw(st.booleans())
        self._made = 0
        self._script = script
        self._live = given.live_scaler() if draw(st.integers(0, 3)) == 0 else None
        # What makes the rows of one thread known. Several have more in common than that: the last
        # step, and the steps of which batch sizes are missing.
        self._thread = thread
        self._mark = None if thread is None else Mixed(((THREAD, values.number_itself(thread)),))
        self._sizes = given.sizes if thread is None else given.good_sizes

    def maybe(self, strategy: Any, *, one_in: int = 3) -> Any:
        return self.draw(strategy) if self.draw(st.integers(1, one_in)) == 1 else None

    def step(self) -> Step:
        """Draw a step: the next one as a rule."""
        kind = self.draw(st.integers(0, 19))
        if kind == 19:
            return self.draw(given.bad_steps)
        if kind == 18:
            number = self.draw(given.BIG)
            return Step(number, number)
        if kind >= 15:
            self.now += self.draw(st.integers(-20, 20))
        elif kind < 13:
            self.now += 1
        return self.draw(given.spelled(self.now))

    def usual_training_step(self) -> TrainingStep:
        """Draw a call as most loops make it."""
        self.now += self.draw(st.sampled_from((1, 1, 1, 1, 1, 0, 7, -5)))
        self._made += 1
        loss = self.draw(values.usual)
        if self._thread is not None:
            loss = values.number_itself(float(self._thread * MOST_OF_A_THREAD + self._made))
        return TrainingStep(
            step=Step(self.now, self.now),
            loss=loss,
            batch_size=self._size(),
            optimizer=self.maybe(given.usual_optimizers, one_in=2),
            model=(model := self.maybe(self._models(odd=False), one_in=2)),
            scaler=None if model is None else self._live,
        )

    def usual_metrics(self) -> Metrics:
        """Draw a call as most evaluations make it."""
        chosen = self.draw(values.usual_mappings)
        if self._mark is not None:
            chosen = Mixed((*(self._mark.items or ()), *(chosen.items or ())))
        step = self.now - self.draw(st.sampled_from((0, 0, 3)))
        if self._mark is None and self.draw(st.integers(0, 2)) == 2:
            return Metrics(chosen, None)
        return Metrics(chosen, Step(step, step))

    def _size(self) -> Size | None:
        """Draw a batch size; it takes one of each step of an interval to count samples."""
        if self._all_sized:
            return self.draw(given.good_sizes)
        return self.maybe(self._sizes, one_in=2)  # type: ignore[no-any-return]

    def _models(self, *, odd: bool = True) -> Any:
        # By the worker gradients are read later.
        spoil = self._script.spoils and self._script.grad_norm != "worker"
        return given.models(live=self._live is not None, spoil=spoil, odd=odd)

    def training_step(self) -> TrainingStep:
        draw, maybe = self.draw, self.maybe
        model = maybe(self._models(), one_in=2)
        scaler = maybe(given.scalers)
        if model is not None and self._live is not None:
            scaler = self._live
        extra = self._mapping(one_in=2)
        if model is not None and self._mark is None and draw(st.booleans()):
            extra = draw(values.norms)
        call = TrainingStep(
            step=self.step(),
            loss=draw(values.values),
            batch_size=self._size(),
            optimizer=maybe(values.now_and_then(given.optimizers(), given.no_optimizers), one_in=2),
            model=model,
            scaler=scaler,
            loss_ar=maybe(values.values),
            loss_fm=maybe(values.arguments),
            grad_norm=maybe(values.arguments, one_in=6),
            extra=extra,
        )
        return self._without_conflicts(call)

    def metrics(self) -> Metrics:
        metrics = self._mapping(one_in=1)
        assert metrics is not None
        step = self.step()
        if step.passed is None:  # which is that of the last call, whichever thread made it
            step = Step("none", None)
        if self._mark is None and self.draw(st.integers(0, 3)) == 3:
            return Metrics(metrics, None)
        return Metrics(metrics, step)

    def _mapping(self, *, one_in: int) -> Mixed | None:
        if self._mark is not None:
            chosen = self.maybe(values.mappings, one_in=one_in) or Mixed(())
            return Mixed((*(self._mark.items or ()), *(chosen.items or ())))
        drawn = values.now_and_then(
            values.mappings, values.junk, values.many(), values.hopeless, one_in=4
        )
        return self.maybe(drawn, one_in=one_in)  # type: ignore[no-any-return]

    def _without_conflicts(self, call: TrainingStep) -> TrainingStep:
        """Take out of `extra` what stands under the name of an argument that is refused."""
        if call.extra is None or call.extra.items is None:
            return call
        told = {
            "loss/total": None if call.loss is None else call.loss.outcome,
            "train/grad_norm": None if call.grad_norm is None else call.grad_norm.outcome,
        }
        for argument in (call.optimizer, call.scaler, call.model):
            if isinstance(argument, Told):
                told.update(argument.tells)
        taken = {name for name, outcome in told.items() if isinstance(outcome, Refused)}
        items = tuple(item for item in call.extra.items if item[0] not in taken)
        return dataclasses.replace(call, extra=dataclasses.replace(call.extra, items=items))

    def call(self) -> Call:
        kind = self.draw(st.integers(0, 19))
        if kind < 5:
            return self.usual_training_step()
        if kind < 8:
            return self.usual_metrics()
        if kind < 13:
            return self.training_step()
        if kind < 17:
            return self.metrics()
        if kind == 17:
            return Pauses(self.draw(st.integers(1, 3)))
        return self.draw(given.configs) if kind == 18 else Flush()


def thread_of(values: dict[str, float]) -> int:
    """Return the number of the script that a row is of."""
    known = values.get(THREAD)
    return int(values["loss/total"] // MOST_OF_A_THREAD if known is None else known)


@st.composite
def _settings(draw: st.DrawFn, grad_norm: str | None = None) -> Script:
    capture = draw(st.sampled_from(("snapshot", "snapshot", "snapshot", "reference")))
    return Script(
        log_interval=draw(st.sampled_from((1, 1, 2, 3, 10))),
        gpu_stats_interval=draw(st.sampled_from((1, 2, 5, 50))),
        capture=capture,
        grad_norm=draw(st.sampled_from(GRAD_NORMS)) if grad_norm is None else grad_norm,
        flush_interval_s=draw(st.sampled_from((0.002, 0.02, 0.2))),
        spoils=capture == "snapshot" and draw(st.booleans()),
        calls=(),
        late=(),
    )


@st.composite
def scripts(draw: st.DrawFn, grad_norm: str | None = None) -> Script:
    """Return a script for one thread, with any `grad_norm` if none is given."""
    script = draw(_settings(grad_norm))
    drawer = _Drawer(draw, script)
    calls = tuple(drawer.call() for _ in range(draw(st.integers(_FEWEST_CALLS, _MOST_CALLS))))
    late = tuple(drawer.call() for _ in range(draw(st.integers(0, 4))))
    return dataclasses.replace(script, calls=calls, late=late)


@st.composite
def scripts_of_threads(draw: st.DrawFn) -> tuple[Script, ...]:
    """Return scripts for one tracker; `thread_of` tells which of them a row is of."""
    script = draw(_settings())
    made = []
    for number in range(draw(st.integers(2, 4))):
        drawer = _Drawer(draw, script, thread=number)
        calls = tuple(drawer.call() for _ in range(draw(st.integers(1, _MOST_CALLS // 2))))
        made.append(dataclasses.replace(script, calls=calls))
    return tuple(made)
