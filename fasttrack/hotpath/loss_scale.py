"""Whether gradients are multiplied by a GradScaler's scale at this moment.

Between `backward()` and `scaler.step()` they are, after `unscale_()` or `step()` they are not, and
the scaler forgets both in `update()`: then it looks the same before the next `unscale_()` as after
this one. What the optimizer did last tells these two apart. A hook of torch's own, after the steps
of all optimizers, notes one gradient of each, the smallest: is that the one which the model still
has, then no backward pass came after the step. A step that the scaler left out is not noted, but
then the gradients are not finite, whatever they are divided by.
"""

from __future__ import annotations

import weakref
from threading import RLock
from typing import TYPE_CHECKING, Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from fasttrack.handler_errors import is_handlers

if TYPE_CHECKING:
    from collections.abc import Callable

    from fasttrack.hotpath.parameters import ParameterList

_MOST = 64  # optimizers that are watched; whoever has more makes them anew all the time


class ScaleUnknownError(Exception):
    """It cannot be told whether the gradients are scaled."""

    def __init__(self, why: str) -> None:
        """Say why, and what to do."""
        super().__init__(
            f"train/grad_norm is left out: {why}, so that the gradients may be scaled or not; pass "
            "scaler= and optimizer= with every call, between backward() and scaler.step(), or "
            "between scaler.step() and scaler.update()"
        )


class LossScales:
    """Know the scale of gradients from the scaler and the optimizer of each call.

    Threads: caller; `note_step` wherever an optimizer steps.
    """

    def __init__(self) -> None:
        """Listen to all optimizers, until the first call shows that there is no scaler."""
        self._watched: dict[int, _Watch] = {}
        self._plain: type | None = None  # of the last optimizer that brings no scaler of its own
        self._from_start = True
        self._listening = True
        _listen(self)

    def scale_of(self, scaler: Any, optimizer: Any, listed: ParameterList) -> torch.Tensor | None:
        """Return what the gradients of a model are multiplied by; None where by nothing.

        Never waits: what is returned is the scaler's own tensor.

        Args:
            scaler: what the call came with: a GradScaler, or what holds one.
            optimizer: likewise: torch's, or what holds one.
            listed: the model's parameters.

        Raises:
            ScaleUnknownError: it cannot be known.
        """
        if scaler is None and not self._listening and type(optimizer) is self._plain:
            return None
        given = optimizer
        optimizer, scaler = _unwrapped(optimizer, scaler)
        if scaler is None:
            scaler = self._earlier_scaler(optimizer)
            if scaler is None:
                self._plain = type(given)
                if not any(watch.scaler is not None for watch in self._watched.values()):
                    self.close()
                return None
        states = getattr(scaler, "_per_optimizer_states", None)
        if states is None:
            if getattr(scaler, "_enabled", True) and _looks_like_a_scaler(scaler):
                raise ScaleUnknownError(f"{type(scaler).__name__} is none of torch's scalers")
            return None
        scale: torch.Tensor | None = scaler._scale
        if not scaler._enabled or scale is None:
            return None
        if not self._listening:  # the calls so far came without a scaler
            self._from_start, self._listening = False, True
            _listen(self)
        watch = self._watch_of(optimizer, listed)
        if watch is None:
            watches = tuple(self._watched.items())
            if any(key in states and not watch.is_of(listed) for key, watch in watches):
                raise ScaleUnknownError("the scaler serves another model's optimizer, too")
            stage, stepped = _only_stage(states), None
        else:
            watch.scaler = weakref.ref(scaler)
            watch.states = states
            watch.scale = scale
            optimizer = watch.optimizer()
            if watch.steps_alone:
                return None
            state = states.get(id(optimizer))
            stage = "READY" if state is None else state["stage"].name
            if stage == "READY" and hasattr(
                optimizer, "found_inf"
            ):  # of a fused one, while it steps
                raise ScaleUnknownError("this call is made within the optimizer's step")
            stepped = watch.has_stepped(listed) if stage == "READY" else None
        if stage == "READY" and not stepped:
            if stepped is None and scale._version:  # else it was never updated
                raise ScaleUnknownError("the optimizer's steps could not be watched")
            return scale
        if stage != "UNSCALED" and _keeps_scaled(optimizer):
            raise ScaleUnknownError(f"{type(optimizer).__name__} divides by the scale itself")
        return None

    def note_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Note that `optimizer` has stepped just now."""
        watch = self._watched.get(id(optimizer))
        if watch is None or watch.optimizer() is not optimizer:
            watch = self._watch(optimizer)
        watch.note_step()

    def close(self) -> None:
        """Listen no more, and let go of everything."""
        self._listening = False
        _listen(self, for_more=False)
        self._watched.clear()

    def _watch(self, optimizer: torch.optim.Optimizer) -> _Watch:
        if len(self._watched) >= _MOST:
            self._watched.clear()
            self._from_start = False
        key = id(optimizer)
        gone = lambda _: self._watched.pop(key, None)  # noqa: E731  # it has no better name
        watch = self._watched[key] = _Watch(optimizer, gone, known=self._from_start)
        return watch

    def _watch_of(self, optimizer: Any, listed: ParameterList) -> _Watch | None:
        if isinstance(optimizer, torch.optim.Optimizer):
            watch = self._watched.get(id(optimizer))
            if watch is None or watch.optimizer() is not optimizer:
                watch = self._watch(optimizer)
                # Without torch's hook in its step it cannot be watched.
                watch.known &= bool(getattr(type(optimizer).step, "hooked", False))
            return watch
        known = [watch for watch in tuple(self._watched.values()) if watch.is_of(listed)]
        return known[0] if len(known) == 1 else None

    def _earlier_scaler(self, optimizer: Any) -> Any:
        watch = self._watched.get(id(optimizer))
        if watch is None or watch.scaler is None:
            return None
        scaler = watch.scaler()
        if scaler is not None and scaler._per_optimizer_states is watch.states:
            raise ScaleUnknownError("this call came without the scaler of an earlier one")
        return scaler


class _Watch:
    """One optimizer: what its smallest gradient was when it last stepped."""

    __slots__ = (
        "_gradient",
        "_parameter",
        "_scale_version",
        "_version",
        "known",
        "optimizer",
        "scale",
        "scaler",
        "states",
        "steps_alone",
        "untraced",
    )

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        gone: Callable[[weakref.ref[torch.optim.Optimizer]], object],
        *,
        known: bool,
    ) -> None:
        self.optimizer = weakref.ref(optimizer, gone)
        self.known = known
        """Whether it would have been noted if it had stepped with the gradients as they are."""
        self.scaler: weakref.ref[Any] | None = None
        """Of the last call that had one; and, as it was then:"""
        self.states: object = None
        self.scale: torch.Tensor | None = None
        self.steps_alone = False
        """Whether that scaler had no part in the last step."""
        self.untraced = False
        """Whether gradients change though neither they nor their versions do."""
        self._parameter: torch.Tensor | None = None
        self._gradient: torch.Tensor | None = None
        self._version = 0
        self._scale_version = 0

    def note_step(self) -> None:
        parameter = self._parameter
        gradient = None if parameter is None else parameter.grad
        if gradient is None:
            self._parameter = parameter = self._smallest(None)
            gradient = None if parameter is None else parameter.grad
        version = 0 if gradient is None or gradient.is_inference() else gradient._version
        self.untraced = gradient is not None and gradient is self._gradient
        self.untraced &= version == self._version
        self._gradient, self._version = gradient, version
        scaler = None if self.scaler is None else self.scaler()
        if scaler is not None:
            self.steps_alone = id(self.optimizer()) not in scaler._per_optimizer_states
        self._scale_version = 0 if self.scale is None else self.scale._version
        self.known = True

    def is_of(self, listed: ParameterList) -> bool:
        return id(self._parameter) in listed.ids

    def has_stepped(self, listed: ParameterList) -> bool | None:
        """Return whether the last step was made with the gradients as they are, if known."""
        if self._parameter is None or self._parameter.grad is None or not self.is_of(listed):
            unseen = self._parameter is None and self.known  # no step was ever made
            self._parameter, self._gradient = self._smallest(listed), None
            self.known = unseen
            return False if unseen else None
        gradient = self._gradient
        if gradient is not None and self._parameter.grad is gradient:
            if self.untraced:
                raise ScaleUnknownError("gradients change without a trace (by a CUDA graph?)")
            written = gradient._version - self._version
            if not written:
                return True
            if written == 1:  # zeroing in place and a backward pass are two
                raise ScaleUnknownError("scaled gradients were added to unscaled ones")
        if self.scale is not None and self.scale._version - self._scale_version > 1:
            optimizer = self.optimizer()
            groups = [] if optimizer is None else optimizer.param_groups
            if any(id(p) not in listed.ids for group in groups for p in group["params"]):
                # A step may have been left out for gradients that this model does not have.
                raise ScaleUnknownError("the scaler was updated, but its optimizer did not step")
        return False if self.known else None

    def _smallest(self, listed: ParameterList | None) -> torch.Tensor | None:
        optimizer = self.optimizer()
        groups = [] if optimizer is None else optimizer.param_groups
        owned = [p for group in groups for p in group["params"]]
        owned = [p for p in owned if p.requires_grad and p.grad is not None]
        if listed is not None:
            owned = [p for p in owned if id(p) in listed.ids]
        return min(owned, key=torch.Tensor.numel, default=None)


def _unwrapped(optimizer: Any, scaler: Any) -> tuple[Any, Any]:
    """Return torch's own optimizer and scaler below what wraps them."""
    for _ in range(4):
        inner = getattr(optimizer, "__dict__", {})
        if scaler is None:
            scaler = inner.get("scaler")  # Accelerate's optimizer has the one that it uses
        wrapped = inner.get("optimizer", inner.get("_optimizer"))
        if not hasattr(wrapped, "param_groups"):
            break
        optimizer = wrapped
    if scaler is not None and not hasattr(scaler, "_per_optimizer_states"):
        below = getattr(scaler, "_scaler", None)  # timm's, and what follows it
        scaler = below if hasattr(below, "_per_optimizer_states") else scaler
    return optimizer, scaler


def _only_stage(states: Any) -> str:
    stages = {state["stage"].name for state in tuple(states.values())} or {"READY"}
    if len(stages) > 1:
        raise ScaleUnknownError("the scaler serves several optimizers")
    stage: str = stages.pop()
    return stage


def _keeps_scaled(optimizer: Any) -> bool:
    """Return whether it takes the scale itself, and may leave the gradients as they were."""
    # torch's own, the fused ones, write the unscaled gradients back.
    takes_scale = getattr(optimizer, "_step_supports_amp_scaling", False)
    return bool(takes_scale) and not type(optimizer).__module__.startswith("torch.optim.")


def _looks_like_a_scaler(scaler: Any) -> bool:
    return all(callable(getattr(scaler, name, None)) for name in ("scale", "step", "update"))


_lock = RLock()
_listeners: tuple[LossScales, ...] = ()  # of those that are closed none is left
_hooked = False


def _listen(scales: LossScales, *, for_more: bool = True) -> None:
    global _hooked, _listeners
    with _lock:
        _listeners = (*(each for each in _listeners if each is not scales), *[scales][:for_more])
        if for_more and not _hooked:
            _hooked = True
            register_optimizer_step_post_hook(_stepped)


def _stepped(optimizer: torch.optim.Optimizer, *_: object) -> None:
    # Once for the process, and never taken back: who is in the midst of a step must not meet
    # hooks that come and go.
    for scales in _listeners:
        try:
            scales.note_step(optimizer)
        except Exception as error:  # ours must not raise into training
            scales.close()  # what was not noted is unknown
            if is_handlers(error):
                raise


_stepped._torchdynamo_disable = True  # type: ignore[attr-defined]  # opaque to torch.compile
