"""The L2 norms of many tensors, most of them small, by few operations on the CPU.

There `torch._foreach_norm` goes from tensor to tensor, with an operation for each, however small.
To copy small ones of a shape side by side, and to take the norms of all together, is two operations
in all; of large ones the copy would cost more than it saves.
"""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, Any

import torch

from fasttrack.hotpath.norms import HALVES, each_norm

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    _Pick = Callable[[list[torch.Tensor]], list[torch.Tensor] | tuple[torch.Tensor, ...]]

_MOST_ELEMENTS = 2048  # of a tensor that is copied
_MOST_COPIED_BYTES = 96 * 2**10  # at once: they stay in the cache, and malloc asks no system
_FEWEST = 8  # of a shape, for which two operations pay


class NormPlan:
    """How the norms of tensors of known shapes are computed.

    Threads: any; nothing changes after construction.
    """

    __slots__ = ("_alike", "_alone", "_in_order")

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        """Plan for tensors on the CPU that are as `tensors` in shape and, as a rule, in dtype."""
        shapes: dict[object, list[int]] = {}
        for number, tensor in enumerate(tensors):
            small = 0 < tensor.numel() <= _MOST_ELEMENTS
            key = (tensor.dtype, tensor.shape) if small else None
            shapes.setdefault(key, []).append(number)
        self._alone = shapes.pop(None, [])
        self._alike: list[_Pick] = []
        order: list[int] = []
        for numbers in shapes.values():
            if len(numbers) < _FEWEST:
                self._alone += numbers
                continue
            first = tensors[numbers[0]]
            most = _MOST_COPIED_BYTES // first.nbytes
            for start in range(0, len(numbers), most):
                self._alike.append(_picker(numbers[start : start + most]))
            order += numbers
        order += self._alone
        back = sorted(range(len(order)), key=order.__getitem__)
        self._in_order = None if back == [*range(len(back))] else itemgetter(*back)

    def launch(self, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        """Return vectors of norms, in an order of the plan's own. To be called without autograd.

        Half precision is accumulated in float32.

        Raises:
            RuntimeError: something is not as planned: sparse, or elsewhere.
        """
        found = []
        for pick in self._alike:
            some = torch.stack(pick(tensors))
            # As they are now: `model.bfloat16()` leaves a model its parameters.
            dtype = torch.float32 if some.dtype in HALVES else None
            rows = some.view(some.shape[0], -1)
            found.append(torch.linalg.vector_norm(rows, dim=1, dtype=dtype))
        if self._alone:
            alone = [tensors[number] for number in self._alone]
            alike = len({tensor.dtype for tensor in alone}) == 1
            found.append(torch.stack(each_norm(alone, alike=alike)))
        return found

    def in_order(self, numbers: list[float]) -> Sequence[float]:
        """Return what was launched, put together and read, in the order of the tensors."""
        return numbers if self._in_order is None else self._in_order(numbers)


def _picker(numbers: list[int]) -> Any:
    """Return what takes so many from a list; there are at least two, or they follow one another."""
    first, last = numbers[0], numbers[-1]
    if last - first == len(numbers) - 1:
        return itemgetter(slice(first, last + 1))
    return itemgetter(*numbers)
