"""A model's parameters as they are now, not as they once were.

Layers are unfrozen, replaced and added while a model trains. Walking it anew at every logged step
costs several times what reading its gradients does; so the walk is kept, with a copy of every
dictionary that it went through, and comparing those in C proves that another walk would find the
same. Frozen parameters belong to it: what counts is whether a gradient is there.
"""

from __future__ import annotations

import weakref
from itertools import chain
from operator import is_, methodcaller
from typing import TYPE_CHECKING, Any

import torch

from fasttrack.handler_errors import is_handlers

if TYPE_CHECKING:
    from collections.abc import Callable

_values = methodcaller("values")
_END = (object(),)  # so that a pass that ends too early or too late is seen


class ParameterList:
    """List one model's parameters, each once, and tell whether that is still so.

    Threads: caller, but for `is_unchanged`.
    """

    __slots__ = (
        *("_copies", "_empty", "_entries", "_ids", "_kept", "_odd", "_provable", "model"),
        "parameters",
    )

    def __init__(
        self, model: torch.nn.Module, gone: Callable[[weakref.ref[torch.nn.Module]], object]
    ) -> None:
        """Walk through `model`.

        Args:
            model: is not kept alive, though its parts are until `gone` lets go of this list.
            gone: called when the model is no more.
        """
        self.model = weakref.ref(model, gone)
        self.parameters: list[torch.Tensor] = list(model.parameters())
        walked = [each for m in model.modules() for each in (m._parameters, m._modules)]
        known = frozenset(map(id, chain.from_iterable(map(_values, walked))))
        self._provable = known.issuperset(map(id, self.parameters))  # else it lists its own way
        compared = [each for each in walked if _is_compared_by_identity(each)]
        self._empty = [each for each in compared if not each]  # as half of them: of leaves
        self._kept = [each for each in compared if each]
        self._copies = [dict(each) for each in self._kept]
        self._odd = [each for each in walked if not _is_compared_by_identity(each)]
        self._entries = [*self._walk()]
        self._ids: frozenset[int] | None = None

    @property
    def ids(self) -> frozenset[int]:
        """The `id` of each parameter."""
        if self._ids is None:
            self._ids = frozenset(map(id, self.parameters))
        return self._ids

    def is_still(self, model: object) -> bool:
        """Return whether it lists `model`, and what that has now."""
        return self.lists(model) and self.is_unchanged()

    def lists(self, model: object) -> bool:
        """Return whether it lists `model`, as that once was, and `is_unchanged` tells the rest."""
        return self.model() is model and self._provable

    def is_unchanged(self) -> bool:
        """Return whether the model has now what is listed, or had when it was last there.

        Threads: any.
        """
        try:
            if any(self._empty) or self._copies != self._kept:
                return False
        except Exception as error:  # two tensors were compared, so one is new
            if is_handlers(error):
                raise
            return False
        return not self._odd or all(map(is_, self._walk(), self._entries))

    def _walk(self) -> chain[object]:
        return chain(chain.from_iterable(map(_values, self._odd)), _END)


def _is_compared_by_identity(kept: Any) -> bool:
    """Return whether `==` finds every change in `kept`, and looks at no tensor's values.

    It takes what is the same object for equal. Others are unequal where they are modules without an
    `==` of their own; of tensors it makes another, whose truth is an error but for one element.
    torch.jit's modules keep all in what is no dict.
    """
    return isinstance(kept, dict) and all(
        each is None
        or (isinstance(each, torch.nn.Module) and type(each).__eq__ is object.__eq__)
        or (type(each) in _TENSORS and each.numel() != 1)
        for each in kept.values()
    )


_TENSORS = (torch.nn.Parameter, torch.Tensor)
