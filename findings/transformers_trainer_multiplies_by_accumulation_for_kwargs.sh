#!/usr/bin/env bash
# transformers 5.24.0: whether a model's `forward` takes `**kwargs` decides, under
# `gradient_accumulation_steps`, how large loss and gradients are. A model that takes them is expected
# to divide by `num_items_in_batch`, which it is then handed; one that takes them for another reason
# and returns the mean of its batch, as models do, trains with gradients that are as many times too
# large as batches are accumulated, and so is the loss that is reported. Nothing is said.
# `Trainer(compute_loss_func=...)` or a use of `num_items_in_batch` makes it right.
#
# Expected output:
#   forward(x, labels): loss 4.0, grad_norm 4.0
#   forward(x, labels, **kwargs): loss 16.0, grad_norm 16.0
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


class LineOfAnything(Line):
    """The same model, which passes over what it does not know."""

    def forward(self, x, labels, **kwargs):
        return super().forward(x, labels)


def reported(model):
    """Return what one step over four accumulated batches of one sample reports."""
    arguments = TrainingArguments(
        "out",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
        per_device_train_batch_size=1,
        gradient_accumulation_steps=4,
        learning_rate=0.0,
        logging_steps=1,
        max_steps=1,
    )
    trainer = Trainer(model, arguments, train_dataset=data)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    first = trainer.state.log_history[0]
    return first["loss"], first["grad_norm"]


plain, kwargs = reported(Line()), reported(LineOfAnything())
print("forward(x, labels): loss {}, grad_norm {}".format(*plain))
print("forward(x, labels, **kwargs): loss {}, grad_norm {}".format(*kwargs))
if (plain, kwargs) != ((4.0, 4.0), (16.0, 16.0)):
    raise SystemExit("transformers behaves differently now")
print("as expected")
PY

cd "$folder"
venv/bin/python try.py
