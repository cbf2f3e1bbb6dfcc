"""A Trainer that learns arithmetic sequences with a language model of some thousand parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from support.journals import read_rows
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

WORDS, LENGTH, BATCH = 29, 12, 4


def sequences(count: int) -> list[dict[str, torch.Tensor]]:
    """Return `count` sequences, each a first number and a stride modulo `WORDS`."""
    made = [(torch.arange(LENGTH) * (i % 7 + 1) + i) % WORDS for i in range(count)]
    return [{"input_ids": one, "labels": one} for one in made]


def make_model() -> GPT2LMHeadModel:
    """Return the model, always of the same weights."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # threads that wait for one another take longer than the model does
    config = GPT2Config(
        vocab_size=WORDS,
        n_positions=LENGTH,
        n_embd=16,
        n_layer=1,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
    )
    return GPT2LMHeadModel(config)


def arguments(directory: Path | str, **changes: Any) -> TrainingArguments:
    """Return arguments for 12 steps, of which every second is logged and every sixth saved."""
    return TrainingArguments(
        **{
            "output_dir": str(directory),
            "max_steps": 12,
            "per_device_train_batch_size": BATCH,
            "per_device_eval_batch_size": BATCH,
            "learning_rate": 1e-2,
            "logging_steps": 2,
            "save_steps": 6,
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": True,
            "dataloader_pin_memory": False,
            "seed": 0,
            **changes,
        }
    )


class TinyTrainer(Trainer):  # type: ignore[misc]
    """A Trainer whose loss is what a test wants at one step, or raises there."""

    at_step: int | None = None
    """The step, from 1 on, that something happens at; None: never."""
    instead: Any = None
    """What the loss is then; an exception: raised."""

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        """Return the model's loss, or do what was asked for."""
        computed = super().compute_loss(*args, **kwargs)
        if self.state.global_step + 1 != self.at_step or not self.model.training:
            return computed
        if isinstance(self.instead, BaseException):
            raise self.instead
        return computed * self.instead


def make_trainer(directory: Path | str, *callbacks: Any, **changes: Any) -> TinyTrainer:
    """Return a Trainer of 96 sequences, and 8 to evaluate with.

    Args:
        directory: for checkpoints.
        callbacks: the trainer's.
        changes: of the arguments.
    """
    return TinyTrainer(
        make_model(),
        arguments(directory, **changes),
        train_dataset=sequences(96),
        eval_dataset=sequences(8),
        callbacks=list(callbacks),
    )


def runs_of(base: Path) -> list[Path]:
    """Return the directories of the runs under `base`."""
    return sorted(path for path in (base / "wandb" / "fasttrack").iterdir() if path.name[0] != ".")


def reported(history: list[dict[str, Any]]) -> list[tuple[int, dict[str, Any]]]:
    """Return a Trainer's `log_history` as (step, values by their names here)."""
    whole = {
        *("train_runtime", "train_samples_per_second", "train_steps_per_second"),
        *("train_loss", "total_flos"),
    }

    def name(key: str) -> str:
        if key in whole:
            return key
        return f"eval/{key[5:]}" if key.startswith("eval_") else f"train/{key}"

    return [
        (entry["step"], {name(key): value for key, value in entry.items() if key != "step"})
        for entry in history
    ]


def recorded(run_dir: Path) -> list[tuple[int, dict[str, float]]]:
    """Return the rows of a run that hold what the Trainer reported, in order."""
    return [
        (row.step, row.values)
        for row in read_rows(run_dir)
        if {"train/epoch", "eval/loss"} & row.values.keys()
    ]
