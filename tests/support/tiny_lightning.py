"""A Trainer of Lightning's that learns which of two points is nearer, with a linear model."""

from __future__ import annotations

import csv
import math
import os
import sys
from pathlib import Path
from typing import Any

import torch
from support.journals import read_rows

if "pytorch_lightning" in sys.modules and "lightning.pytorch" not in sys.modules:
    import pytorch_lightning as pl
    from pytorch_lightning.loggers import CSVLogger
else:
    import lightning.pytorch as pl
    from lightning.pytorch.loggers import CSVLogger

BATCH = 4
BATCHES = 6
"""In an epoch."""


def batches() -> Any:
    """Return a data loader of the same points each time."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # threads that wait for one another take longer than the model does
    points = torch.randn(BATCH * BATCHES, 4)
    nearer = (points[:, :2].norm(dim=1) < points[:, 2:].norm(dim=1)).long()
    data = torch.utils.data.TensorDataset(points, nearer)
    return torch.utils.data.DataLoader(data, batch_size=BATCH)


class TinyModule(pl.LightningModule):  # type: ignore[misc]
    """A model whose loss is what a test wants at one step, or raises there."""

    at_step: int | None = None
    """The step, from 0 on, that something happens at; None: never."""
    instead: Any = None
    """What the loss is multiplied by then; an exception: raised; a function: called."""

    def __init__(self, lr: float = 0.1, api_key: str = "hunter2") -> None:
        """Make it, always of the same weights."""
        super().__init__()
        self.save_hyperparameters()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(4, 2)
        self.losses: list[tuple[int, float]] = []
        """Of each batch that was trained on, with its step."""

    def _loss(self, batch: Any) -> Any:
        points, nearer = batch
        return torch.nn.functional.cross_entropy(self.layer(points), nearer)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """Return the loss, or do what was asked for."""
        loss = self._loss(batch)
        step = self.global_step
        if step == self.at_step:
            if isinstance(self.instead, BaseException):
                raise self.instead
            if callable(self.instead):
                self.instead()
            else:
                loss = loss * self.instead
        self.log("train/loss", loss, on_step=True, on_epoch=True)
        self.losses.append((step, loss.item()))
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Report the loss."""
        self.log("val/loss", self._loss(batch))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Report the loss."""
        self.log("test/loss", self._loss(batch))

    def configure_optimizers(self) -> Any:
        """Return plain gradient descent."""
        return torch.optim.SGD(self.parameters(), lr=self.hparams["lr"])


def make_trainer(directory: Path | str, *loggers: Any, **changes: Any) -> pl.Trainer:
    """Return a Trainer of two epochs on the CPU, of which every second step is logged.

    Args:
        directory: for checkpoints, and for `csv/`, where what it reports is written beside.
        loggers: the Trainer's others.
        changes: of its arguments.
    """
    csv_logger = CSVLogger(os.fspath(directory), "csv", flush_logs_every_n_steps=1)
    return pl.Trainer(
        **{
            "logger": [*loggers, csv_logger],
            "default_root_dir": os.fspath(directory),
            "max_epochs": 2,
            "log_every_n_steps": 2,
            "accelerator": "cpu",
            "devices": 1,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
            **changes,
        }
    )


def reported(directory: Path) -> list[tuple[int, dict[str, float]]]:
    """Return what the Trainers of a directory reported, as (step, values), in order."""
    found = []
    for path in sorted((directory / "csv").glob("version_*/metrics.csv")):
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                step = int(row.pop("step"))
                found.append((step, {k: float(v) for k, v in row.items() if v != ""}))
    return found


def recorded(run_dir: Path) -> list[tuple[int, dict[str, float]]]:
    """Return the rows of a run that hold what the Trainer reported, in order."""
    return [(row.step, row.values) for row in read_rows(run_dir) if "epoch" in row.values]


def same(one: Any, other: Any) -> bool:
    """Return whether two lists of rows are equal, where NaN equals NaN."""
    return len(one) == len(other) and all(
        a_step == b_step
        and a.keys() == b.keys()
        and all(a[k] == b[k] or (math.isnan(a[k]) and math.isnan(b[k])) for k in a)
        for (a_step, a), (b_step, b) in zip(one, other, strict=True)
    )
