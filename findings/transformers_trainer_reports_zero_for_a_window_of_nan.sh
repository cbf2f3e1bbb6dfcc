#!/usr/bin/env bash
# transformers 5.24.0: the Trainer's `logging_nan_inf_filter`, on by default, is documented to replace
# losses that are NaN or infinite by "the average of recent valid losses". Where all losses between two
# reports are NaN, what it reports is 0.0: training that has diverged looks as if it had become perfect.
# The mean over the whole training (`train_loss`) is made of the same. With
# `logging_nan_inf_filter=False` the NaN is reported.
#
# Expected output:
#   losses: 4 4 nan nan
#   with the filter: 4.0, 0.0, train_loss 2.0
#   without it: 4.0, nan, train_loss nan
#   as expected
#
# Exits with 0 while transformers behaves so, with 1 once it does not.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6 transformers==5.24.0 accelerate==1.15.0

cat >"$folder/try.py" <<'PY'
import os

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from transformers import PrinterCallback, Trainer, TrainingArguments


class Line(torch.nn.Module):
    """Fits y = weight * x; at weight 0 each loss is 4, and so is the gradient's norm."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x, labels):
        return {"loss": ((self.weight * x - labels) ** 2).mean()}


data = [{"x": torch.tensor([1.0]), "labels": torch.tensor([2.0])}] * 16


class Diverges(Line):
    """Its third loss and all that follow are NaN."""

    calls = 0

    def forward(self, x, labels):
        self.calls += 1
        loss = super().forward(x, labels)["loss"]
        return {"loss": loss * float("nan") if self.calls > 2 else loss}


def reported(**options):
    """Return the losses that a training of four steps reports, every second step."""
    arguments = TrainingArguments(
        "out",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
        per_device_train_batch_size=1,
        learning_rate=0.0,
        logging_steps=2,
        max_steps=4,
        **options,
    )
    trainer = Trainer(Diverges(), arguments, train_dataset=data)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    history = trainer.state.log_history
    return [entry["loss"] for entry in history if "loss" in entry], history[-1]["train_loss"]


def told(losses, mean):
    return ", ".join(map(str, losses)) + f", train_loss {mean}"


with_filter = told(*reported())
without = told(*reported(logging_nan_inf_filter=False))
print("losses: 4 4 nan nan")
print("with the filter:", with_filter)
print("without it:", without)
if (with_filter, without) != ("4.0, 0.0, train_loss 2.0", "4.0, nan, train_loss nan"):
    raise SystemExit("transformers behaves differently now")
print("as expected")
PY

cd "$folder"
venv/bin/python try.py
