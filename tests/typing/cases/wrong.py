"""Uses that a type checker must refuse, each with the code of its error in a comment."""

# ruff: noqa: B018 - attributes are read for nothing here
from __future__ import annotations

import torch

import fasttrack
from fasttrack import (
    ExperimentTracker,
    Options,
    Stats,
    compute_grad_norm,
    get_metadata,
    is_main_process,
    set_seeds,
)
from fasttrack.testing import memory_tracker

model = torch.nn.Linear(2, 1)
optimizer = torch.optim.AdamW(model.parameters())
tracker = ExperimentTracker()

# --- the constructor

ExperimentTracker(project=1)  # E: arg-type
ExperimentTracker(tags={"model": 1})  # E: dict-item
ExperimentTracker(tags=["model"])  # E: arg-type
ExperimentTracker(tags={"model"})  # E: arg-type
ExperimentTracker(name=1)  # E: arg-type
ExperimentTracker(resume_id=12)  # E: arg-type
ExperimentTracker("p", None, None, None, None, "offline")  # E: call-arg
ExperimentTracker(mode=True)  # E: arg-type
ExperimentTracker(entity=1)  # E: arg-type
ExperimentTracker(enabled="no")  # E: arg-type
ExperimentTracker(log_interval="10")  # E: arg-type
ExperimentTracker(gpu_stats_interval=None)  # E: arg-type
ExperimentTracker(group=1)  # E: arg-type
ExperimentTracker(notes=["a"])  # E: arg-type
ExperimentTracker(required_tags=1)  # E: arg-type
ExperimentTracker(options={"console": False})  # E: arg-type
ExperimentTracker(loginterval=10)  # E: call-arg

# --- logging

tracker.log_training_step()  # E: call-arg
tracker.log_training_step(0.5)  # E: call-arg
tracker.log_training_step(0.5, "1")  # E: arg-type
tracker.log_training_step(0.5, None)  # E: arg-type
tracker.log_training_step(0.5, 1, "32")  # E: arg-type
tracker.log_training_step(0.5, 1, 32, model)  # E: arg-type
tracker.log_training_step(0.5, 1, 32, optimizer, optimizer)  # E: arg-type
tracker.log_training_step(0.5, 1, 32, optimizer, model, None)  # E: call-arg
tracker.log_training_step(0.5, 1, extra=[1])  # E: arg-type
tracker.log_training_step(0.5, 1, extra={1: 0.5})  # E: dict-item
tracker.log_training_step(0.5, 1, lossar=0.5)  # E: call-arg
tracker.phase()  # E: call-arg
tracker.phase(5)  # E: arg-type
tracker.data(5)  # E: arg-type
tracker.log_metrics()  # E: call-arg
tracker.log_metrics(0.5, 1)  # E: arg-type
tracker.log_metrics({1: 0.5}, 1)  # E: dict-item
tracker.log_metrics({"a": 0.5}, "1")  # E: arg-type
tracker.log_metrics(a=0.5)  # E: call-arg
tracker.log({"a": 0.5}, 1)  # E: attr-defined
tracker.log_config()  # E: call-arg
tracker.update_config()  # E: call-arg
tracker.log_checkpoint()  # E: call-arg
tracker.log_checkpoint(b"model.pt")  # E: arg-type
tracker.log_checkpoint("model.pt", 3)  # E: arg-type
tracker.log_checkpoint("model.pt", ["best"], "yes")  # E: arg-type

# --- asking and ending

run_id: str = tracker.get_run_id()  # E: assignment
run_name: str = tracker.get_run_name()  # E: assignment
tracker.get_run_dir() / "segment-0001.jsonl"  # E: operator
tracker.get_run_url().upper()  # E: union-attr
tracker.get_run_id(1)  # E: call-arg
tracker.flush("1")  # E: arg-type
tracker.finish("failed")  # E: arg-type
tracker.finish(0, True)  # E: call-arg
loss = tracker.log_metrics({"a": 0.5}, 1)  # E: func-returns-value
with tracker.audit as audited:  # E: attr-defined
    pass
with tracker as entered:
    entered.loss  # E: attr-defined


def a_return_is_missing_behind_the_block(last: ExperimentTracker) -> int:
    """Type checkers take it for granted that an exception leaves the block."""
    with last:
        if last.is_active():
            return 1
    return "2"  # E: return-value


# --- values

Options("reference")  # E: call-arg
Options(ring_size=4)  # E: call-arg
Options(capture=1)  # E: arg-type
Options(backends=5)  # E: arg-type
Options(share_run_id="yes")  # E: arg-type
Options(nodes=True)  # E: arg-type
Options(overhead_budget="1%")  # E: arg-type
Options(flight_recorder="on")  # E: arg-type
Options(layer_norms_every=0.5)  # E: arg-type
Options(flops_per_token="6N")  # E: arg-type
Options(peak_flops=None)  # E: arg-type
Options().console = False  # E: misc
tracker.stats().dropped = 0  # E: misc
Stats(rows_written=1)  # E: call-arg
tracker.stats().rows  # E: attr-defined

# --- functions

compute_grad_norm("model")  # E: arg-type
get_metadata(seed=1)  # E: call-arg
is_main_process("0")  # E: arg-type
set_seeds("1")  # E: arg-type
set_seeds(1, True)  # E: call-arg
fasttrack.Tracker  # E: attr-defined
fasttrack.journal_rows  # E: attr-defined

# --- tests of the user's

with memory_tracker() as memory:
    memory.rows = []  # E: misc
    memory.rows[0].step = 1  # E: misc
    memory.rows[0]["step"]  # E: index
