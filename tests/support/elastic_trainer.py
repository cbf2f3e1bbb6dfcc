"""What torchrun starts in tests: it trains, saves, and dies or ends when a file says so.

    elastic_trainer.py DIRECTORY

Every rank's every step is one collective. `die-1` in DIRECTORY kills rank 1 (it takes the file
away), `stop` ends all ranks after the same step. A rank notes its process in `ranks`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

from fasttrack import ExperimentTracker, Options

_STEP_S = 0.02
_SAVE_EVERY = 5


def main(directory: Path) -> None:
    """Train from the checkpoint on, until told to stop."""
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    checkpoint = directory / "checkpoint"
    step = int(checkpoint.read_text()) if checkpoint.exists() else 0
    tracker = ExperimentTracker(
        project="elastic",
        resume_id="auto",
        log_interval=1,
        mode="offline",
        options=Options(wait_for_delivery="finish"),
    )
    with (directory / "ranks").open("a") as file:
        file.write(json.dumps([os.getpid(), rank, os.environ["GROUP_RANK"], step]) + "\n")
    stops = 0.0
    while not stops:
        if (die := directory / f"die-{rank}").exists():
            die.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        told = torch.tensor([float((directory / "stop").exists()), step])
        dist.all_reduce(told, op=dist.ReduceOp.MAX)
        stops, latest = told.tolist()
        assert latest == step
        time.sleep(_STEP_S)
        tracker.log_training_step(1.0 / (1 + step), step, 4)
        step += 1
        if rank == 0 and step % _SAVE_EVERY == 0:
            tracker.flush()  # a kill takes no row of a step that is not done again
            written = checkpoint.with_suffix(".new")
            written.write_text(str(step))
            written.replace(checkpoint)
    tracker.finish()
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
