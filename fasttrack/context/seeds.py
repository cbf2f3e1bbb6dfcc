"""Seed the random generators, and know afterwards what was set."""

from __future__ import annotations

import operator
import os
import random
import sys
from typing import Any

from fasttrack.context.distributed import get_rank
from fasttrack.errors import ConfigurationError

_LARGEST = 2**32 - 1  # NumPy takes no more

_applied: dict[str, object] | None = None  # replaced whole, never changed: any thread may read it


def set_seeds(seed: int, *, deterministic: bool = False, rank_offset: bool = False) -> int:
    """Seed Python's, NumPy's and PyTorch's global generators, the latter on every device.

    CUDA is not initialised by this; its generators take the seed when they come up. Python's hash
    seed cannot be set here: PYTHONHASHSEED counts only when it is set before Python starts.

    Args:
        seed: 0 to 2**32 - 1.
        deterministic: have PyTorch use deterministic algorithms only (and raise where there is
            none), cuDNN included; sets CUBLAS_WORKSPACE_CONFIG unless it is set. Call it before
            CUDA is used. False leaves these settings as they are.
        rank_offset: add this process's rank, so that the ranks draw different numbers, for
            instance in dropout and augmentation. Models must then be initialised alike some other
            way; DDP, FSDP and DeepSpeed broadcast them.

    Returns:
        The seed that was set, with the offset.

    Raises:
        ConfigurationError: `seed` is no integer in that range.
    """
    global _applied
    import numpy as np
    import torch

    number = _check(seed)
    if rank_offset:
        number = (number + get_rank()) % (_LARGEST + 1)
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else cuBLAS may not be
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False
    _applied = {
        "seed": operator.index(seed),
        "deterministic": bool(deterministic),
        "rank_offset": bool(rank_offset),
        "seed_with_offset": number,
    }
    return number


def describe_seeds() -> dict[str, object]:
    """Return what can be known of the seeds in force, without loading or initialising anything.

    PyTorch's are asked from its generators. Python and NumPy do not tell theirs: those are what
    `set_seeds` set last in this process, None if it was not called.
    """
    applied = _applied
    number = applied["seed_with_offset"] if applied else None
    torch: Any = sys.modules.get("torch")
    cuda: Any = sys.modules.get("torch.cuda")
    return {
        "python": number,
        "numpy": number,
        "torch": torch.initial_seed() if torch is not None else None,
        "cuda": cuda.initial_seed() if cuda is not None and cuda.is_initialized() else None,
        "pythonhashseed": os.environ.get("PYTHONHASHSEED"),
        "set_seeds": applied,
    }


def _check(seed: Any) -> int:
    try:
        number = operator.index(seed)
    except TypeError:
        number = -1
    if isinstance(seed, bool) or not 0 <= number <= _LARGEST:
        raise ConfigurationError(f"seed must be an integer from 0 to {_LARGEST}, not {seed!r}")
    return number
