"""Loss curves of real, healthy training runs: a small network on scikit-learn's digits, by seed.

The seed chooses the recipe, too: optimizer, learning rate and its schedule, batch size, width,
dropout, label noise, length. All of them learn; many end with the noise of a data set that is
known by heart, where a batch's loss differs from the next by a factor of a thousand.
"""

from __future__ import annotations

import functools
import math
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Iterator

_EVAL_EVERY = 20  # steps
_HELD_OUT = 360  # of 1797 images


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one run trains."""

    optimizer: str
    lr: float
    schedule: str
    batch_size: int
    width: int
    dropout: float
    label_noise: float
    steps: int


class Point(NamedTuple):
    """What a run logs at one step."""

    step: int
    values: dict[str, float]


_LEARNING_RATES = {  # that these learn with, least and greatest
    "sgd": (0.02, 0.3),
    "momentum": (0.005, 0.1),
    "adam": (3e-4, 1e-2),
    "adamw": (3e-4, 1e-2),
}


def recipe_of(seed: int) -> Recipe:
    """Return the recipe of a run."""
    draw = random.Random(seed)
    optimizer = draw.choice(sorted(_LEARNING_RATES))
    least, most = _LEARNING_RATES[optimizer]
    return Recipe(
        optimizer=optimizer,
        lr=math.exp(draw.uniform(math.log(least), math.log(most))),
        schedule=draw.choice(["constant", "warmup", "cosine", "steps", "restarts"]),
        batch_size=draw.choice([8, 16, 32, 64, 128]),
        width=draw.choice([16, 32, 64, 128]),
        dropout=draw.choice([0.0, 0.0, 0.2]),
        label_noise=draw.choice([0.0, 0.0, 0.1]),
        steps=draw.choice([600, 1000, 1500]),
    )


def curve(seed: int) -> Iterator[Point]:
    """Yield what the run of a seed logs: each batch's loss, now and then that of an evaluation.

    Trains on one thread: this process has no others for torch from then on.
    """
    torch.set_num_threads(1)  # threads that wait for one another take longer than the work
    recipe = recipe_of(seed)
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    images, labels = _digits()
    train_x, train_y = images[_HELD_OUT:], labels[_HELD_OUT:].clone()
    wrong = torch.rand(len(train_y), generator=generator) < recipe.label_noise
    train_y[wrong] = torch.randint(10, (int(wrong.sum()),), generator=generator)
    model = nn.Sequential(
        nn.Linear(64, recipe.width),
        nn.ReLU(),
        nn.Dropout(recipe.dropout),
        nn.Linear(recipe.width, 10),
    )
    optimizer = _optimizer(recipe, model)
    for step in range(recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * _factor(recipe, step)
        batch = torch.randint(len(train_y), (recipe.batch_size,), generator=generator)
        loss = nn.functional.cross_entropy(model(train_x[batch]), train_y[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values = {"loss/total": loss.item()}
        if step % _EVAL_EVERY == 0:
            model.eval()
            with torch.no_grad():
                held_out = model(images[:_HELD_OUT])
                values["eval/loss"] = nn.functional.cross_entropy(
                    held_out, labels[:_HELD_OUT]
                ).item()
            model.train()
        yield Point(step, values)


@functools.lru_cache(maxsize=1)
def _digits() -> tuple[torch.Tensor, torch.Tensor]:
    from sklearn.datasets import load_digits

    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    images = torch.tensor(data.data, dtype=torch.float32)[order] / 16
    return images, torch.tensor(data.target)[order]


def _optimizer(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    parameters = model.parameters()
    match recipe.optimizer:
        case "adam":
            return torch.optim.Adam(parameters, recipe.lr)
        case "adamw":
            return torch.optim.AdamW(parameters, recipe.lr)
        case "momentum":
            return torch.optim.SGD(parameters, recipe.lr, momentum=0.9)
    return torch.optim.SGD(parameters, recipe.lr)


def _factor(recipe: Recipe, step: int) -> float:
    done = step / recipe.steps
    match recipe.schedule:
        case "warmup":
            return min(1.0, (step + 1) / 100)
        case "cosine":
            return (1 + math.cos(math.pi * done)) / 2
        case "steps":
            return float(0.3 ** int(3 * done))
        case "restarts":
            return (1 + math.cos(math.pi * (3 * done % 1))) / 2
    return 1.0
