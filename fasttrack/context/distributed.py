"""Which rank is this process, and of how many? Nothing here imports torch or starts anything."""

from __future__ import annotations

import os
import sys
from typing import Any

# (rank, world size) of each launcher, most specific first. Under `srun torchrun` SLURM_PROCID is
# the node's number, so RANK must win over it.
_LAUNCHERS = (
    ("RANK", "WORLD_SIZE"),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
)


def get_rank() -> int:
    """Return this process's rank in the job; 0 where there is only one process.

    Taken from torch.distributed if it is initialised, else from the launcher's environment: RANK
    (torchrun, DeepSpeed, accelerate), SLURM_PROCID (only in a job step of several tasks: a batch
    script has it too), OMPI_COMM_WORLD_RANK, PMI_RANK.
    """
    group = _process_group()
    return int(group.get_rank()) if group is not None else _from_environment()[0]


def get_world_size() -> int:
    """Return the number of ranks in the job, from the same sources as `get_rank`."""
    group = _process_group()
    return int(group.get_world_size()) if group is not None else _from_environment()[1]


def is_main_process(log_rank: int = 0) -> bool:
    """Return whether this process is the one that logs.

    Args:
        log_rank: the rank that logs; another than 0 where, say, the loss lives on the last stage
            of a pipeline.
    """
    return get_rank() == log_rank


def _process_group() -> Any:
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return distributed
    return None


def _from_environment() -> tuple[int, int]:
    for rank_name, size_name in _LAUNCHERS:
        rank, size = _number(rank_name), _number(size_name)
        if rank is None:
            continue
        if rank_name == "SLURM_PROCID" and (size is None or size < 2):
            continue
        return rank, size or 1
    return 0, 1


def _number(name: str) -> int | None:
    value = os.environ.get(name, "")
    return int(value) if value.isascii() and value.isdigit() else None
