"""A model's parameters as they are now, not as they once were.

Layers are unfrozen, replaced and added while a model trains. Walking it anew at every logged step
costs several times what reading its gradients does; so the walk is kept, together with every
dictionary that it went through, and a pass through those, all of it in C, proves that another walk
would find the same. Frozen parameters belong to it: what counts is whether a gradient is there.
"""

from __future__ import annotations

import weakref
from itertools import chain
from operator import is_, methodcaller
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

_values = methodcaller("values")  # torch.jit's modules keep them in what is no dict
_END = (object(),)  # so that a pass that ends too early or too late is seen


class ParameterList:
    """List one model's parameters, each once, and tell whether that is still so.

    Threads: caller.
    """

    __slots__ = ("_empty", "_entries", "_filled", "_ids", "_provable", "model", "parameters")

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
        kept = [each for m in model.modules() for each in (m._parameters, m._modules)]
        self._empty = [each for each in kept if not each]
        self._filled = [each for each in kept if each]
        self._entries = [*self._walk()]
        known = frozenset(map(id, self._entries))
        self._provable = known.issuperset(map(id, self.parameters))  # else it lists its own way
        self._ids: frozenset[int] | None = None

    @property
    def ids(self) -> frozenset[int]:
        """The `id` of each parameter."""
        if self._ids is None:
            self._ids = frozenset(map(id, self.parameters))
        return self._ids

    def is_still(self, model: object) -> bool:
        """Return whether it lists `model`, and what that has now."""
        return (
            self.model() is model
            and self._provable
            and not any(self._empty)
            and all(map(is_, self._walk(), self._entries))
        )

    def _walk(self) -> chain[object]:
        return chain(chain.from_iterable(map(_values, self._filled)), _END)
