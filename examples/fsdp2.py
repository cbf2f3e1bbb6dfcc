"""Train on several processes with FSDP2: parameters, gradients and optimizer state are sharded.

    torchrun --standalone --nproc_per_node=2 examples/fsdp2.py

Every rank makes a tracker and the same calls. No rank holds the whole gradients: their norm, and
the loss over all batches, are reduced by `tracker.reduce`, on every rank; rank 0's tracker records.
"""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from fasttrack import ExperimentTracker

EPOCHS = 4
BATCH_SIZE = 32  # of one rank
LOG_INTERVAL = 5
TEST_SET = 360  # images


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


def train(device: torch.device) -> None:
    """Train and track; the process group is up."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    train_set, test_set = load_data()
    sampler: DistributedSampler[TensorDataset] = DistributedSampler(train_set, seed=0)
    loader = DataLoader(train_set, batch_size=BATCH_SIZE, sampler=sampler, drop_last=True)
    images_here, labels_here = (part.to(device) for part in test_set[rank::ranks])
    model = build_model(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    accuracy, step = torch.tensor(0.0), 0
    with ExperimentTracker(
        project="fasttrack-examples",
        config={"epochs": EPOCHS, "batch_size": BATCH_SIZE, "ranks": ranks},
        tags={"model": "mlp", "dataset": "digits", "objective": "ce", "experiment_group": "fsdp2"},
        log_interval=LOG_INTERVAL,
    ) as tracker:
        for epoch in range(EPOCHS):
            sampler.set_epoch(epoch)
            for images, labels in loader:
                loss = cross_entropy(model(images.to(device)), labels.to(device))
                optimizer.zero_grad()
                loss.backward()
                norm = nn.utils.clip_grad_norm_(model.parameters(), max_norm=5.0)
                optimizer.step()
                if step % LOG_INTERVAL == 0:  # on every rank alike: these are collectives
                    loss, norm = tracker.reduce(loss), tracker.reduce(norm)
                tracker.log_training_step(
                    loss, step, len(labels), optimizer=optimizer, grad_norm=norm
                )
                step += 1
            with torch.no_grad():
                right = (model(images_here).argmax(dim=1) == labels_here).sum()
            accuracy = tracker.reduce(right, "sum") / TEST_SET
            tracker.log_metrics({"eval/accuracy": accuracy}, step=step)
    print(f"rank {rank} of {ranks}: accuracy {accuracy.item():.4f}")


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
