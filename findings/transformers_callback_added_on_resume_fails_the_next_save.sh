#!/usr/bin/env bash
# transformers 5.24.0: a callback that has a state (`ExportableState`, `EarlyStoppingCallback` say)
# and is given to a Trainer that resumes from a checkpoint made without it ends training with a
# KeyError, not at the resume, but when the next checkpoint is saved: hours later, perhaps, and without
# that checkpoint. The state that was loaded knows no such callback, and saving looks it up there.
#
# Expected output:
#   resumed at step 2, failed at step 3: KeyError('EarlyStoppingCallback') in _save_checkpoint
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
from transformers import EarlyStoppingCallback, PrinterCallback, Trainer, TrainingArguments


class Line(torch.nn.Module):
    """Fits y = weight * x; at weight 0 each loss is 4, and so is the gradient's norm."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x, labels):
        return {"loss": ((self.weight * x - labels) ** 2).mean()}


data = [{"x": torch.tensor([1.0]), "labels": torch.tensor([2.0])}] * 16


def make_trainer(max_steps, callbacks=()):
    arguments = TrainingArguments(
        "out",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        per_device_train_batch_size=1,
        save_steps=1,
        eval_strategy="steps",
        eval_steps=1,
        metric_for_best_model="loss",
        load_best_model_at_end=True,
        max_steps=max_steps,
    )
    trainer = Trainer(
        Line(), arguments, train_dataset=data, eval_dataset=data[:2], callbacks=list(callbacks)
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


make_trainer(2).train()
trainer = make_trainer(4, [EarlyStoppingCallback(early_stopping_patience=9)])
try:
    trainer.train(resume_from_checkpoint=True)
except KeyError as error:
    where = error.__traceback__
    while where.tb_next is not None:
        where = where.tb_next
    step, name = trainer.state.global_step, where.tb_frame.f_code.co_name
    said = f"resumed at step 2, failed at step {step}: {error!r} in {name}"
else:
    said = "training ended well"
print(said)
if said != (
    "resumed at step 2, failed at step 3: KeyError('EarlyStoppingCallback') in _save_checkpoint"
):
    raise SystemExit("transformers behaves differently now")
print("as expected")
PY

cd "$folder"
venv/bin/python try.py
