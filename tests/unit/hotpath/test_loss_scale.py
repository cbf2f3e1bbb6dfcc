"""Gradients under a GradScaler: the norm is the true one wherever in the loop it is logged."""

from __future__ import annotations

import gc
import math
import threading
import weakref
from typing import Any

import pytest
import torch
from support.step_loggers import Bench
from torch import nn

from fasttrack.hotpath import loss_scale
from fasttrack.hotpath.capture import Capture
from fasttrack.hotpath.gradients import GradientSource
from fasttrack.hotpath.records import GRAD_NORM, Gradients, Record
from fasttrack.notices import Notices
from fasttrack.worker.resolve import Resolver

GIB = 2**30
SCALE = 2.0**12
PLACES = ("backward", "unscale", "step", "update")


def build(inputs: int = 4) -> nn.Module:
    """Return a model with parameters of several sizes."""
    return nn.Sequential(nn.Linear(inputs, 3), nn.Tanh(), nn.Linear(3, 1))


class Loop:
    """A training loop with a scaler that logs at one place; it keeps what was logged and is true.

    True is what a backward pass without the scaler gives.
    """

    def __init__(
        self, place: str, mode: str = "worker", optimizer: str = "AdamW", **options: Any
    ) -> None:
        """Log after "backward", "unscale", "step" or "update"."""
        torch.manual_seed(0)
        self.place = place
        self.model = build()
        self.optimizer: Any = getattr(torch.optim, optimizer)(
            self.model.parameters(), lr=1e-3, **options
        )
        self.scaler = torch.amp.GradScaler("cpu", init_scale=SCALE, growth_interval=3)
        self.heard: list[str] = []
        self.notices = Notices()
        self.source = GradientSource(mode, GIB, lambda _, text: self.heard.append(text))
        self.resolver = Resolver(Capture("snapshot"), self.source, self.notices)
        self.passes: tuple[Any, Any] = (self.optimizer, self.scaler)
        self.zero_to_none = True
        self.norms: list[float | None] = []
        self.truths: list[float] = []
        self.true: list[torch.Tensor] = []

    def backward(self, factor: float = 1.0) -> None:
        """Compute scaled gradients, and add what they are unscaled to the truth."""
        loss = self.model(torch.randn(8, 4) * factor).pow(2).mean()
        grads = torch.autograd.grad(loss, list(self.model.parameters()), retain_graph=True)
        before = self.true or [torch.zeros_like(grad) for grad in grads]
        self.true = [t + g for t, g in zip(before, grads, strict=True)]
        self.scaler.scale(loss).backward()

    def zero(self) -> None:
        """Begin a step."""
        self.optimizer.zero_grad(set_to_none=self.zero_to_none)
        self.true = []

    def log(self, place: str) -> None:
        """Log, if it is here that this is done."""
        if place != self.place:
            return
        optimizer, scaler = self.passes
        captured = self.source.capture(self.model, optimizer, scaler)
        record = Record(0, 0.0, {}, {}, None, None, ())
        if isinstance(captured, Gradients):
            record = record._replace(gradients=captured)
        elif isinstance(captured, torch.Tensor):
            record = record._replace(values={GRAD_NORM: captured}, pending={GRAD_NORM: captured})
        ((_, _, values, *_),) = self.resolver.resolve([record])
        self.norms.append(values.get(GRAD_NORM))
        self.truths.append(float(torch.nn.utils.get_total_norm(self.true)))

    def step(self, micro_batches: int = 1) -> None:
        """Make one step, from zeroing to `update`."""
        self.zero()
        for _ in range(micro_batches):
            self.backward()
            self.log("backward")
        if self.place == "unscale":
            self.scaler.unscale_(self.optimizer)
        self.log("unscale")
        self.scaler.step(self.optimizer)
        self.log("step")
        self.scaler.update()
        self.log("update")

    def check(self) -> None:
        """Assert that every norm is the true one, and that nothing was said."""
        assert self.norms == pytest.approx(self.truths, rel=1e-4)
        assert self.heard == []
        assert self.notices.counts() == {}


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("mode", ["worker", "inline", "auto"])
@pytest.mark.parametrize("place", PLACES)
def test_the_norm_is_true_wherever_it_is_logged(place: str, mode: str, *, fused: bool) -> None:
    """Before `scaler.step()` the norm was the scaled one: 65,536-fold, with the default scale.

    The scale grows every third step here: what divides is the scale of the moment.
    """
    loop = Loop(place, mode, fused=fused)
    for _ in range(8):
        loop.step()

    loop.check()


@pytest.mark.parametrize("optimizer", ["SGD", "Adam", "Adagrad", "RMSprop"])
@pytest.mark.parametrize("place", ["backward", "update"])
def test_the_norm_is_true_with_other_optimizers(place: str, optimizer: str) -> None:
    """The hook is in all that derive from torch's."""
    loop = Loop(place, optimizer=optimizer)
    for _ in range(4):
        loop.step()

    loop.check()


@pytest.mark.parametrize("place", PLACES)
def test_the_norm_is_true_with_gradients_that_are_zeroed_in_place(place: str) -> None:
    """The gradients are the same tensors before and after; their versions tell."""
    loop = Loop(place, "inline")
    loop.zero_to_none = False
    for _ in range(5):
        loop.step()

    loop.check()


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("place", PLACES)
def test_accumulation_is_right_in_the_middle_of_a_window_too(
    place: str, *, set_to_none: bool
) -> None:
    """There the gradients are scaled and a part: the norm is that of the part."""
    loop = Loop(place, "inline")
    loop.zero_to_none = set_to_none
    for _ in range(3):
        loop.step(micro_batches=3)

    assert len(loop.norms) == (9 if place == "backward" else 3)
    loop.check()


@pytest.mark.parametrize("place", ["backward", "update"])
def test_a_skipped_step_gives_an_infinite_norm_and_the_next_one_a_true_one(place: str) -> None:
    """Where gradients overflow the scaler steps no optimizer: nothing is noted then."""
    loop = Loop(place)
    loop.step()
    loop.zero()
    loop.backward(math.inf)
    loop.log("backward")
    loop.scaler.step(loop.optimizer)
    loop.scaler.update()
    loop.log("update")
    scale_after = float(loop.scaler.get_scale())
    overflown = loop.norms.pop()
    loop.truths.pop()
    for _ in range(3):
        loop.step()

    assert overflown is not None
    assert not math.isfinite(overflown)
    assert scale_after < SCALE
    loop.check()


@pytest.mark.parametrize("place", ["backward", "update"])
def test_the_first_steps_may_be_skipped(place: str) -> None:
    """fp16 begins with a scale that overflows; the first norms are infinite, the rest is true."""
    loop = Loop(place)
    for _ in range(3):
        loop.zero()
        loop.backward(math.inf)
        loop.log("backward")
        loop.scaler.step(loop.optimizer)
        loop.scaler.update()
        loop.log("update")
    first, loop.norms, loop.truths = loop.norms, [], []
    for _ in range(3):
        loop.step()

    assert not any(map(math.isfinite, [norm for norm in first if norm is not None]))
    assert None not in first
    loop.check()


@pytest.mark.parametrize("place", ["backward", "unscale", "step", "update"])
def test_the_scaler_alone_is_enough(place: str) -> None:
    """Whose gradients they are is known from the optimizers that were seen to step."""
    loop = Loop(place)
    loop.passes = (None, loop.scaler)
    for _ in range(4):
        loop.step()

    loop.check()


@pytest.mark.parametrize("place", PLACES)
def test_a_disabled_scaler_scales_nothing(place: str) -> None:
    """AMP switched off by a flag, the loop unchanged."""
    loop = Loop(place)
    loop.scaler = torch.amp.GradScaler("cpu", enabled=False)
    loop.passes = (loop.optimizer, loop.scaler)
    for _ in range(3):
        loop.step()

    loop.check()


class Accelerated(torch.optim.Optimizer):
    """Looks like Accelerate's optimizer: it holds another and steps it through its scaler."""

    def __init__(self, optimizer: torch.optim.Optimizer, scaler: Any) -> None:
        """Hold them, and begin nothing of its own."""
        self.optimizer = optimizer
        self.scaler = scaler

    @property
    def param_groups(self) -> Any:  # type: ignore[override]
        """Those of the optimizer."""
        return self.optimizer.param_groups


class Native:
    """Looks like timm's scaler: it holds torch's."""

    def __init__(self, scaler: Any) -> None:
        """Hold it."""
        self._scaler = scaler

    def __call__(self) -> None:
        """Do all that a step does."""


@pytest.mark.parametrize("place", PLACES)
def test_wrapped_optimizers_and_scalers_are_looked_into(place: str) -> None:
    """Accelerate's brings its scaler along, which nobody passes; timm's holds it."""
    accelerated, native = Loop(place), Loop(place)
    accelerated.passes = (Accelerated(accelerated.optimizer, accelerated.scaler), None)
    native.passes = (native.optimizer, Native(native.scaler))
    for loop in (accelerated, native):
        for _ in range(4):
            loop.step()

        loop.check()


@pytest.mark.parametrize("update_each", [True, False])
@pytest.mark.parametrize("place", ["backward", "update"])
def test_two_optimizers_with_one_scaler(place: str, *, update_each: bool) -> None:
    """A GAN: each model's norm goes with its own optimizer, whenever the scaler is updated."""
    first, second = Loop(place), Loop(place)
    second.scaler = first.scaler
    second.source = first.source
    for loop in (first, second):
        loop.passes = (loop.optimizer, first.scaler)
    for _ in range(4):
        for loop in (first, second):
            loop.zero()
            loop.backward()
            loop.log("backward")
            loop.scaler.step(loop.optimizer)
            if update_each:
                loop.scaler.update()
                loop.log("update")
        if not update_each:
            first.scaler.update()
            for loop in (first, second):
                loop.log("update")

    for loop in (first, second):
        assert len(loop.norms) == 4
        loop.check()


def test_another_models_step_does_not_make_this_ones_gradients_unscaled() -> None:
    """A GAN that passes no optimizer: the scaler has seen one step, of which this is none."""
    first, second = Loop("backward"), Loop("backward")
    second.scaler, second.source, second.heard = first.scaler, first.source, first.heard
    for loop in (first, second):
        loop.passes = (None, first.scaler)
        loop.backward()
        loop.log("backward")
        loop.scaler.step(loop.optimizer)

    assert first.norms == pytest.approx(first.truths, rel=1e-4)
    assert second.norms == [None]
    (said,) = first.heard
    assert "another model's optimizer" in said


def test_scaled_gradients_on_top_of_unscaled_ones_are_left_out_and_said() -> None:
    """The generator's backward pass adds to the critic's gradients after the critic has stepped."""
    loop = Loop("late")
    loop.step()
    loop.backward()
    loop.log("late")

    assert loop.norms == [None]
    assert len(loop.heard) == 1
    assert "between backward() and scaler.step()" in loop.heard[0]


def test_a_call_without_the_scaler_of_earlier_calls_uses_it() -> None:
    """It is passed now and then only, for its scale: the norm of the other calls was scaled."""
    loop = Loop("backward")
    loop.step()
    loop.passes = (loop.optimizer, None)
    for _ in range(3):
        loop.step()

    loop.check()


def test_a_scaler_that_is_no_longer_in_use_is_doubted() -> None:
    """AMP is switched off in the middle, or this call left the scaler out: who knows."""
    loop = Loop("backward")
    loop.step()
    loop.passes = (loop.optimizer, None)
    loop.step()  # it was updated since the last call
    loop.zero()
    loop.log("backward")
    loop.backward()
    loop.log("backward")
    loop.log("backward")

    assert loop.norms[-1] is None
    assert "came without the scaler" in loop.heard[-1]


class Unheard:
    """A scaler of somebody else's."""

    def scale(self, loss: Any) -> Any:
        """Scale."""

    def step(self, optimizer: Any) -> None:
        """Step."""

    def update(self) -> None:
        """Update."""


class Furious:
    """Raises whatever it is asked."""

    def __getattr__(self, name: str) -> Any:
        """Raise."""
        raise RuntimeError("no")


@pytest.mark.parametrize("scaler", [Unheard(), "scaler", 65536.0, nn.Linear(1, 1), object()])
def test_a_foreign_scaler_is_said_and_what_is_none_is_ignored(scaler: Any) -> None:
    """What cannot be known is left out; a wrong argument costs the norm nothing."""
    loop = Loop("plain")
    loop.model(torch.ones(2, 4)).sum().backward()
    captured = loop.source.capture(loop.model, loop.optimizer, scaler)

    assert (captured is None) == isinstance(scaler, Unheard)
    assert len(loop.heard) == (1 if captured is None else 0)


def test_a_scaler_that_raises_costs_the_norm_nothing() -> None:
    """Every metric stands for itself."""
    loop = Loop("plain")
    loop.model(torch.ones(2, 4)).sum().backward()

    assert loop.source.capture(loop.model, loop.optimizer, Furious()) is not None
    assert loop.heard == []


class KeepsScaled(torch.optim.Optimizer):
    """An optimizer outside torch that takes the scale itself, and leaves gradients scaled."""

    _step_supports_amp_scaling = True

    def __init__(self, parameters: Any) -> None:
        """Have no settings."""
        super().__init__(parameters, {})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Change the parameters, but not the gradients."""
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.data.mul_(0.9)


@pytest.mark.parametrize("place", PLACES)
def test_an_optimizer_that_leaves_gradients_scaled_is_believed_before_its_step_only(
    place: str,
) -> None:
    """After it the gradients are scaled or not, as it likes."""
    loop = Loop(place)
    loop.optimizer = KeepsScaled(loop.model.parameters())
    loop.passes = (loop.optimizer, loop.scaler)
    for _ in range(3):
        loop.step()

    if place in ("backward", "unscale"):
        loop.check()
    else:
        assert loop.norms == [None] * 3
        assert "KeepsScaled" in loop.heard[0]


@pytest.mark.parametrize("place", ["backward", "update"])
def test_an_optimizer_that_steps_without_the_scaler_has_unscaled_gradients(place: str) -> None:
    """A critic in float32 beside a generator under AMP, both logged with the scaler."""
    loop, other = Loop(place), Loop("never")
    other.source = loop.source
    scaler = other.scaler
    loop.passes = (loop.optimizer, scaler)
    for _ in range(4):
        other.step()
        loop.zero()
        loss = loop.model(torch.randn(8, 4)).pow(2).mean()
        loop.true = list(torch.autograd.grad(loss, [*loop.model.parameters()], retain_graph=True))
        loss.backward()
        loop.log("backward")
        loop.optimizer.step()
        loop.log("update")
    first = 1 if place == "backward" else 0  # until it has stepped once, the scaler is believed

    assert loop.norms[first:] == pytest.approx(loop.truths[first:], rel=1e-4)


def test_a_parameter_frozen_with_its_gradient_does_not_mislead() -> None:
    """The smallest gradient stays as it is for ever: it says nothing about the others."""
    loop = Loop("backward")
    loop.step()
    bias = list(loop.model.parameters())[-1]
    bias.requires_grad_(False)
    kept = torch.ones_like(bias)
    for _ in range(3):
        loop.optimizer.zero_grad()
        loss = loop.model(torch.randn(8, 4)).pow(2).mean()
        trained = [p for p in loop.model.parameters() if p.requires_grad]
        grads = torch.autograd.grad(loss, trained, retain_graph=True)
        loop.true = list(grads)
        loop.scaler.scale(loss).backward()
        loop.log("backward")
        bias.grad = kept
        loop.scaler.step(loop.optimizer)
        loop.scaler.update()
        bias.grad = None

    known = [pair for pair in zip(loop.norms, loop.truths, strict=True) if pair[0] is not None]
    assert len(known) >= 3
    assert [norm for norm, _ in known] == pytest.approx([true for _, true in known], rel=1e-4)


def test_gradients_that_change_without_a_trace_are_left_out() -> None:
    """A CUDA graph that is replayed writes them: whether before or after a step is not known."""
    loop = Loop("backward")
    loop.step()
    loop.zero_to_none = False
    loop.optimizer.zero_grad = lambda set_to_none: None
    gradients = [p.grad for p in loop.model.parameters() if p.grad is not None]
    for _ in range(2):
        loop.scaler.step(loop.optimizer)
        loop.scaler.update()
    for gradient in gradients:
        gradient.data.fill_(SCALE)
    loop.log("backward")

    assert loop.norms[-1] is None
    assert "without a trace" in loop.heard[-1]


def test_a_call_within_a_fused_step_is_left_out() -> None:
    """Before its kernel the gradients are scaled, behind it they are not."""
    loop = Loop("hook", fused=True)
    loop.optimizer.register_step_pre_hook(lambda *_: loop.log("hook"))
    loop.step()

    assert loop.norms == [None]
    assert "within the optimizer's step" in loop.heard[0]


def test_a_scaler_that_comes_late_is_watched_from_then_on() -> None:
    """AMP is switched on in the middle: the first norm cannot be known, which is said."""
    loop = Loop("update")
    loop.passes = (loop.optimizer, None)
    loop.scaler = torch.amp.GradScaler("cpu", enabled=False)
    loop.step()
    loop.scaler = torch.amp.GradScaler("cpu", init_scale=SCALE)
    loop.passes = (loop.optimizer, loop.scaler)
    loop.step()
    loop.step()
    loop.step()

    assert loop.norms[1] is None
    assert [loop.norms[0], *loop.norms[2:]] == pytest.approx(
        [loop.truths[0], *loop.truths[2:]], rel=1e-4
    )
    assert len(loop.heard) == 1


def test_without_a_scaler_no_optimizer_is_watched_any_more() -> None:
    """One call without shows it; finished runs leave nothing behind either."""
    loop = Loop("update")
    loop.optimizer.zero_grad()
    loop.model(torch.ones(2, 4)).sum().backward()
    listening = len(loss_scale._listeners)
    loop.source.capture(loop.model, loop.optimizer, None)
    after_a_call = len(loss_scale._listeners)
    with_scaler = Loop("update")
    with_scaler.step()
    with_scaler.source.close()

    assert after_a_call == listening - 1
    assert len(loss_scale._listeners) == listening - 1


def test_a_watched_optimizer_is_not_kept_alive() -> None:
    """Nor its parameters: `del` frees them."""
    loop = Loop("update")
    loop.step()
    optimizer = weakref.ref(loop.optimizer)
    parameter = weakref.ref(next(loop.model.parameters()))
    loop.passes = (None, None)
    loop.true = []
    del loop.optimizer, loop.model
    gc.collect()

    assert optimizer() is None
    assert parameter() is None


def test_a_hook_that_fails_says_nothing_to_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hook runs inside the user's `optimizer.step()`."""
    loop = Loop("update")

    def fail(optimizer: Any) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(loop.source._scales, "note_step", fail)
    loop.step()
    monkeypatch.undo()
    loop.step()
    loop.step()
    loop.step()

    assert loop.norms[0] is None  # not known, and said
    assert loop.norms[-2:] == pytest.approx(loop.truths[-2:], rel=1e-4)


def test_logging_from_a_hook_of_the_users_changes_no_hooks() -> None:
    """Whoever registers a hook while hooks run makes `optimizer.step()` raise."""
    loop = Loop("hook")
    loop.optimizer.register_step_post_hook(lambda *_: loop.log("hook"))
    for _ in range(3):
        loop.step()

    assert len(loop.norms) == 3
    assert loop.norms[1:] == pytest.approx(loop.truths[1:], rel=1e-4)


def test_optimizers_may_step_in_several_threads() -> None:
    """Hooks come from every thread; none raises, and the norm stays true."""
    loop = Loop("update")
    loop.step()
    stop = threading.Event()
    failed: list[BaseException] = []

    def other() -> None:
        model = build()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        try:
            while not stop.is_set():
                model(torch.ones(2, 4)).sum().backward()
                optimizer.step()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=other) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        loop.step()
    stop.set()
    for thread in threads:
        thread.join(60)

    assert failed == []
    loop.check()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("optimizer", ["SGD", "Adam", "AdamW"])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("place", PLACES)
def test_on_cuda_the_norm_is_true_wherever_it_is_logged(
    place: str, optimizer: str, *, fused: bool
) -> None:
    """The fused kernels there write the unscaled gradients back, too; nothing waits."""
    loop = Loop(place, "auto")
    loop.model.cuda()
    loop.optimizer = getattr(torch.optim, optimizer)(loop.model.parameters(), lr=1e-3, fused=fused)
    loop.scaler = torch.amp.GradScaler("cuda", init_scale=SCALE, growth_interval=3)
    loop.passes = (loop.optimizer, loop.scaler)
    model = loop.model
    loop.model = nn.Sequential(_ToCuda(), model)
    for _ in range(6):
        loop.step()

    loop.check()


class _ToCuda(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.cuda()


class Unreadable:
    """What raises where its state is read."""

    @property
    def _per_optimizer_states(self) -> Any:
        raise OSError("gone")


class UnreadableScaler(Unreadable):
    """One that scales gradients."""

    def unscale_(self, optimizer: object) -> None:
        """Do nothing."""


@pytest.mark.parametrize("scaler", [Unreadable(), UnreadableScaler()], ids=["none", "scaler"])
def test_a_scaler_that_cannot_be_read_leaves_the_norm_out(scaler: Unreadable) -> None:
    """The gradients may be scaled; those beside what is no scaler are not."""
    model = torch.nn.Linear(2, 2)
    model(torch.ones(2)).sum().backward()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    bench = Bench()
    bench.log(0, model=model, optimizer=optimizer, scaler=scaler)

    (record,) = bench.pop()
    has_norm = record[5] is not None or GRAD_NORM in record[2]
    assert has_norm == (not isinstance(scaler, UnreadableScaler))
    assert any(GRAD_NORM in reason for reason in bench.notices.reasons()) == (not has_norm)
