"""Train on several processes with FSDP2: parameters, gradients and optimizer state are sharded.

    torchrun --standalone --nproc_per_node=2 examples/fsdp2.py
    sbatch slurm/train_fsdp2.sbatch  # on a cluster: requeued, it goes on in the same run

Every rank makes a tracker and the same calls. No rank holds the whole gradients: their norm, and
the loss over all batches, are reduced by `tracker.reduce`, on every rank; rank 0's tracker records,
and tells of all ranks and nodes.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import nn
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from fasttrack import ExperimentTracker, Options

if TYPE_CHECKING:
    from collections.abc import Iterator

BATCH_SIZE = 32  # of one rank
LOG_INTERVAL = 5
TEST_SET = 360  # images
OPTIONS = Options(
    ranks="all",  # loss, step time and waits of all ranks, and which of them holds the others up
    nodes="all",  # GPUs and host of every node
    flight_recorder=200,  # the last steps, in a file, where the loss becomes NaN or the job fails
    finish_timeout_s=15,  # below Slurm's KillWait; the next attempt delivers what is left
)


def parse_args() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--epochs", type=int, default=4, help="in all, also when going on")
    parser.add_argument("--checkpoints", type=Path, help="directory to save to, and to go on from")
    parser.add_argument("--save-interval", type=int, default=200, help="steps between checkpoints")
    return parser.parse_args()


def load_data() -> tuple[TensorDataset, TensorDataset]:
    """Return 1437 training and 360 test images (64 numbers from 0 to 1) with their labels."""
    digits = load_digits()
    images = torch.tensor(digits.data / 16, dtype=torch.float32)
    labels = torch.tensor(digits.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    test, train = order[:TEST_SET], order[TEST_SET:]
    return TensorDataset(images[train], labels[train]), TensorDataset(images[test], labels[test])


def build_model(device: torch.device) -> nn.Module:
    """Return a network whose layers are sharded one by one, and the rest of it together."""
    torch.manual_seed(0)  # the same weights on every rank
    model = nn.Sequential(
        nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)
    ).to(device)
    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer)
    fully_shard(model)
    return model


def batches(loader: DataLoader[Any], first_step: int, steps: int) -> Iterator[tuple[int, Any]]:
    """Yield step and batch: the same whether or not the job was requeued before."""
    sampler: Any = loader.sampler
    for epoch in range(first_step // len(loader), -(-steps // len(loader))):
        sampler.set_epoch(epoch)
        for step, batch in enumerate(loader, epoch * len(loader)):
            if first_step <= step < steps:
                yield step, batch


def save_checkpoint(
    directory: Path, step: int, model: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Write a checkpoint, every rank its shards."""
    weights, moments = get_state_dict(model, optimizer)
    state = {"model": weights, "optimizer": moments}
    state_dict_saver.save(state, checkpoint_id=directory / f"step-{step:08d}")


def load_checkpoint(directory: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Restore from the newest checkpoint, if there is one; return the next step."""
    # What a kill left half written has no .metadata yet.
    complete = [path.parent for path in directory.glob("step-*/.metadata")]
    if not complete:
        return 0
    newest = max(complete)
    weights, moments = get_state_dict(model, optimizer)
    state: dict[str, Any] = {"model": weights, "optimizer": moments}
    state_dict_loader.load(state, checkpoint_id=newest)
    set_state_dict(
        model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"]
    )
    return int(newest.name.removeprefix("step-"))


def leave(tracker: ExperimentTracker, step: int) -> NoReturn:
    """End this attempt, with the code that tells the batch script whether to requeue the job."""
    reason = tracker.stop_reason()
    code = {"SIGUSR1": 75, "time_limit": 75, "SIGTERM": 143}.get(str(reason), 0)
    print(f"rank {dist.get_rank()}: {reason}, leaving with {code} before step {step}")
    tracker.finish(code, preempting=code != 0)
    sys.exit(code)


def train(args: argparse.Namespace, device: torch.device) -> None:
    """Train and track to the end, or until asked to stop; the process group is up."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    train_set, test_set = load_data()
    sampler: DistributedSampler[TensorDataset] = DistributedSampler(train_set, seed=0)
    loader = DataLoader(train_set, batch_size=BATCH_SIZE, sampler=sampler, drop_last=True)
    images_here, labels_here = (part.to(device) for part in test_set[rank::ranks])
    model = build_model(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    first_step = load_checkpoint(args.checkpoints, model, optimizer) if args.checkpoints else 0
    steps = args.epochs * len(loader)

    accuracy = torch.tensor(0.0)
    with ExperimentTracker(
        project="fasttrack-examples",
        config={"epochs": args.epochs, "batch_size": BATCH_SIZE, "ranks": ranks},
        tags={"model": "mlp", "dataset": "digits", "objective": "ce", "experiment_group": "fsdp2"},
        resume_id="auto",  # a job that is started again goes on in its run
        log_interval=LOG_INTERVAL,
        options=OPTIONS,
    ) as tracker:
        tracker.should_stop()  # listens from here on
        for step, (images, labels) in batches(loader, first_step, steps):
            loss = cross_entropy(model(images.to(device)), labels.to(device))
            optimizer.zero_grad()
            loss.backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), max_norm=5.0)
            optimizer.step()
            if step % LOG_INTERVAL == 0:  # on every rank alike: these are collectives
                loss, norm = tracker.reduce(loss), tracker.reduce(norm)
            tracker.log_training_step(loss, step, len(labels), optimizer=optimizer, grad_norm=norm)
            done, stop = step + 1, tracker.should_stop()
            if done % len(loader) == 0:
                with tracker.pause(), torch.no_grad():  # its time is no step's
                    right = (model(images_here).argmax(dim=1) == labels_here).sum()
                    accuracy = tracker.reduce(right, "sum") / TEST_SET
                tracker.log_metrics({"eval/accuracy": accuracy}, step=done)
            if args.checkpoints and (stop or done % args.save_interval == 0):
                with tracker.pause():
                    save_checkpoint(args.checkpoints, done, model, optimizer)
            if stop and done < steps:
                leave(tracker, done)
    print(f"rank {rank} of {ranks}: accuracy {accuracy.item():.4f}")


def main() -> None:
    """Join the other ranks, train, and leave them in good order."""
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        train(parse_args(), device)
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
