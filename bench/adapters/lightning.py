"""Lightning's Trainer: our logger and callback, and its WandbLogger, in one training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import WandbLogger

from bench.adapters.calls import Line, in_trainings, timed
from bench.lib.workload import Workload
from fasttrack import Options
from fasttrack.integrations.lightning import FasttrackCallback, FasttrackLogger

if TYPE_CHECKING:
    from bench.adapters.calls import Taken

_LOGGING = ("log_metrics", "save")


class _Module(pl.LightningModule):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.layers = Workload().model

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        inputs, targets = batch
        loss = torch.nn.functional.mse_loss(self.layers(inputs), targets)
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters())


def measure(steps: int, quick: bool) -> list[Line]:
    """Return what each costs."""

    def train(every: int, first: bool) -> tuple[Taken, Taken]:
        ours = FasttrackLogger(options=Options(wait_for_delivery="finish"))
        theirs = WandbLogger(save_dir=Path.home(), offline=True)
        callback = FasttrackCallback(ours)
        each = timed(callback, "on_train_batch_start", "on_train_batch_end")
        taken = each | timed(ours, *_LOGGING), timed(theirs, "log_metrics")
        trainer = pl.Trainer(
            logger=[ours, theirs] if first else [theirs, ours],
            callbacks=[callback],
            max_steps=steps,
            log_every_n_steps=every,
            default_root_dir=Path.home(),
            accelerator="cpu",
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        data: Any = [(torch.randn(32, 64), torch.randn(32, 64))] * 100
        trainer.fit(_Module(), torch.utils.data.DataLoader(data, batch_size=None))
        ours.finish()
        theirs.experiment.finish()
        return taken

    return in_trainings("Lightning", _LOGGING, train, quick=quick)
