"""The training step that every benchmark logs, and what it logs.

A small step on purpose: whatever logging costs, it costs the largest share here. Six linear layers
and AdamW on one CPU thread take 1.0 to 1.5 ms on a 2-core cloud machine, nearly all of it
PyTorch's own cost per operation, so the time hardly depends on the layers' sizes. `SIZES` has a
smaller step and a larger one, named after about how many milliseconds they take there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.nn.functional import linear, mse_loss

from bench.lib.scalars import LEARNING_RATE, five_scalars

if TYPE_CHECKING:
    from bench.lib.scalars import Scalars

_FIVE = 5  # what five_scalars returns
_FURTHER_STEPS = 16  # after these, the further metrics repeat


class Size(NamedTuple):
    """A model of linear layers, and its batch."""

    layers: int
    width: int
    batch_size: int


SIZES = {
    "0.1": Size(layers=1, width=16, batch_size=8),
    "1": Size(layers=6, width=64, batch_size=32),
    "20": Size(layers=6, width=512, batch_size=128),
}


class Workload:
    """A model, its optimizer and one fixed batch; `step` trains once."""

    def __init__(
        self, size: Size = SIZES["1"], metrics: int = _FIVE, *, device: str = "cpu"
    ) -> None:
        """Build everything from a fixed seed; the host has one thread for it.

        Args:
            size: of the model and its batch.
            metrics: how many scalars a step has to log, at least five.
            device: where it is trained; an accelerator is never waited for.
        """
        self.batch_size = size.batch_size
        self.metrics = metrics
        torch.set_num_threads(1)
        torch.manual_seed(0)
        layers: list[torch.nn.Module] = []
        for _ in range(size.layers):
            bias = size.layers > 1
            layer = torch.nn.Linear(size.width, size.width, bias=bias, device=device)
            layers += [layer, torch.nn.ReLU()]
        self.model = torch.nn.Sequential(*layers[:-1])
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=LEARNING_RATE)
        self._weight: Any = next(self.model.parameters())
        self._train = self._train_by_hand if size.layers == 1 else self._train_by_optimizer
        self._inputs = torch.randn(size.batch_size, size.width, device=device)
        self._targets = torch.randn(size.batch_size, size.width, device=device)
        self._further = [
            {f"group_{i % 9}/metric_{i:03}": i + step / 64 for i in range(metrics - _FIVE)}
            for step in range(_FURTHER_STEPS)
        ]

    def step(self, step: int) -> Scalars:
        """Train once; return what to log, and leave the gradients in place.

        The loss comes as training leaves it, a tensor with its graph; the others are floats.
        """
        scalars = five_scalars(self._train(), step)
        if self.metrics > _FIVE:
            scalars.update(self.further(step))
        return scalars

    def further(self, step: int) -> dict[str, float]:
        """Return what `step` has to log beside the five scalars."""
        return self._further[step % _FURTHER_STEPS]

    def _train_by_optimizer(self) -> torch.Tensor:
        self.optimizer.zero_grad()
        loss = mse_loss(self.model(self._inputs), self._targets)
        loss.backward()
        self.optimizer.step()
        return loss

    def _train_by_hand(self) -> torch.Tensor:
        """Train with plain SGD; a module and an optimizer would nearly double the time."""
        weight = self._weight
        weight.grad = None
        loss = mse_loss(linear(self._inputs, weight), self._targets)
        loss.backward()
        with torch.no_grad():
            weight.sub_(weight.grad, alpha=LEARNING_RATE)
        return loss
