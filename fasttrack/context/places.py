"""Which node is this, which of its processes samples it, and how many nodes has the job?"""

from __future__ import annotations

import os
import re
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_LOCAL_RANKS = (
    "LOCAL_RANK",  # torchrun, DeepSpeed, accelerate
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "MPI_LOCALRANKID",  # Intel MPI, MPICH
    "MV2_COMM_WORLD_LOCAL_RANK",
)
_LOCAL_SIZES = ("LOCAL_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS")
_UNFIT = re.compile(r"[^A-Za-z0-9_-]")
_LONGEST_NAME = 63  # as of a host


def node_name(environment: Mapping[str, str] = os.environ) -> str:
    """Return this node's name, fit for the names of metrics and files.

    Slurm's where there is one (several of its nodes may be one machine), else the host's without
    its domain.
    """
    name = environment.get("SLURMD_NODENAME") or socket.gethostname()
    return fit_name(name)


def fit_name(name: str) -> str:
    """Return the first label of a host's name with "_" for what neither metrics nor files take."""
    return _UNFIT.sub("_", name.partition(".")[0])[:_LONGEST_NAME] or "node"


def local_rank(world_size: int, environment: Mapping[str, str] = os.environ) -> int | None:
    """Return this process's number among those of its node; None where nothing tells it.

    Args:
        world_size: processes in the job.
        environment: the launcher's.
    """
    names: tuple[str, ...] = _LOCAL_RANKS
    if (_number(environment, "SLURM_STEP_NUM_TASKS") or 0) > 1:  # a batch script has one, too
        names = (*names, "SLURM_LOCALID")
    for name in names:
        rank = _number(environment, name)
        if rank is not None:
            return rank
    return 0 if world_size < 2 else None


def count_nodes(world_size: int, environment: Mapping[str, str] = os.environ) -> int | None:
    """Return on how many nodes the job's processes are; None where nothing tells it.

    Args:
        world_size: processes in the job.
        environment: the launcher's.
    """
    if world_size < 2:
        return 1
    agents = _number(environment, "GROUP_WORLD_SIZE")  # torchrun: one on each
    if agents:
        return agents
    if (_number(environment, "SLURM_STEP_NUM_TASKS") or 0) > 1:
        return _number(environment, "SLURM_STEP_NUM_NODES") or None
    for name in _LOCAL_SIZES:
        size = _number(environment, name)
        if size:
            return -(-world_size // size)
    return None


def _number(environment: Mapping[str, str], name: str) -> int | None:
    value = environment.get(name, "")
    return int(value) if value.isascii() and value.isdigit() else None
