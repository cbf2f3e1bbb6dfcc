"""What tests run in children of multiprocessing, which import it from here."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import Any

import torch
from support.runs import make_tracker
from support.trackers import journal_only

from fasttrack import ExperimentTracker

STEPS = 50
FROM_A_WORKER = 1000
"""The step under which `LoggingData` logs."""


class TrainingError(Exception):
    """What breaks a child's training."""


@dataclass
class LoggingData(torch.utils.data.Dataset[Any]):
    """A dataset that holds a tracker and logs to it, wherever it is asked."""

    tracker: ExperimentTracker

    def __len__(self) -> int:
        """Return how many items there are."""
        return 8

    def __getitem__(self, index: int) -> float:
        """Log and return an item."""
        self.tracker.log_metrics({"item": index}, step=FROM_A_WORKER)
        return float(index)


def train(how: str, directory: str) -> None:
    """Log 50 rows in a run of this process's own, and end as `how` says, without `finish()`."""
    os.environ["WANDB_DIR"] = directory
    tracker = make_tracker(resume_id=how, options=journal_only(flush_interval_s=60.0))
    for step in range(STEPS):
        tracker.log_metrics({"a": step}, step=step)
    if how.startswith("raise"):
        raise TrainingError(how)
    if how.startswith("exit"):
        sys.exit(3)
    if how.startswith("word"):
        sys.exit("that is enough")
    if how.startswith("interrupt"):
        raise KeyboardInterrupt


def train_rank(rank: int, how: str, directory: str) -> None:
    """Do what `train` does, as one of `torch.multiprocessing.spawn`'s."""
    train(f"{how}-{rank}", directory)
