"""The gradient norm of a model whose gradients lie in parts on several ranks.

Each rank squares the norm of what it holds, apart for the process groups over which that is split:
what a mesh's dimension shards is summed over it, what it replicates is counted once. So one
parameter may be sharded over two dimensions, another over one of them, a third be an ordinary
tensor, alike on all ranks; torch's `clip_grad_norm_` takes one mesh and one kind only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from fasttrack.collective.members import Members, wide_on
from fasttrack.hotpath.norms import fused_norm, is_distributed

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class SplitGradients:
    """What of a model's gradients this rank holds, by the groups over which it is split."""

    def __init__(self, parameters: Iterable[torch.Tensor]) -> None:
        """Sort them. Where a gradient is a share of a sum, its mesh sums it: a collective."""
        self.groups: dict[str, Any] = {}
        """Every process group over which something is split, by its name."""
        self._names: dict[tuple[Any, Any], tuple[str, ...]] = {}  # by mesh and placements
        self._device = torch.device("cpu")
        self._held: dict[tuple[str, ...], list[torch.Tensor]] = {}
        with torch.no_grad():
            for parameter in parameters:
                self._add(parameter)

    def _add(self, parameter: torch.Tensor) -> None:
        # One without a gradient counts, too: another rank may have one, and all must sum alike.
        like = parameter if parameter.grad is None else parameter.grad
        local = like
        names: tuple[str, ...] = ()
        if is_distributed(like):
            if like.device_mesh.get_coordinate() is None:  # type: ignore[attr-defined]
                return
            if parameter.grad is not None:
                like = _summed(like)
            local = like.to_local()  # type: ignore[attr-defined]
            names = self._split_over(like)
        if not self._held:
            self._device = local.device
        held = self._held.setdefault(names, [])
        if parameter.grad is not None:
            held.append(local)

    def _split_over(self, tensor: Any) -> tuple[str, ...]:
        mesh, placements = key = (tensor.device_mesh, tensor.placements)
        if key not in self._names:
            split = [i for i, placement in enumerate(placements) if not placement.is_replicate()]
            groups = [group for group in map(mesh.get_group, split) if group.size() > 1]
            self.groups.update({group.group_name: group for group in groups})
            self._names[key] = tuple([group.group_name for group in groups])
        return self._names[key]

    def norm(self, further: Members) -> torch.Tensor:
        """Return the norm over all ranks, the same on each. All of them must call it.

        Args:
            further: ranks that hold other parameters, such as the stages of a pipeline.
        """
        with torch.no_grad():
            squares = {names: self._square(held) for names, held in self._held.items()}
            for name, group in self.groups.items():
                split = [names for names in squares if name in names]
                summed = _all_summed([squares[names] for names in split], Members((group,)))
                squares.update(zip(split, summed, strict=True))
            total = sum(squares.values(), torch.zeros((), dtype=wide_on(self._device)))
            if further.groups:
                (total,) = _all_summed([total], further)
            return total.sqrt()

    def _square(self, held: list[torch.Tensor]) -> torch.Tensor:
        """Return the sum of squares of what lies here. Empty shards are nothing, and no error."""
        held = [tensor for tensor in held if tensor.numel()]
        if not held:
            return torch.zeros((), dtype=wide_on(self._device), device=self._device)
        norm = fused_norm(held)
        return norm.to(wide_on(norm.device)).square()


def _summed(gradient: Any) -> Any:
    """Return a gradient of which no rank holds a share of a sum only."""
    placements = gradient.placements
    if not any(placement.is_partial() for placement in placements):
        return gradient
    from torch.distributed.tensor import Replicate

    whole = [Replicate() if each.is_partial() else each for each in placements]
    return gradient.redistribute(placements=whole)


def _all_summed(squares: Sequence[torch.Tensor], members: Members) -> tuple[torch.Tensor, ...]:
    device = members.device()
    together = torch.stack(
        [square.to(device, wide_on(device), non_blocking=True) for square in squares]
    )
    members.all_reduce(together, dist.ReduceOp.SUM)
    return together.unbind()
