"""What is logged, and under which tags. Imports no torch: see compare/child.py."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import TypeAlias

    import torch

    Scalars: TypeAlias = dict[str, torch.Tensor | float]

TAGS = {"model": "m", "dataset": "d", "objective": "o", "experiment_group": "bench"}

LOSS = "loss/total"
LEARNING_RATE = 1e-4

FIVE: dict[str, float] = {
    LOSS: 0.123456789,
    "train/lr": LEARNING_RATE,
    "a": 1.25,
    "b": 4096.0,
    "c": 0.5,
}
"""For what is logged without training."""


def five_scalars(loss: torch.Tensor, step: int) -> Scalars:
    """Return what one step logs: the loss as it is given, and four floats that change."""
    return {
        LOSS: loss,
        "train/lr": LEARNING_RATE * math.exp(-1e-6 * step),
        "train/grad_norm": 1.0 + 1e-3 * (step % 97),
        "data/tokens": 2048.0 * step,
        "data/wait_ms": 0.125 * (step % 13),
    }
