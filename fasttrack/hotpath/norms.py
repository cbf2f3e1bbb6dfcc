"""The L2 norm over many gradients: launched without waiting, or computed where that may wait."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import torch

from fasttrack.errors import ValueRefusedError
from fasttrack.handler_errors import is_handlers

if TYPE_CHECKING:
    from collections.abc import Iterable

HALVES = (torch.float16, torch.bfloat16)
_OF_ALL_RANKS = (
    "pass grad_norm=, what tracker.reduce_grad_norm(model) or clip_grad_norm_ returns, called on "
    "every rank"
)


def fused_norm(gradients: list[torch.Tensor], *, alike: bool = False) -> torch.Tensor:
    """Return the L2 norm over all `gradients` as a 0-dim tensor.

    One `torch._foreach_norm` per device and dtype, as `torch.nn.utils.get_total_norm` does; half
    precision is accumulated in float32, sparse gradients count their (coalesced) values. Waits for
    an accelerator only where gradients are sparse, or where some are on the CPU or on another.

    Args:
        gradients: at least one tensor; devices, dtypes and layouts may be mixed.
        alike: whether they probably share device and dtype and are dense. Asking each of them
            costs a small model more than its norm.
    """
    with torch.no_grad():
        if alike and (norm := _norm_if_alike(gradients)) is not None:
            return norm
        return _joined(_norms_by_kind([_summed(gradient) for gradient in gradients]))


def launch_norm(gradients: list[torch.Tensor], *, alike: bool = False) -> list[torch.Tensor]:
    """Return tensors that hold nothing of `gradients` and have their norm, without waiting.

    One 0-dim tensor where that can be; `fused_norm` of all of them is the norm. To be joined by
    somebody who may wait remain the norms of each device, and copies of sparse gradients on an
    accelerator: how many different entries such a one has is known on the device only, so that
    `coalesce()` waits for it.

    Args:
        gradients: as in `fused_norm`.
        alike: as in `fused_norm`.
    """
    with torch.no_grad():
        if alike and (norm := _norm_if_alike(gradients)) is not None:
            return [norm]
        now = [grad for grad in gradients if not _waits(grad)]
        parts = _norms_by_kind([_summed(grad) for grad in now]) if now else []
        if len({part.device for part in parts}) == 1:
            parts = [_joined(parts)]
        return parts + [grad.detach().clone() for grad in gradients if _waits(grad)]


def each_norm(tensors: list[torch.Tensor], *, alike: bool) -> list[torch.Tensor]:
    """Return the L2 norm of each of `tensors`, without waiting; of a sparse one of its entries.

    One `torch._foreach_norm` for each device and dtype; half precision is accumulated in float32.

    Args:
        tensors: of any devices and dtypes.
        alike: whether they probably share both and are dense.
    """
    if alike and tensors:
        try:
            return _norms(tensors, tensors[0].dtype)
        except RuntimeError as error:  # sparse, or of another device after all
            if is_handlers(error):
                raise
    kinds: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for place, tensor in enumerate(tensors):
        kinds.setdefault((tensor.device, tensor.dtype), []).append(place)
    found = list(tensors)
    for (_, dtype), places in kinds.items():
        kind = [tensors[place] for place in places]
        norms = _norms([t._values() if t.is_sparse else t for t in kind], dtype)
        for place, norm in zip(places, norms, strict=True):
            found[place] = norm
    return found


def why_local_norm_is_wrong(model: Any, parameters: Iterable[torch.Tensor]) -> str | None:
    """Return why the norm of one rank's gradients is not the model's, and the fix; else None."""
    # A collective on rank 0's worker would hang the job.
    parameters = list(parameters)
    if why := why_no_norm_is_known(model, parameters):
        return why
    if any(is_distributed(p) and not is_replicated(p) for p in parameters):
        return f"a parameter is a sharded DTensor; {_OF_ALL_RANKS}"
    return None


def why_no_norm_is_known(model: Any, parameters: Iterable[torch.Tensor]) -> str | None:
    """Return why even all ranks together cannot tell the norm of `model`, and the fix; else None.

    What shards it keeps to itself who holds what, and has a call of its own.
    """
    # The modules are looked up, not imported: a model can only be of a class that is loaded.
    fsdp = sys.modules.get("torch.distributed.fsdp")
    if fsdp is not None and any(
        isinstance(m, fsdp.FullyShardedDataParallel) for m in model.modules()
    ):
        return (
            "FSDP shards the gradients; pass grad_norm=, what the model's clip_grad_norm_ returns"
        )
    if any(hasattr(p, "ds_id") or hasattr(p, "_hp_mapping") for p in parameters):
        return (
            "DeepSpeed ZeRO partitions the gradients; pass the engine as model"  # stage 3, 1 or 2
        )
    return None


def is_distributed(tensor: torch.Tensor) -> bool:
    """Return whether it is a DTensor, of which this process may hold a part only."""
    # Of the type, which costs nothing; a Parameter that holds one is a DTensor by its class, too.
    return hasattr(type(tensor), "full_tensor")


def is_replicated(tensor: Any) -> bool:
    """Return whether a DTensor is whole on this rank: no part of it, no share of a sum."""
    return tensor.device_mesh.get_coordinate() is not None and all(
        placement.is_replicate() for placement in tensor.placements
    )


def whole(gradient: Any) -> torch.Tensor:
    """Return a gradient, of a replicated DTensor what this rank holds, which is all of it.

    Raises:
        ValueRefusedError: it is a DTensor's part.
    """
    if is_distributed(gradient):
        if not is_replicated(gradient):
            raise ValueRefusedError(
                f"a gradient is a DTensor of which this rank holds a part; {_OF_ALL_RANKS}"
            )
        with torch.no_grad():
            gradient = gradient.to_local()
    tensor: torch.Tensor = gradient
    return tensor


def size_bytes(gradient: torch.Tensor) -> int:
    """Return the memory that a gradient takes, in bytes."""
    if gradient.layout is torch.sparse_coo:
        return gradient._indices().nbytes + gradient._values().nbytes
    return gradient.nbytes


def _norm_if_alike(gradients: list[torch.Tensor]) -> torch.Tensor | None:
    try:
        return _norm_of(_norms(gradients, gradients[0].dtype))
    except RuntimeError as error:  # sparse, or of another device after all
        if is_handlers(error):
            raise
        return None


def _waits(gradient: torch.Tensor) -> bool:
    return gradient.is_sparse and not gradient.is_cpu and not gradient.is_coalesced()


def _summed(gradient: torch.Tensor) -> torch.Tensor:
    """Return what of a gradient counts: a sparse one may name an entry several times."""
    return gradient.coalesce().values() if gradient.is_sparse else gradient


def _norms_by_kind(gradients: list[torch.Tensor]) -> list[torch.Tensor]:
    """Return one norm for each device and dtype, those of accelerators first."""
    kinds: dict[tuple[torch.device, torch.dtype], list[torch.Tensor]] = {}
    for gradient in gradients:
        kinds.setdefault((gradient.device, gradient.dtype), []).append(gradient)
    ordered = sorted(kinds.items(), key=lambda kind: kind[0][0].type == "cpu")
    return [_norm_of(_norms(tensors, dtype)) for (_, dtype), tensors in ordered]


def _joined(norms: list[torch.Tensor]) -> torch.Tensor:
    if len(norms) == 1:
        return norms[0]
    doubled = any(norm.dtype == torch.float64 for norm in norms)
    widest = torch.float64 if doubled else torch.float32
    # They meet on the first device: a copy from the host to it needs no wait.
    device = norms[0].device
    return _norm_of([n.to(device=device, dtype=widest, non_blocking=True) for n in norms])


def _norms(gradients: list[torch.Tensor], dtype: torch.dtype) -> list[torch.Tensor]:
    wide = torch.float32 if dtype in HALVES else dtype
    return list(torch._foreach_norm(gradients, 2, dtype=wide))


def _norm_of(norms: list[torch.Tensor]) -> torch.Tensor:
    norm: torch.Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return norm
