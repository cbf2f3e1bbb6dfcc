"""What the worker needs for the norms of each layer, from time to time: `layers/grad_norm/<name>`.

A layer is a module that has parameters of its own; its norm is that over all of them. Gradients go
to the worker as references, with their versions, as for `train/grad_norm`: whatever trains next
makes new ones, as a rule. Parameters change in place in the very next `optimizer.step()`, so their
norms are launched here, asynchronously on an accelerator, and of few at a time: by turns of at most
64 tensors, so that a sample costs the same however large the model is.
"""

from __future__ import annotations

import contextlib
import weakref
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from fasttrack.errors import ValueRefusedError
from fasttrack.hotpath.capture import mark_streams
from fasttrack.hotpath.loss_scale import ScaleUnknownError
from fasttrack.hotpath.norms import (
    each_norm,
    is_distributed,
    size_bytes,
    whole,
    why_local_norm_is_wrong,
)
from fasttrack.hotpath.parameters import ParameterList

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from fasttrack.hotpath.gradients import GradientSource

_MOST_AT_ONCE = 64  # parameters whose norms are launched in one call
_MOST_BYTES_AT_ONCE = 4 * 2**20  # of them on the CPU, which computes in the call
_MOST_WAITING = 64  # samples; of few of them gradients are held
_CALM_STEPS = 50
_PROVEN = 2  # samples with new gradients, after which they are taken to be made anew
_tensor: Any = torch.Tensor  # whose attributes are descriptors in C
_gradient_of = _tensor.grad.__get__
_index_of = _tensor.get_device
_version_of = _tensor._version.__get__


def versions_of(tensors: Iterable[torch.Tensor]) -> int:
    """Return the sum of how often each was written to: it grows with every one of them."""
    return sum(map(_version_of, tensors))


class Layers:
    """The layers of a model as it is now, in the order of its parameters."""

    __slots__ = (
        *("alike", "grad_names", "has_dtensors", "indices", "kept", "listed", "made_anew"),
        *("may_move", "names"),
        *("next_turn", "of_parameter", "on_cpu", "on_cuda", "one_each", "param_names", "places"),
        *("size_bytes", "smallest", "turns"),
    )

    def __init__(self, model: torch.nn.Module, gone: Callable[[Any], object]) -> None:
        """Walk through `model`; `gone` is called when it is no more."""
        self.listed = ParameterList(model, gone)
        self.names: list[str] = []
        layer_of: dict[int, int] = {}
        for name, module in model.named_modules():
            own = [p for p in module._parameters.values() if p is not None]
            if new := [p for p in own if id(p) not in layer_of]:
                layer_of.update(dict.fromkeys(map(id, new), len(self.names)))
                self.names.append(_plain(name))
        parameters = self.listed.parameters
        self.of_parameter = np.array(
            [layer_of.get(id(p), len(self.names)) for p in parameters], dtype=np.intp
        )
        """Of each parameter the number of its layer."""
        if len(self.names) in self.of_parameter:  # of a model that lists its parameters in its way
            self.names.append("others")
        self.one_each = self.of_parameter.tolist() == list(range(len(self.names)))
        """Whether each layer has one parameter."""
        self.grad_names = [f"layers/grad_norm/{name}" for name in self.names]
        self.param_names = [f"layers/param_norm/{name}" for name in self.names]
        self.places = range(len(parameters))
        """All parameters, by their number."""
        self.alike = len({(p.device, p.dtype) for p in parameters}) == 1
        self.has_dtensors = any(map(is_distributed, parameters))
        sizes = list(map(size_bytes, parameters))
        self.size_bytes = sum(sizes)
        """Of all gradients, as a rule."""
        self.smallest = sizes.index(min(sizes))
        self.kept: torch.Tensor | None = None
        """The gradient of the smallest parameter at the last sample."""
        self.made_anew: int | None = 0
        """At how many samples it was another than at the one before; None: once it was not."""
        self.may_move = torch.accelerator.current_accelerator() is not None
        self.indices = {*map(_index_of, parameters)}
        self.on_cpu = all(p.is_cpu for p in parameters)
        self.on_cuda = any(p.is_cuda for p in parameters)
        self.turns = _in_turns(parameters, on_cpu=self.on_cpu)
        self.next_turn = 0

    def is_still(self, model: object) -> bool:
        """Return whether this is what `model` has now, and where it has it."""
        if self.may_move and {*map(_index_of, self.listed.parameters)} != self.indices:
            return False
        return self.listed.is_still(model)

    def parameter_norms(self, *, all_of_them: bool) -> tuple[range, list[torch.Tensor]]:
        """Launch norms of parameters; return of which, and these.

        Args:
            all_of_them: not only those whose turn it is.

        Raises:
            ValueRefusedError: one is a DTensor's part.
        """
        parameters = self.listed.parameters
        turn = range(len(parameters))
        if not all_of_them:
            turn = self.turns[self.next_turn]
            self.next_turn = (self.next_turn + 1) % len(self.turns)
        of_turn = parameters[turn.start : turn.stop]
        if self.has_dtensors:
            of_turn = list(map(whole, of_turn))
        return turn, each_norm(of_turn, alike=self.alike)


class GradientsOf(NamedTuple):
    """A model's gradients at one step, or their norms."""

    places: Sequence[int]
    """Of which parameters there are some, by their number."""
    tensors: list[torch.Tensor]
    versions: int | None
    """The sum of those that they had, which only grow; None: they are norms already."""
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
    gradients: GradientsOf
    turn: range
    """Of which parameters there are norms."""
    norms: list[torch.Tensor]
    devices: frozenset[torch.device]
    events: tuple[torch.Event, ...]


class LayerSource:
    """Take samples of a model's layers.

    Threads: caller; `was_stale` and `samples` are the worker's, too.
    """

    def __init__(
        self,
        every: int,
        hold_limit_bytes: int,
        gradients: GradientSource,
        warn: Callable[[str, str], None],
    ) -> None:
        """Take one every so many steps, with the first that is logged.

        Args:
            every: in steps.
            hold_limit_bytes: of gradients that the worker is let hold; of more the norms are
                launched here.
            gradients: knows whether they are scaled.
            warn: called with (key, text) for what the user should hear once.
        """
        self.samples: list[LayerSample] = []
        """What waits for the worker, which takes from the beginning."""
        self._every = every
        self._hold_limit_bytes = hold_limit_bytes
        self._gradients = gradients
        self._warn = warn
        self._period: int | None = None
        self._bad_step: int | None = None
        self._known: dict[int, Layers] = {}
        self._refused: dict[int, weakref.ref[Any]] = {}
        self._change_in_place = False

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

    def close(self) -> None:
        """Let go of models."""
        self._known.clear()

    def _take(self, step: int, model: Any, optimizer: Any, scaler: Any, *, about_bad: bool) -> bool:
        at_s = perf_counter()
        layers = self._layers_of(model, optimizer)
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
                turn, norms = layers.parameter_norms(all_of_them=about_bad)
        except ValueRefusedError as error:
            self._warn("layers", f"layers/ norms are not computed: {str(error).split(';')[0]}")
            return False
        devices: frozenset[torch.device] = frozenset()
        if not layers.on_cpu:
            kept = [*found.tensors, *norms, *([] if found.scale is None else [found.scale])]
            devices = frozenset([tensor.device for tensor in kept if not tensor.is_cpu])
        events = mark_streams(devices)
        self.samples.append(
            LayerSample(step, at_s, layers, about_bad, found, turn, norms, devices, events)
        )
        return True

    def _gradients_of(
        self, layers: Layers, optimizer: Any, scaler: Any, *, inline: bool
    ) -> GradientsOf:
        parameters = layers.listed.parameters
        try:
            scale = self._gradients.scale_of(scaler, optimizer, layers.listed)
        except ScaleUnknownError as error:
            why = str(error).replace("train/grad_norm is", "layers/grad_norm/ are")
            self._warn("layers_scale", why)
            return GradientsOf([], [], None, None)
        gradients: list[Any] = list(map(_gradient_of, parameters))
        inline = (
            inline
            or scale is not None
            or self._change_in_place
            or not _are_made_anew(layers, gradients[layers.smallest])
            or layers.size_bytes + self._held_bytes() > self._hold_limit_bytes
        )
        if not inline and not layers.has_dtensors:
            with contextlib.suppress(TypeError):  # some parameters have none
                return GradientsOf(layers.places, gradients, versions_of(gradients), None)
        places = [place for place, gradient in enumerate(gradients) if gradient is not None]
        gradients = [gradients[place] for place in places]
        if layers.has_dtensors:
            gradients = list(map(whole, gradients))
        if inline:
            norms = each_norm(gradients, alike=layers.alike)
            return GradientsOf(places, norms, None, None if scale is None else scale.clone())
        return GradientsOf(places, gradients, versions_of(gradients), None)

    def _held_bytes(self) -> int:
        """Return what the worker holds, or will, of samples that it has not read yet."""
        waiting = [each for each in list(self.samples) if each.gradients.versions is not None]
        return sum([each.layers.size_bytes for each in waiting])

    def _layers_of(self, model: Any, optimizer: Any) -> Layers | None:
        key = id(model)
        known = self._known.get(key)
        if known is not None and known.is_still(model):
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
        return None if parameters else "the model has no parameters"


def _are_made_anew(layers: Layers, gradient: torch.Tensor | None) -> bool:
    """Return whether gradients are others at each step, as far as one of them tells.

    Those of a CUDA graph are not, and no version tells that it writes to them. It is captured
    behind some steps that made new ones, so one proves nothing; and a second graph has others.
    """
    last, layers.kept = layers.kept, gradient
    if last is not None and layers.made_anew is not None:
        layers.made_anew = None if last is gradient else layers.made_anew + 1
    return layers.made_anew is not None and layers.made_anew >= _PROVEN


def _in_turns(parameters: list[torch.Tensor], *, on_cpu: bool) -> list[range]:
    """Return in which order norms of parameters are computed, some at a time."""
    turns, first, held_bytes = [], 0, 0
    for place, parameter in enumerate(parameters):
        held_bytes += parameter.nbytes
        full = place - first >= _MOST_AT_ONCE or (on_cpu and held_bytes > _MOST_BYTES_AT_ONCE)
        if full and place > first:
            turns.append(range(first, place))
            first, held_bytes = place, parameter.nbytes
    return [*turns, range(first, len(parameters))]


def _plain(name: str) -> str:
    """Return a module's name without what DDP and torch.compile put into it."""
    name = name.replace("_orig_mod.", "").removesuffix("_orig_mod")
    return name.removeprefix("module.") or "model"
