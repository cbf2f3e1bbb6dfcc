"""The values of one call as one tensor, so that one collective does, whatever each rank passes.

All ranks' must be alike in length, dtype and device, though one may pass a float, another a tensor
of half precision, and a third nothing. Its slots: a stamp of the call and its negative, by which
ranks see that they made the same call; the values; how many ranks have each; zeros, so that calls
of some values more or less are equally long, and their stamps compared.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from fasttrack.collective.members import wide_on

if TYPE_CHECKING:
    from collections.abc import Sequence

OPS = ("mean", "sum", "max", "min", "norm")
_SUMMED = ("mean", "sum", "norm")
_SLOTS = 32  # lengths are multiples of it
_STAMPS = 4093  # and ranks: their product must be exact in 32 bits for 4,000 of them
_BEGIN = 2  # of the values


def stamp_of(text: str) -> int:
    """Return a number of what a call is about; two calls seldom have the same."""
    return zlib.crc32(text.encode()) % _STAMPS + 1


def reduction_of(op: str) -> Any:
    """Return what torch.distributed has to do with a packet."""
    return dist.ReduceOp.SUM if op in _SUMMED else dist.ReduceOp.MAX


def pack(
    values: Sequence[torch.Tensor | float | None], op: str, stamp: int, device: torch.device
) -> torch.Tensor:
    """Return what this rank brings along. Does not wait for an accelerator, if it lies on one.

    Args:
        values: one number each; None where this rank has none.
        op: one of `OPS`.
        stamp: of the call.
        device: that of all ranks' packets.
    """
    number = len(values)
    nothing = 0.0 if op in _SUMMED else -torch.inf
    on_host = [0.0] * (-(-(_BEGIN + 2 * number) // _SLOTS) * _SLOTS)
    on_host[:_BEGIN] = float(stamp), -float(stamp)
    there: list[tuple[int, torch.Tensor]] = []
    for i, value in enumerate(values, start=_BEGIN):
        on_host[i] = nothing
        if value is None:
            continue
        on_host[i + number] = 1.0
        if isinstance(value, torch.Tensor) and not value.is_cpu and device.type != "cpu":
            there.append((i, value))
        else:
            on_host[i] = _as_summand(float(value), op)
    packet = torch.tensor(on_host, dtype=wide_on(device)).to(device, non_blocking=True)
    for i, tensor in there:
        packet[i].copy_(_as_summand(tensor.detach().to(packet.dtype).reshape(()), op))
    return packet


def unpack(
    packet: torch.Tensor, number: int, op: str, stamp: int, ranks: int
) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
    """Return the results of a packet that was reduced, and whether all ranks made the same call.

    Both on the packet's device, and no wait for it. Where the calls differ, and where no rank has a
    value, the result is NaN.

    Args:
        packet: is not changed.
        number: of values.
        op: as it was packed.
        stamp: of this rank's call.
        ranks: that took part.
    """
    values = packet[_BEGIN : _BEGIN + number]
    having = packet[_BEGIN + number : _BEGIN + 2 * number]
    total = float(stamp * ranks if op in _SUMMED else stamp)
    alike = (packet[0] == total) & (packet[1] == -total)
    if op == "mean":
        values = values / having
    elif op == "norm":
        values = values.sqrt()
    elif op == "min":
        values = -values
    results = torch.where(alike & (having > 0), values, torch.nan)
    return results.unbind(), alike


def _as_summand(value: Any, op: str) -> Any:
    """Return what is added, or of which the largest is taken."""
    if op == "norm":
        return value * value
    return -value if op == "min" else value
