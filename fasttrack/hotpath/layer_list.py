"""The layers of a model: modules that have parameters of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from fasttrack.handler_errors import is_handlers
from fasttrack.hotpath.norm_plan import NormPlan
from fasttrack.hotpath.norms import each_norm, is_distributed, size_bytes, whole
from fasttrack.hotpath.parameters import ParameterList

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

_MOST_AT_ONCE = 64  # parameters whose norms are launched in one call
_MOST_BYTES_AT_ONCE = 4 * 2**20  # of them on the CPU, which computes in the call
_NORMED = frozenset(
    (torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.complex64, torch.complex128)
)
_tensor: Any = torch.Tensor  # whose attributes are descriptors in C
_index_of = _tensor.get_device


class Norms(NamedTuple):
    """What the norms of some parameters, or of their gradients, are to be read from."""

    places: Sequence[int]
    """Of which parameters, by their number."""
    tensors: list[torch.Tensor]
    """Scalars in the order of `places`, or what `plan` has launched."""
    plan: NormPlan | None


def launch_norms(
    places: Sequence[int], tensors: list[torch.Tensor], plan: NormPlan | None, *, alike: bool
) -> Norms:
    """Launch the norm of each of `tensors`, without waiting for an accelerator.

    To be called without autograd.

    Args:
        places: what they are of.
        tensors: no DTensors.
        plan: how, if that is known.
        alike: as in `each_norm`.
    """
    if plan is not None:
        try:
            return Norms(places, plan.launch(tensors), plan)
        except RuntimeError as error:  # one is sparse
            if is_handlers(error):
                raise
    return Norms(places, each_norm(tensors, alike=alike), None)


def with_norms(parameters: Iterable[torch.Tensor | None]) -> list[torch.Tensor]:
    """Return those that torch can norm: quantized ones are bytes, and have no gradients."""
    return [each for each in parameters if each is not None and each.dtype in _NORMED]


class _Turn(NamedTuple):
    """Parameters whose norms are launched together."""

    places: Sequence[int]
    plan: NormPlan | None


class Layers:
    """The layers of a model as it is now, in the order of its parameters."""

    __slots__ = (
        *("_last_places", "_some", "all", "alike", "grad_names", "has_dtensors", "indices", "kept"),
        *("listed", "made_anew", "may_move", "names", "next_turn", "of_parameter", "on_cpu"),
        *("on_cuda", "one_each", "param_names", "parameters", "size_bytes", "smallest", "turns"),
    )

    def __init__(self, model: torch.nn.Module, gone: Callable[[Any], object]) -> None:
        """Walk through `model`; `gone` is called when it is no more."""
        self.listed = ParameterList(model, gone)
        parameters = self.parameters = with_norms(self.listed.parameters)
        """Those that are looked at; each has a number."""
        self.names: list[str] = []
        layer_of: dict[int, int] = {}
        for name, module in model.named_modules():
            own = with_norms(module._parameters.values())
            if new := [p for p in own if id(p) not in layer_of]:
                layer_of.update(dict.fromkeys(map(id, new), len(self.names)))
                self.names.append(_plain(name))
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
        self.all = self._turn(range(len(parameters)))
        self.turns = [self._turn(places) for places in self._in_turns(sizes)]
        self.next_turn = 0
        self._last_places: list[int] = []
        self._some: _Turn | None = None

    def lists(self, model: object) -> bool:
        """Return whether this is of `model`, and where that has it.

        Whether it has all that still is for `listed.is_unchanged` to tell.
        """
        if self.may_move and {*map(_index_of, self.parameters)} != self.indices:
            return False
        return self.listed.lists(model)

    def parameter_norms(self, *, all_of_them: bool) -> Norms:
        """Launch norms of parameters.

        Args:
            all_of_them: not only those whose turn it is.

        Raises:
            ValueRefusedError: one is a DTensor's part.
        """
        places, plan = self.all
        tensors = self.parameters
        if not all_of_them:
            places, plan = self.turns[self.next_turn]
            self.next_turn = (self.next_turn + 1) % len(self.turns)
            tensors = [tensors[place] for place in places]
        if self.has_dtensors:
            tensors = list(map(whole, tensors))
        return launch_norms(places, tensors, plan, alike=self.alike)

    def plan_for(self, places: list[int]) -> NormPlan | None:
        """Return how the norms of these are computed; None if they are no habit yet.

        Args:
            places: some of the parameters: others are frozen, or had no part in the step.
        """
        if self._last_places != places:
            self._last_places, self._some = places, None
            return None
        if self._some is None:
            self._some = self._turn(places)
        return self._some.plan

    def _turn(self, places: Sequence[int]) -> _Turn:
        """Return how the norms of some are computed; on an accelerator that needs no plan."""
        if not self.on_cpu or self.has_dtensors:
            return _Turn(places, None)
        return _Turn(places, NormPlan([self.parameters[place] for place in places]))

    def _in_turns(self, sizes: list[int]) -> list[list[int]]:
        """Return in which order norms of parameters are computed, some at a time.

        Layers stay whole, as their norms are.
        """
        turns: list[list[int]] = [[]]
        held_bytes = 0
        for own in _by_layer(self.of_parameter.tolist()):
            own_bytes = sum([sizes[place] for place in own])
            held_bytes += own_bytes
            full = len(turns[-1]) + len(own) > _MOST_AT_ONCE
            if turns[-1] and (full or (self.on_cpu and held_bytes > _MOST_BYTES_AT_ONCE)):
                turns.append([])
                held_bytes = own_bytes
            turns[-1] += own
        return turns


def _by_layer(layer_of: list[int]) -> list[list[int]]:
    """Return the parameters of each layer, by their number."""
    found: dict[int, list[int]] = {}
    for place, layer in enumerate(layer_of):
        found.setdefault(layer, []).append(place)
    return [found[layer] for layer in sorted(found)]


def _plain(name: str) -> str:
    """Return a module's name without what DDP and torch.compile put into it."""
    name = name.replace("_orig_mod.", "").removesuffix("_orig_mod")
    return name.removeprefix("module.") or "model"
