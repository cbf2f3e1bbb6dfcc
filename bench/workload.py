"""The training step that every benchmark logs, and what it logs.

A small step on purpose: whatever logging costs, it costs the largest share here. Six linear layers
and AdamW on one CPU thread take 1.0 to 1.5 ms on a 2-core cloud machine, nearly all of it
PyTorch's own cost per operation, so the time hardly depends on the layers' sizes.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import torch
from torch.nn.functional import mse_loss

Scalars: TypeAlias = dict[str, torch.Tensor | float]

LOSS = "loss/total"
_BATCH_SIZE = 32
_WIDTH = 64
_LAYERS = 6


class Workload:
    """A model, its optimizer and one fixed batch; `step` trains once."""

    def __init__(self) -> None:
        """Build everything from a fixed seed, on one CPU thread."""
        self.batch_size = _BATCH_SIZE
        torch.set_num_threads(1)
        torch.manual_seed(0)
        layers: list[torch.nn.Module] = []
        for _ in range(_LAYERS):
            layers += [torch.nn.Linear(_WIDTH, _WIDTH), torch.nn.ReLU()]
        self.model = torch.nn.Sequential(*layers[:-1])
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)
        self._inputs = torch.randn(_BATCH_SIZE, _WIDTH)
        self._targets = torch.randn(_BATCH_SIZE, _WIDTH)

    def step(self, step: int) -> Scalars:
        """Train once; return what to log, and leave the gradients in place.

        The loss comes as training leaves it, a tensor with its graph; the other four are floats.
        """
        self.optimizer.zero_grad()
        loss = mse_loss(self.model(self._inputs), self._targets)
        loss.backward()  # type: ignore[no-untyped-call]  # torch annotates it in part only
        self.optimizer.step()
        return five_scalars(loss, step)


def five_scalars(loss: torch.Tensor, step: int) -> Scalars:
    """Return what one step logs: the loss as it is given, and four floats that change."""
    return {
        LOSS: loss,
        "train/lr": 1e-4 * math.exp(-1e-6 * step),
        "train/grad_norm": 1.0 + 1e-3 * (step % 97),
        "data/tokens": 2048.0 * step,
        "data/wait_ms": 0.125 * (step % 13),
    }
