"""Train through time limits and preemption: one W&B run, however often the job is requeued.

    sbatch slurm/requeue_resume.sbatch                        # on a cluster, on any number of ranks
    python examples/requeue.py --checkpoint checkpoints/a.pt  # by hand: kill -USR1 it, start again

`tracker.should_stop()` turns True, after the same step on all ranks, when the job is preempted
(SIGTERM), when its time is nearly up (SIGUSR1, or Slurm's own word), and when somebody asks for it
(`fasttrack stop`, W&B's stop button). The loop then saves a checkpoint and leaves; when the job
starts again, it finds its checkpoint, and the tracker finds its run.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import mse_loss
from torch.nn.parallel import DistributedDataParallel

from fasttrack import ExperimentTracker, Options, is_main_process

BATCH_SIZE = 32  # of one rank
REQUEUE_ME = 75  # exit code: "not done, start me again" (EX_TEMPFAIL in sysexits.h)
PREEMPTED = 143  # the exit code of a program that SIGTERM ended; who sent it knows what comes next


def parse_args() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--checkpoint", type=Path, required=True, help="written, and gone on from")
    parser.add_argument("--steps", type=int, default=1000, help="in all, also when going on")
    parser.add_argument("--save-interval", type=int, default=200, help="steps between checkpoints")
    parser.add_argument("--log-interval", type=int, default=10, help="steps between logged rows")
    parser.add_argument("--step-s", type=float, default=0.1, help="least seconds of one step")
    return parser.parse_args()


def save_checkpoint(path: Path, checkpoint: dict[str, Any]) -> None:
    """Write `checkpoint`, on one rank; a job killed in the middle leaves the one before."""
    if is_main_process():
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_suffix(".tmp")
        torch.save(checkpoint, scratch)
        scratch.replace(path)


def load_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device
) -> tuple[int, str]:
    """Restore from the checkpoint if there is one; return the next step and the run's id."""
    if not path.exists():
        return 0, "auto"  # a job that is started again may know its run without a checkpoint
    checkpoint = torch.load(path, map_location=device, weights_only=True)
    model.load_state_dict(checkpoint["model"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    print(f"going on with run {checkpoint['wandb_run_id']} at step {checkpoint['step']}")
    return checkpoint["step"], checkpoint["wandb_run_id"]


def draw_batch(step: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return one step's data: the same whether or not the job was requeued before it."""
    rank = dist.get_rank() if dist.is_initialized() else 0
    generator = torch.Generator().manual_seed(1000 * step + rank)
    inputs = torch.randn(BATCH_SIZE, 8, generator=generator)
    return inputs.to(device), inputs.sum(dim=1, keepdim=True).to(device)


def exit_code(reason: str | None) -> int:
    """Return what tells the batch script, by the reason to stop, whether to requeue the job."""
    if reason in ("SIGUSR1", "time_limit"):
        return REQUEUE_ME
    return PREEMPTED if reason == "SIGTERM" else 0


def train(args: argparse.Namespace, device: torch.device) -> None:
    """Train to the end, or until asked to stop: then save, and leave with a code that says so."""
    torch.manual_seed(0)
    model: nn.Module = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1)).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    first_step, run_id = load_checkpoint(args.checkpoint, model, optimizer, device)
    network = DistributedDataParallel(model) if dist.is_initialized() else model

    tracker = ExperimentTracker(
        project="fasttrack-examples",
        config=vars(args),
        tags={"model": "mlp", "dataset": "sums", "objective": "mse", "experiment_group": "requeue"},
        resume_id=run_id,
        log_interval=args.log_interval,
        # Slurm kills what is left KillWait seconds (30 by default) after SIGTERM. What is not
        # delivered by then is safe in the journal, and the next attempt delivers it.
        options=Options(finish_timeout_s=15),
    )

    def state(step: int) -> dict[str, Any]:
        return {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "step": step,
            "wandb_run_id": tracker.get_run_id(),
        }

    with tracker:
        tracker.should_stop()  # listens from here on: compiling the first step may take long
        for step in range(first_step, args.steps):
            inputs, targets = draw_batch(step, device)
            loss = mse_loss(network(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            tracker.log_training_step(loss, step, BATCH_SIZE, optimizer, model)
            time.sleep(args.step_s)  # stands for a real model's step
            stop, done = tracker.should_stop(), step + 1 == args.steps
            if stop or done or (step + 1) % args.save_interval == 0:
                save_checkpoint(args.checkpoint, state(step + 1))
            if stop and not done:
                code = exit_code(tracker.stop_reason())
                print(f"{tracker.stop_reason()}: saved step {step + 1}, leaving with {code}")
                tracker.finish(code, preempting=code != 0)
                sys.exit(code)
    print(f"trained {args.steps} steps")


def main() -> None:
    """Join the other ranks if there are any, and train."""
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        train(parse_args(), device)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


if __name__ == "__main__":
    main()
