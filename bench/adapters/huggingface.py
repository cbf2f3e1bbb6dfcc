"""Hugging Face's Trainer: our callback and its WandbCallback in one training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import wandb
from transformers import Trainer, TrainingArguments
from transformers.integrations import WandbCallback

from bench.adapters.calls import Line, in_trainings, timed
from bench.lib.workload import Workload
from fasttrack import ExperimentTracker, Options
from fasttrack.integrations.huggingface import FasttrackCallback

if TYPE_CHECKING:
    from bench.adapters.calls import Taken

_CALLS = ("on_step_begin", "note_loss", "on_step_end", "on_log")


class _Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = Workload().model

    def forward(self, inputs: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": torch.nn.functional.mse_loss(self.layers(inputs), labels)}


def measure(steps: int, quick: bool) -> list[Line]:
    """Return what each costs."""

    def train(every: int, first: bool) -> tuple[Taken, Taken]:
        options = Options(wait_for_delivery="finish")
        with ExperimentTracker(log_interval=every, options=options) as tracker:
            callbacks = [FasttrackCallback(tracker), WandbCallback()]
            taken = timed(callbacks[0], *_CALLS), timed(callbacks[1], "on_log")
            _train(callbacks if first else callbacks[::-1], steps, every)
        wandb.finish()
        return taken

    return in_trainings("Trainer", ("on_log",), train, quick=quick)


def _train(callbacks: list[Any], steps: int, every: int) -> None:
    arguments = TrainingArguments(
        output_dir=str(Path.home()),
        max_steps=steps,
        per_device_train_batch_size=32,
        logging_steps=every,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
    )
    data = [{"inputs": torch.randn(64), "labels": torch.randn(64)} for _ in range(3200)]
    Trainer(_Model(), arguments, train_dataset=data, callbacks=callbacks).train()
