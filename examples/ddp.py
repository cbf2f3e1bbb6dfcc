"""Train on several processes with DistributedDataParallel: every rank runs the same lines.

    torchrun --standalone --nproc_per_node=2 examples/ddp.py

Every rank makes a tracker and logs to it, only rank 0's records: there is no `if rank == 0` here.
"""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from fasttrack import ExperimentTracker

EPOCHS = 6
BATCH_SIZE = 32  # of one rank


def load_data() -> tuple[TensorDataset, TensorDataset]:
    """Return 1437 training and 360 test images (1 x 8 x 8, from 0 to 1) with their labels."""
    digits = load_digits()
    images = torch.tensor(digits.images / 16, dtype=torch.float32).unsqueeze(1)
    labels = torch.tensor(digits.target)
    train, test = train_test_split(
        range(len(labels)), test_size=0.2, random_state=0, stratify=digits.target
    )
    return TensorDataset(images[train], labels[train]), TensorDataset(images[test], labels[test])


@torch.no_grad()
def evaluate(model: nn.Module, test_set: TensorDataset, device: torch.device) -> float:
    """Return the accuracy over the whole test set; each rank counts its share."""
    images, labels = test_set[dist.get_rank() :: dist.get_world_size()]
    right = model(images.to(device)).argmax(dim=1) == labels.to(device)
    correct = right.sum()
    dist.all_reduce(correct)
    return float(correct.item()) / len(test_set)


def train(device: torch.device) -> None:
    """Train and track; the process group is up."""
    torch.manual_seed(0)
    train_set, test_set = load_data()
    sampler: DistributedSampler[TensorDataset] = DistributedSampler(train_set, seed=0)
    loader = DataLoader(train_set, batch_size=BATCH_SIZE, sampler=sampler, drop_last=True)
    network = nn.Sequential(
        nn.Conv2d(1, 16, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, kernel_size=3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, 10),
    ).to(device)
    model = DistributedDataParallel(
        network, device_ids=[device.index] if device.type == "cuda" else None
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    accuracy, step = 0.0, 0
    with ExperimentTracker(
        project="fasttrack-examples",
        config={"epochs": EPOCHS, "batch_size": BATCH_SIZE, "ranks": dist.get_world_size()},
        tags={"model": "cnn", "dataset": "digits", "objective": "ce", "experiment_group": "ddp"},
        resume_id="auto",  # a job that is started again goes on in its run
        log_interval=5,
    ) as tracker:
        for epoch in range(EPOCHS):
            sampler.set_epoch(epoch)
            for images, labels in loader:
                loss = cross_entropy(model(images.to(device)), labels.to(device))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                # batch_size is this rank's; perf/samples_per_sec is that of all ranks together.
                # loss is this rank's; the gradients, and so train/grad_norm, are all ranks' mean.
                tracker.log_training_step(
                    loss=loss, step=step, batch_size=len(labels), optimizer=optimizer, model=model
                )
                step += 1
            accuracy = evaluate(network, test_set, device)
            tracker.log_metrics({"eval/accuracy": accuracy}, step=step)
    print(f"rank {dist.get_rank()} of {dist.get_world_size()}: accuracy {accuracy:.4f}")


def main() -> None:
    """Join the other ranks, train, and leave them in good order."""
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        train(device)
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
