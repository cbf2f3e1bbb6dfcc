"""What the worker needs for the norms of each layer, from time to time: `layers/grad_norm/<name>`.

A layer is a module that has parameters of its own; its norm is that over all of them. Gradients go
to the worker as references, with their versions, as for `train/grad_norm`: whatever trains next
makes new ones, as a rule. Of a few MiB on the CPU the norms are computed here: reading versions,
handing the interpreter to the worker and back, and freeing them there costs the step more.
Parameters change in place in the very next `optimizer.step()`, so their norms are launched here,
asynchronously on an accelerator, and of few at a time: by turns of whole layers with some 64
tensors, so that a sample costs the same however many layers there are. That the model still has the
layers that were listed is found by the worker, until it once has not.
"""

from __future__ import annotations

import contextlib
import weakref
from itertools import repeat
from operator import is_
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from fasttrack.errors import ValueRefusedError
from fasttrack.hotpath.capture import mark_streams
from fasttrack.hotpath.gradients import CPU_INLINE_BYTES
from fasttrack.hotpath.layer_list import Layers, Norms, launch_norms, with_norms
from fasttrack.hotpath.loss_scale import ScaleUnknownError
from fasttrack.hotpath.norms import whole, why_local_norm_is_wrong

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from fasttrack.hotpath.gradients import GradientSource

_MOST_WAITING = 64  # samples; of few of them gradients are held
_MANY_WAITING = 16
_CALM_STEPS = 50
_PROVEN = 2  # samples with new gradients, after which they are taken to be made anew
_tensor: Any = torch.Tensor  # whose attributes are descriptors in C
_gradient_of = _tensor.grad.__get__
_version_of = _tensor._version.__get__


def versions_of(tensors: Iterable[torch.Tensor]) -> int:
    """Return the sum of how often each was written to: it grows with every one of them."""
    return sum(map(_version_of, tensors))


class GradientsOf(NamedTuple):
    """A model's gradients at one step, or what their norms are to be read from."""

    norms: Norms
    """With the gradients in place of norms, where there are `versions`."""
    versions: int | None
    """The sum of those that the gradients had, which only grow; None: there are norms already."""
    scale: torch.Tensor | None
    """What they are multiplied by."""


class LayerSample(NamedTuple):
    """The layers of a model at one step."""

    step: int
    at_s: float
    """`time.perf_counter()` at the call."""
    layers: Layers
    about_bad: bool
    """Whether it was taken because the loss is no finite number; it becomes no metrics then."""
    is_proven: bool
    """Whether these are known to have been the model's layers; else that is to be looked at."""
    gradients: GradientsOf
    parameters: Norms
    devices: frozenset[torch.device]
    events: tuple[torch.Event, ...]


class LayerSource:
    """Take samples of a model's layers.

    Threads: caller; `was_stale`, `has_changed` and `samples` are the worker's, too.
    """

    def __init__(
        self,
        every: int,
        hold_limit_bytes: int,
        gradients: GradientSource,
        warn: Callable[[str, str], None],
        *,
        cpu_inline_bytes: int = CPU_INLINE_BYTES,
    ) -> None:
        """Take one every so many steps, with the first that is logged.

        Args:
            every: in steps.
            hold_limit_bytes: of gradients that the worker is let hold; of more the norms are
                launched here.
            gradients: knows whether they are scaled.
            warn: called with (key, text) for what the user should hear once.
            cpu_inline_bytes: of gradients on the CPU up to this total they are launched here, too.
        """
        self.samples: list[LayerSample] = []
        """What waits for the worker, which takes from the beginning."""
        self._every = every
        self._hold_limit_bytes = hold_limit_bytes
        self._cpu_inline_bytes = cpu_inline_bytes
        self._gradients = gradients
        self._warn = warn
        self._period: int | None = None
        self._bad_step: int | None = None
        self._known: dict[int, Layers] = {}
        self._refused: dict[int, weakref.ref[Any]] = {}
        self._change_in_place = False
        self._changes = False  # whether a model did, and is to be looked at in the call
        self.is_urgent = False
        """Whether the worker is to come soon for the last sample: it holds gradients, which are
        large and may be zeroed in place, or many wait."""

    def logged(self, step: int, model: Any, optimizer: Any, scaler: Any) -> bool:
        """Take a sample with a logged step, if one is due; return whether it was.

        Blocks on nothing on an accelerator.
        """
        period = step // self._every
        if period == self._period:
            return False
        self._period = period
        return self._take(step, model, optimizer, scaler, about_bad=False)

    def bad(self, step: int, model: Any, optimizer: Any, scaler: Any) -> bool:
        """Look at all layers now: the loss of this step is known to be NaN or infinite.

        Once in fifty steps at most; returns whether it does.
        """
        last, self._bad_step = self._bad_step, step
        if last is not None and abs(step - last) <= _CALM_STEPS:
            return False
        return self._take(step, model, optimizer, scaler, about_bad=True)

    def was_stale(self) -> None:
        """Note that gradients changed before the worker had read them."""
        self._change_in_place = True
        self._warn(
            "layers_stale",
            "layers/grad_norm: gradients change in place before the worker reads them; their norms "
            "are now launched in the call",
        )

    def has_changed(self) -> None:
        """Note that a sample is left out: the model changed before it, or before it was read."""
        self._changes = True
        self._period = None  # the next logged step has one instead
        self._warn(
            "layers_changed",
            "layers/: the model's modules were others when the worker compared them; the sample "
            "is left out, and the next logged step has one instead",
        )

    def close(self) -> None:
        """Let go of models."""
        self._known.clear()

    def _take(self, step: int, model: Any, optimizer: Any, scaler: Any, *, about_bad: bool) -> bool:
        at_s = perf_counter()
        is_proven = about_bad or self._changes
        layers = self._layers_of(model, optimizer, is_proven=is_proven)
        if layers is None:
            return False
        if len(self.samples) >= _MOST_WAITING:
            self._warn("layers_late", "layers/: samples are left out: the worker is late")
            return False
        if layers.on_cuda and torch.cuda.is_current_stream_capturing():
            return False
        try:
            with torch.no_grad():
                found = self._gradients_of(layers, optimizer, scaler, inline=about_bad)
                parameters = layers.parameter_norms(all_of_them=about_bad)
        except ValueRefusedError as error:
            self._warn("layers", f"layers/ norms are not computed: {str(error).split(';')[0]}")
            return False
        devices: frozenset[torch.device] = frozenset()
        if not layers.on_cpu:
            scale = [] if found.scale is None else [found.scale]
            kept = [*found.norms.tensors, *parameters.tensors, *scale]
            devices = frozenset([tensor.device for tensor in kept if not tensor.is_cpu])
        events = mark_streams(devices)
        self.samples.append(
            LayerSample(
                *(step, at_s, layers, about_bad, is_proven, found, parameters, devices, events)
            )
        )
        self.is_urgent = found.versions is not None or len(self.samples) >= _MANY_WAITING
        return True

    def _gradients_of(
        self, layers: Layers, optimizer: Any, scaler: Any, *, inline: bool
    ) -> GradientsOf:
        try:
            scale = self._gradients.scale_of(scaler, optimizer, layers.listed)
        except ScaleUnknownError as error:
            why = str(error).replace("train/grad_norm is", "layers/grad_norm/ are")
            self._warn("layers_scale", why)
            return GradientsOf(Norms([], [], None), None, None)
        gradients: list[Any] = list(map(_gradient_of, layers.parameters))
        made_anew = _are_made_anew(layers, gradients[layers.smallest])
        inline = (
            inline
            or (layers.on_cpu and layers.size_bytes <= self._cpu_inline_bytes)
            or scale is not None
            or self._change_in_place
            or not made_anew
            or layers.size_bytes + self._held_bytes() > self._hold_limit_bytes
        )
        places, plan = layers.all
        if any(map(is_, gradients, repeat(None))):
            places = [place for place, gradient in enumerate(gradients) if gradient is not None]
            gradients = [gradients[place] for place in places]
            plan = layers.plan_for(places)
        if layers.has_dtensors:
            gradients = list(map(whole, gradients))
        if inline:
            norms = launch_norms(places, gradients, plan, alike=layers.alike)
            return GradientsOf(norms, None, None if scale is None else scale.clone())
        return GradientsOf(Norms(places, gradients, plan), versions_of(gradients), None)

    def _held_bytes(self) -> int:
        """Return what the worker holds, or will, of samples that it has not read yet."""
        waiting = [each for each in list(self.samples) if each.gradients.versions is not None]
        return sum([each.layers.size_bytes for each in waiting])

    def _layers_of(self, model: Any, optimizer: Any, *, is_proven: bool) -> Layers | None:
        """Return the layers of a model; None where they have no norms.

        Args:
            model: the model.
            optimizer: of which DeepSpeed may be known.
            is_proven: compare now whether they are those listed. None of that is in the cache, so
                that it takes much of a large model's sample; and the worker can do it, too.
        """
        key = id(model)
        known = self._known.get(key)
        if (
            known is not None
            and known.lists(model)
            and (not is_proven or known.listed.is_unchanged())
        ):
            return known
        if key in self._refused:
            return None
        if why := self._why_not(model, optimizer):
            self._warn("layers", f"layers/ norms are not computed: {why}")
            with contextlib.suppress(TypeError):  # it may be anything
                self._refused[key] = weakref.ref(model, lambda _: self._refused.pop(key, None))
            return None
        known = self._known[key] = Layers(model, lambda _: self._known.pop(key, None))
        return known

    def _why_not(self, model: Any, optimizer: Any) -> str | None:
        if hasattr(type(model), "get_global_grad_norm") or hasattr(optimizer, "_global_grad_norm"):
            return "DeepSpeed keeps the gradients to itself"
        if not isinstance(model, torch.nn.Module):
            return f"model must be a torch.nn.Module, not {type(model).__name__}"
        parameters = list(model.parameters())
        why = why_local_norm_is_wrong(model, parameters)
        if why is not None:  # what that advises is another norm
            return f"{why.split(';', 1)[0]}; leave Options.layer_norms_every out"
        return None if with_norms(parameters) else "the model has no parameters that can be normed"


def _are_made_anew(layers: Layers, gradient: torch.Tensor | None) -> bool:
    """Return whether gradients are others at each step, as far as one of them tells.

    Those of a CUDA graph are not, and no version tells that it writes to them. It is captured
    behind some steps that made new ones, so one proves nothing; and a second graph has others.
    """
    last, layers.kept = layers.kept, gradient
    if last is not None and layers.made_anew is not None:
        layers.made_anew = None if last is gradient else layers.made_anew + 1
    return layers.made_anew is not None and layers.made_anew >= _PROVEN
