"""Which ranks reduce together, and on which device."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed as dist

from fasttrack.errors import ValueRefusedError
from fasttrack.hotpath.advice import describe

_ON_THE_HOST = frozenset(("fake", "gloo", "mpi"))
"""Backends that copy an accelerator's tensor to the host, where they take it at all."""


class Members:
    """Ranks that reduce together: all that their groups reach, one group after another.

    Threads: that of the call.
    """

    __slots__ = ("_mesh", "groups", "names")

    def __init__(self, groups: tuple[Any, ...], mesh: Any = None) -> None:
        """Take process groups as they are.

        Args:
            groups: torch's process groups; none: this rank is alone.
            mesh: the device mesh whose dimensions they are, if they are several.
        """
        self.groups = groups
        self.names: tuple[str, ...] = tuple([group.group_name for group in groups])
        """Of the groups; the same on all of their ranks."""
        self._mesh = mesh

    @property
    def size(self) -> int:
        """How many ranks they are."""
        return math.prod(group.size() for group in self.groups)

    def ranks(self) -> list[int]:
        """Return their numbers in the job, in order. Takes time that grows with them."""
        if self._mesh is not None:
            return sorted(self._mesh.mesh.flatten().tolist())
        return sorted({rank for g in self.groups for rank in dist.get_process_group_ranks(g)})

    def device(self) -> torch.device:
        """Return where their tensors must lie: on the accelerator where the backend is one's."""
        for group in self.groups[:1]:
            for pair in dist.get_backend_config(group).split(","):
                kind, _, backend = pair.partition(":")
                if kind != "cpu" and backend not in _ON_THE_HOST:
                    return torch.device(kind, torch.accelerator.current_device_index())
        return torch.device("cpu")

    def all_reduce(self, tensor: torch.Tensor, op: Any) -> None:
        """Reduce in place. Blocks as the backend does: NCCL only enqueues, gloo waits for all."""
        for group in self.groups:
            if group.size() > 1:
                dist.all_reduce(tensor, op=op, group=group)


def members_of(group: Any) -> Members:
    """Return the members of a process group, of all dimensions of a device mesh, or all ranks.

    Args:
        group: None is all ranks, or this one where torch.distributed is not initialised.

    Raises:
        ValueRefusedError: it is none of these, or this rank is not one of its members.
    """
    if group is None:
        initialised = dist.is_available() and dist.is_initialized()
        return Members((dist.group.WORLD,) if initialised else ())
    if hasattr(type(group), "get_coordinate"):  # a DeviceMesh, which is not imported for this
        if group.get_coordinate() is None:
            raise ValueRefusedError("this rank is not in the device mesh")
        return Members(tuple([group.get_group(i) for i in range(group.ndim)]), group)
    if not dist.is_available() or not isinstance(group, dist.ProcessGroup):
        if group == getattr(dist.GroupMember, "NON_GROUP_MEMBER", None):
            raise ValueRefusedError("this rank is not in the process group")
        raise ValueRefusedError(
            f"group must be a ProcessGroup or a DeviceMesh, not {describe(group)}"
        )
    return Members((group,))


def wide_on(device: torch.device) -> torch.dtype:
    """Return the widest float that every device of this kind can add."""
    return torch.float64 if device.type in ("cpu", "cuda") else torch.float32
