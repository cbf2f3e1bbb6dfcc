"""Train a small CNN on scikit-learn's handwritten digits, tracked, checkpointed and resumable.

    pip install "fasttrack[examples]"
    python examples/digits.py                       # a few seconds on a CPU
    python examples/digits.py --epochs 8 --resume   # goes on, in the same W&B run

Copy it and replace `load_data` and `build_model`. What concerns the tracker is in `main` and
`train`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from fasttrack import ExperimentTracker

try:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split
except ModuleNotFoundError as error:
    if __name__ != "__main__":
        raise
    sys.exit(f"digits.py needs scikit-learn: pip install 'fasttrack[examples]' ({error})")


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the options given in `arguments`; None: on the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--epochs", type=int, default=5, help="in all, also when resuming")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=3e-3, help="of the first epoch")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log-interval", type=int, default=10, help="steps between logged rows")
    parser.add_argument("--checkpoint-dir", type=Path, default=Path("checkpoints"))
    parser.add_argument("--resume", action="store_true", help="from the newest checkpoint, if any")
    parser.add_argument("--mode", choices=("online", "offline", "disabled"))
    return parser.parse_args(arguments)


def load_data() -> tuple[TensorDataset, TensorDataset]:
    """Return 1437 training and 360 test images (1 x 8 x 8, from 0 to 1) with their labels."""
    digits = load_digits()
    images = torch.tensor(digits.images / 16, dtype=torch.float32).unsqueeze(1)
    labels = torch.tensor(digits.target)
    train, test = train_test_split(
        range(len(labels)), test_size=0.2, random_state=0, stratify=digits.target
    )
    return TensorDataset(images[train], labels[train]), TensorDataset(images[test], labels[test])


def build_model() -> nn.Module:
    """Return a CNN with two convolutions, about 10,000 weights."""
    return nn.Sequential(
        nn.Conv2d(1, 16, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, kernel_size=3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, 10),
    )


@torch.no_grad()
def evaluate(model: nn.Module, loader: DataLoader[Any], device: torch.device) -> dict[str, float]:
    """Return accuracy and mean loss over `loader`, named as the tracker shall log them."""
    model.eval()
    outputs = torch.cat([model(images.to(device)) for images, _ in loader])
    labels = torch.cat([labels.to(device) for _, labels in loader])
    accuracy = (outputs.argmax(dim=1) == labels).float().mean()
    return {"eval/accuracy": accuracy.item(), "eval/loss": cross_entropy(outputs, labels).item()}


def save_checkpoint(path: Path, checkpoint: dict[str, Any]) -> None:
    """Write `checkpoint` to `path` so that a job killed in the middle leaves no half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".tmp")
    torch.save(checkpoint, scratch)
    scratch.replace(path)


def load_newest_checkpoint(directory: Path) -> dict[str, Any] | None:
    """Return the checkpoint in `directory` that was written last, or None."""
    paths = list(directory.glob("epoch-*.pt"))
    if not paths:
        return None
    newest = max(paths, key=lambda path: path.stat().st_mtime_ns)
    print(f"resuming from {newest}")
    checkpoint: dict[str, Any] = torch.load(newest, map_location="cpu", weights_only=True)
    return checkpoint


def train(
    args: argparse.Namespace, tracker: ExperimentTracker, checkpoint: dict[str, Any] | None
) -> None:
    """Train, evaluate and save a checkpoint after every epoch, track all of it."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.deterministic = True
    torch.manual_seed(args.seed)
    train_set, test_set = load_data()
    train_loader = DataLoader(train_set, batch_size=args.batch_size, shuffle=True)
    test_loader = DataLoader(test_set, batch_size=256)
    model = build_model().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.8)

    first_epoch, step = 0, 0
    if checkpoint is not None:
        model.load_state_dict(checkpoint["model"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        scheduler.load_state_dict(checkpoint["scheduler"])
        first_epoch, step = checkpoint["epoch"], checkpoint["step"]

    for epoch in range(first_epoch, args.epochs):
        # Seeded by epoch, a resumed run draws the batches that an unbroken one would have.
        torch.manual_seed(args.seed + epoch)
        model.train()
        for images, labels in train_loader:
            images, labels = images.to(device), labels.to(device)
            loss = cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            # Every step, before the gradients are zeroed. The loss stays a tensor: loss.item()
            # would make this loop wait for the GPU.
            tracker.log_training_step(
                loss=loss, step=step, batch_size=len(labels), optimizer=optimizer, model=model
            )
            step += 1
        scheduler.step()

        metrics = evaluate(model, test_loader, device)
        tracker.log_metrics(metrics, step=step)  # after `step` steps
        print(f"epoch {epoch + 1}/{args.epochs}: accuracy {metrics['eval/accuracy']:.4f}")
        save_checkpoint(
            args.checkpoint_dir / f"epoch-{epoch + 1:04d}.pt",
            {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "scheduler": scheduler.state_dict(),
                "epoch": epoch + 1,
                "step": step,
                "wandb_run_id": tracker.get_run_id(),
            },
        )


def main(arguments: list[str] | None = None) -> None:
    """Train one run, or go on with the one that the newest checkpoint belongs to."""
    args = parse_args(arguments)
    checkpoint = load_newest_checkpoint(args.checkpoint_dir) if args.resume else None
    # As a context manager the tracker finishes the run however the block is left; an exception
    # marks it as failed. The run id out of the checkpoint continues that run; None begins one.
    with ExperimentTracker(
        project="fasttrack-examples",
        config=vars(args),
        tags={"model": "cnn", "dataset": "digits", "objective": "ce", "experiment_group": "demo"},
        resume_id=checkpoint["wandb_run_id"] if checkpoint is not None else None,
        mode=args.mode,
        log_interval=args.log_interval,
    ) as tracker:
        train(args, tracker, checkpoint)

    if tracker.get_run_dir() is not None:  # None: tracking is disabled
        print(f"run {tracker.get_run_id()}, journal in {tracker.get_run_dir()}")
    if tracker.get_run_url() is not None:
        print(f"view it at {tracker.get_run_url()}")


if __name__ == "__main__":
    main()
