"""Train with DeepSpeed ZeRO stage 0, 1 or 2: tracked, checkpointed, resumable, consolidated.

    pip install "fasttrack[examples,deepspeed]"
    torchrun --standalone --nproc_per_node=2 examples/deepspeed_train.py --stage 2
    torchrun --standalone --nproc_per_node=2 examples/deepspeed_train.py --epochs 8 --resume
    sbatch slurm/train_deepspeed.sbatch  # on a cluster: requeued, it goes on in the same run

Runs on GPUs, and on CPUs without compiling anything. What concerns the tracker is in `train`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import deepspeed
import deepspeed.ops
import torch
import torch.distributed as dist
from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from fasttrack import ExperimentTracker, Options

if TYPE_CHECKING:
    from collections.abc import Iterator

OPTIONS = Options(
    # Up to ZeRO stage 2 DeepSpeed keeps the client state of rank 0 alone, and every rank loads
    # that. With stage 3 or tensor parallelism each rank keeps its own: all need the run's id.
    share_run_id=True,
    ranks="all",  # loss, step time and waits of all ranks, and which of them holds the others up
    nodes="all",  # GPUs and host of every node
    flight_recorder=200,  # the last steps, in a file, where the loss becomes NaN or the job fails
    finish_timeout_s=15,  # below Slurm's KillWait; the next attempt delivers what is left
)


def parse_args() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--stage", type=int, choices=(0, 1, 2), default=2, help="of ZeRO")
    parser.add_argument("--epochs", type=int, default=5, help="in all, also when resuming")
    parser.add_argument("--batch-size", type=int, default=32, help="of one rank")
    parser.add_argument("--checkpoint-dir", type=Path, default=Path("checkpoints"))
    parser.add_argument("--resume", action="store_true", help="from the newest checkpoint, if any")
    parser.add_argument("--local_rank", type=int, help="passed by the `deepspeed` launcher")
    return parser.parse_args()


def deepspeed_config(args: argparse.Namespace) -> dict[str, Any]:
    """Return DeepSpeed's configuration."""
    return {
        "train_micro_batch_size_per_gpu": args.batch_size,
        # torch_adam: DeepSpeed's own Adam would be compiled at its first use
        "optimizer": {"type": "AdamW", "params": {"lr": 3e-3, "torch_adam": True}},
        "scheduler": {
            "type": "WarmupLR",
            "params": {"warmup_max_lr": 3e-3, "warmup_num_steps": 20},
        },
        "zero_optimization": {"stage": args.stage},
    }


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


def batches(loader: DataLoader[Any], first_step: int, epochs: int) -> Iterator[Any]:
    """Yield batches from a step on: the same whether or not the job was requeued before it."""
    sampler: Any = loader.sampler
    for epoch in range(first_step // len(loader), epochs):
        sampler.set_epoch(epoch)
        for step, batch in enumerate(loader, epoch * len(loader)):
            if step >= first_step:
                yield batch


@torch.no_grad()
def evaluate(engine: Any, test_set: TensorDataset) -> float:
    """Return the accuracy over the whole test set; each rank counts its share."""
    images, labels = test_set[dist.get_rank() :: dist.get_world_size()]
    engine.eval()
    right = engine(images.to(engine.device)).argmax(dim=1) == labels.to(engine.device)
    engine.train()
    correct = right.sum()
    dist.all_reduce(correct)
    return float(correct.item()) / len(test_set)


def save_final_model(engine: Any, checkpoint_dir: Path, path: Path) -> None:
    """Write the weights, in float32 and without optimizer state, to one file; on rank 0 only."""
    if dist.get_rank() != 0:
        return
    if engine.zero_optimization_stage() == 0:
        weights = {name: value.cpu() for name, value in engine.module.state_dict().items()}
    else:  # what `python zero_to_fp32.py` does, which DeepSpeed puts beside the checkpoints
        weights = get_fp32_state_dict_from_zero_checkpoint(str(checkpoint_dir))
    torch.save(weights, path)


def leave(tracker: ExperimentTracker) -> NoReturn:
    """End this attempt, with the code that tells the batch script whether to requeue the job."""
    code = {"SIGUSR1": 75, "time_limit": 75, "SIGTERM": 143}.get(str(tracker.stop_reason()), 0)
    print(f"rank {dist.get_rank()}: {tracker.stop_reason()}, leaving with {code}")
    tracker.finish(code, preempting=code != 0)
    sys.exit(code)


def train_step(engine: Any, images: torch.Tensor, labels: torch.Tensor) -> tuple[Any, Any]:
    """Train on one batch; return its loss, and the norm of the gradients if DeepSpeed has none."""
    loss = cross_entropy(engine(images.to(engine.device)), labels.to(engine.device))
    engine.backward(loss)
    grad_norm = None
    if engine.zero_optimization_stage() == 0:  # in float32 DeepSpeed does not compute it
        gradients = [p.grad for p in engine.module.parameters() if p.grad is not None]
        grad_norm = nn.utils.get_total_norm(gradients)
    engine.step()
    return loss, grad_norm


def train(args: argparse.Namespace) -> None:
    """Train to the end, or until asked to stop; evaluate and save after every epoch."""
    torch.manual_seed(0)
    train_set, test_set = load_data()
    sampler: DistributedSampler[TensorDataset] = DistributedSampler(train_set, seed=0)
    loader = DataLoader(train_set, args.batch_size, sampler=sampler, drop_last=True)
    model, config = build_model(), {**vars(args), "deepspeed": deepspeed_config(args)}
    engine, optimizer, _, _ = deepspeed.initialize(
        model=model, model_parameters=model.parameters(), config=config["deepspeed"]
    )

    resume_id = None
    if args.resume:
        path, client_state = engine.load_checkpoint(str(args.checkpoint_dir))
        # A job that is started again may know its run without a checkpoint.
        resume_id = "auto" if path is None else client_state.get("wandb_run_id")

    # Made on every rank, and every rank runs the same lines; only rank 0's records. As a context
    # manager it finishes the run however the block is left; an exception marks it as failed.
    with ExperimentTracker(
        project="fasttrack-examples",
        config=config,
        tags={"model": "cnn", "dataset": "digits", "objective": "ce", "experiment_group": "zero"},
        resume_id=resume_id,
        log_interval=5,
        options=OPTIONS,
    ) as tracker:
        tracker.log_config(config)
        tracker.should_stop()  # listens from here on
        for images, labels in batches(loader, engine.global_steps, args.epochs):
            step = engine.global_steps  # goes on where the checkpoint was made
            loss, grad_norm = train_step(engine, images, labels)
            # batch_size and loss are this rank's; perf/samples_per_sec and train/grad_norm are
            # those of all ranks. The loss stays a tensor: .item() would wait for the GPU.
            tracker.log_training_step(
                loss=loss,
                step=step,
                batch_size=len(labels),
                optimizer=optimizer,
                model=engine,
                grad_norm=grad_norm,
            )
            epoch, rest = divmod(engine.global_steps, len(loader))
            stop = tracker.should_stop()
            if rest == 0:
                with tracker.pause():  # its time is no step's
                    accuracy = evaluate(engine, test_set)
                tracker.log_metrics({"eval/accuracy": accuracy}, step=engine.global_steps)
                print(f"rank {dist.get_rank()}, epoch {epoch}: accuracy {accuracy:.4f}")
            if stop or rest == 0:
                # On all ranks: each writes its shard, and none returns before all are written.
                client_state = {"wandb_run_id": tracker.get_run_id()}
                with tracker.pause():
                    engine.save_checkpoint(str(args.checkpoint_dir), client_state=client_state)
                tracker.log_checkpoint(args.checkpoint_dir, aliases=["latest"])
            if stop and epoch < args.epochs:
                leave(tracker)

        # Uploaded whatever WANDB_LOG_MODEL says: one small file instead of ZeRO's shards.
        final = Path(f"{args.checkpoint_dir}-final.pt")
        save_final_model(engine, args.checkpoint_dir, final)
        tracker.log_checkpoint(final, aliases=["final"], force=True)


def main() -> None:
    """Join the other ranks, train, and leave them in good order."""
    args = parse_args()
    if not torch.cuda.is_available():  # DeepSpeed would compile a C++ extension for nearly a minute
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend="nccl" if torch.cuda.is_available() else "gloo")
    try:
        train(args)
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
