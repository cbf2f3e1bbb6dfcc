"""Checkpoints as trainers treat them: written again under one name, rotated, cut, deleted."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from faults.trainer import Notes, Spec

    from fasttrack import ExperimentTracker

KINDS = ("one-name", "rotated", "truncated", "overwritten", "deleted")
_EVERY = 30
_KEPT = 2


def contents_of(number: int, seed: int, size: int) -> bytes:
    """Return what checkpoint `number` holds."""
    return random.Random(f"{seed}:{number}").randbytes(size)


def save_checkpoint(tracker: ExperimentTracker, row_id: int, spec: Spec, note: Notes) -> None:
    """Save and log a checkpoint at every 30th row, then do to it what `spec.checkpoints` says."""
    if not spec.checkpoints or (row_id + 1) % _EVERY:
        return
    number = (row_id + 1) // _EVERY
    folder = Path("checkpoints")
    folder.mkdir(exist_ok=True)
    one_name = spec.checkpoints in ("one-name", "overwritten")
    path = folder / ("checkpoint.pt" if one_name else f"checkpoint-{number}.pt")
    # As torch.save does: the same file is opened again, and gets new contents.
    path.write_bytes(contents_of(number, spec.seed, spec.checkpoint_bytes))
    tracker.log_checkpoint(path, aliases=[f"n{number}"], force=True)
    note("checkpoint", number=number)
    if spec.checkpoints == "truncated":
        os.truncate(path, 0)
    elif spec.checkpoints == "overwritten":
        path.write_bytes(bytes(spec.checkpoint_bytes))
    elif spec.checkpoints == "deleted":
        path.unlink()
    elif spec.checkpoints == "rotated":
        (folder / f"checkpoint-{number - _KEPT}.pt").unlink(missing_ok=True)
