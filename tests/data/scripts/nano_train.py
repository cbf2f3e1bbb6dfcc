"""A training script of the usual kind, with W&B as an option; one line of it was changed."""

import math
import os
import sys

import torch

log_interval = 5
eval_interval = 20
max_iters = int(sys.argv[1]) if len(sys.argv) > 1 else 60
wandb_log = True
wandb_project = "shakespeare-char"
wandb_run_name = "mini-gpt"
out_dir = "out"
config = {"max_iters": max_iters, "log_interval": log_interval, "learning_rate": 1e-2}

os.makedirs(out_dir, exist_ok=True)
torch.manual_seed(1337)
model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.GELU(), torch.nn.Linear(16, 8))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)


def get_batch():
    x = torch.randn(32, 8)
    return x, x.roll(1, dims=1)


@torch.no_grad()
def estimate_loss():
    out = {}
    model.eval()
    for split in ("train", "val"):
        losses = torch.zeros(4)
        for k in range(4):
            x, y = get_batch()
            losses[k] = torch.nn.functional.mse_loss(model(x), y).item()
        out[split] = losses.mean()
    model.train()
    return out


def get_lr(it):
    return 1e-3 + 0.5 * (1.0 + math.cos(math.pi * it / max_iters)) * 9e-3


if wandb_log:
    import fasttrack.wandb as wandb

    wandb.init(project=wandb_project, name=wandb_run_name, config=config)
    wandb.watch(model)

best_val_loss = 1e9
for iter_num in range(max_iters + 1):
    lr = get_lr(iter_num)
    for group in optimizer.param_groups:
        group["lr"] = lr
    if iter_num % eval_interval == 0:
        losses = estimate_loss()
        if wandb_log:
            wandb.log(
                {
                    "iter": iter_num,
                    "train/loss": losses["train"],
                    "val/loss": losses["val"],
                    "lr": lr,
                }
            )
        if losses["val"] < best_val_loss:
            best_val_loss = losses["val"]
            wandb.run.summary["best_val_loss"] = best_val_loss
            torch.save(model.state_dict(), os.path.join(out_dir, "ckpt.pt"))
            wandb.save(os.path.join(out_dir, "ckpt.pt"))
    x, y = get_batch()
    loss = torch.nn.functional.mse_loss(model(x), y)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    if iter_num % log_interval == 0 and wandb_log:
        wandb.log({"loss": loss, "iter": iter_num}, step=None)
    if iter_num == int(os.environ.get("KILL_AT", "-1")):
        wandb.run.tracker.flush()
        print("killed", wandb.run.id, flush=True)
        os.kill(os.getpid(), 9)
    if iter_num == int(os.environ.get("RAISE_AT", "-1")):
        raise RuntimeError("CUDA out of memory")
print("done", wandb.run.id)
