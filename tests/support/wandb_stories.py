"""What training scripts do with W&B, each story for any module that has its client's names.

As a program it tells the stories it is asked for: `python wandb_stories.py MODULE STORY...`.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
import wave
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Callable

STORIES: dict[str, Callable[[Any], None]] = {}


def story(tell: Callable[[Any], None]) -> Callable[[Any], None]:
    """Add a function to the stories, under its name."""
    STORIES[tell.__name__] = tell
    return tell


@story
def pretraining(wandb: Any) -> None:
    """As nanoGPT does: one call with everything now and then, the step among the metrics."""
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    settings = {"batch_size": 8, "learning_rate": 0.1, "device": "cpu", "compile": False}
    wandb.init(project="owt", name="mini-gpt", config=settings, id="pretraining")
    for iteration in range(40):
        loss = model(torch.randn(8, 4)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if iteration % 10 == 0:
            losses = {"train": loss.detach(), "val": loss.item() * 2}
            wandb.log(
                {
                    "iter": iteration,
                    "train/loss": losses["train"],
                    "val/loss": losses["val"],
                    "lr": optimizer.param_groups[0]["lr"],
                    "mfu": -100.0,
                }
            )
    wandb.finish()


@story
def explicit_steps(wandb: Any) -> None:
    """Steps given: two calls for one, gaps, a step that goes back, a value logged twice."""
    run = wandb.init(project="owt", id="explicit_steps", tags=["baseline", "lr:high"], notes="try")
    for step in (0, 1, 5, 6, 100):
        run.log({"train/loss": 1 / (step + 1), "epoch": step // 2}, step=step)
        run.log({"train/grad_norm": np.float32(step) / 3, "epoch": step}, step=step)
    run.log({"late": 1.0}, step=50)
    run.log({"eval/accuracy": 0.5}, step=100, commit=True)
    run.log({"late": 2.0}, step=100)
    run.log({"after": 1})
    run.log({"open": 3}, step=200)
    run.finish()


@story
def committing(wandb: Any) -> None:
    """Rows put together by hand, and one that is open at the end."""
    with wandb.init(project="owt", id="committing") as run:
        for number in range(5):
            wandb.log({"generator": number}, commit=False)
            wandb.log({"discriminator": number * 0.5, "generator": number + 10}, commit=False)
            wandb.log({"step_time": 0.125})
        assert run.step == 5
        wandb.log({"given": 1}, step=7)
        wandb.log({"not_given": 2})
        wandb.log({"given": 3}, step=9, commit=True)
        wandb.log({"given": 4}, step=9)
        wandb.log({"last": 5}, commit=False)


@story
def values(wandb: Any) -> None:
    """All kinds of values, and mappings in mappings."""
    run = wandb.init(project="owt", id="values", job_type="probe")
    run.log(
        {
            "float": 0.1,
            "int": 3,
            "true": True,
            "none": None,
            "text": "word",
            "list": [1, 2],
            "numpy": {"float32": np.float32(0.1), "int64": np.int64(7), "bool": np.bool_(False)},
            "array": np.array([1.5]),
            "tensor": torch.tensor(0.1),
            "one": torch.tensor([2.5]),
            "bfloat16": torch.tensor(0.1, dtype=torch.bfloat16),
            "graph": torch.tensor(2.0, requires_grad=True) * 2,
            "nan": float("nan"),
            "infinite": torch.tensor(-float("inf")),
        }
    )
    running = torch.zeros(())
    for number in range(3):
        running += number
        run.log({"running": running, "val": {"loss": number, "top": {1: 0.5}}}, commit=False)
        running.zero_()
        run.log({"val": {"accuracy": 0.25}})
    run.finish()


@story
def media(wandb: Any) -> None:
    """What is no number, beside numbers in the rows of its steps."""
    generator = np.random.default_rng(0)
    run = wandb.init(project="owt", id="media")
    sound = Path(run.dir, "beep.wav")
    with wave.open(str(sound), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(800))
    for step in range(3):
        pictures = generator.integers(0, 256, (3, 8, 8, 3), np.uint8)
        weights = generator.normal(size=1000)
        run.log(
            {
                "loss": 1.0 / (step + 1),
                "picture": wandb.Image(pictures[0], caption="first"),
                "examples": [wandb.Image(pictures[1]), wandb.Image(pictures[2])],
                "weights": wandb.Histogram(weights),
                "counted": wandb.Histogram(np_histogram=np.histogram(weights, bins=5)),
                "table": wandb.Table(columns=["a", "b"], data=[[1, "x"], [2, "y"]]),
                "sound": wandb.Audio(str(sound), caption="beep"),
                "page": wandb.Html(f"<p>{step}</p>", inject=False),
            }
        )
    run.finish()


@story
def axes_and_summary(wandb: Any) -> None:
    """x axes and aggregates defined, the summary set by hand, before and after it is logged."""
    run = wandb.init(project="owt", id="axes_and_summary")
    run.define_metric("epoch")
    run.define_metric("val/*", step_metric="epoch")
    run.define_metric("val/accuracy", step_metric="epoch", summary="max,min")
    wandb.define_metric("train/loss", summary="mean")
    run.summary["best"] = 0.0
    run.summary["overwritten"] = 100
    for epoch in range(3):
        for _ in range(2):
            run.log({"train/loss": epoch + 1})
        run.log({"epoch": epoch, "val/loss": 1 / (epoch + 1)})
        run.log({"val/accuracy": [0.5, 0.75, 0.25][epoch]})
    run.log({"overwritten": 7})
    run.summary.update({"best": 0.75, "nested": {"deep": 1}})
    wandb.run.summary["lr_at_end"] = torch.tensor(0.5)
    wandb.summary["word"] = "done"
    run.log({"val/loss": 0.125, "plain": 1})
    run.summary["plain"] = 50
    assert run.summary["best"] == 0.75
    run.finish()


@story
def configuration(wandb: Any) -> None:
    """Configured by a namespace, and by attribute, item and update later on."""
    options = argparse.Namespace(lr=0.1, layers=2, optimizer={"name": "adam", "betas": (0.9, 0.99)})
    run = wandb.init(project="owt", id="configuration", config=options)
    config = wandb.config
    assert (config.lr, config["layers"], config.get("missing", 5)) == (0.1, 2, 5)
    config.update({"lr": 0.2, "parameters": 11_000}, allow_val_change=True)
    config.seed = 0
    run.config["precision"] = np.float32(0.5)
    wandb.config["dash-ed"] = None
    assert "seed" in config
    assert dict(run.config)["parameters"] == 11_000
    run.name = "renamed"
    run.log({"a": 1})
    run.finish()


@story
def resumed(wandb: Any) -> None:
    """A run that goes on under its id, in two attempts."""
    run = wandb.init(project="owt", id="resumed", resume="allow")
    for step in range(4):
        run.log({"loss": step}, step=step)
    run.finish()
    ended_s = int(time.time())
    while int(time.time()) == ended_s:  # the client names directories by the second, and would
        time.sleep(0.01)  # write the second attempt over the first
    run = wandb.init(project="owt", id="resumed", resume="allow", reinit=True)
    for step in range(4, 8):
        run.log({"loss": step}, step=step)
    run.finish()


if __name__ == "__main__":
    client = importlib.import_module(sys.argv[1])
    for name in sys.argv[2:]:
        STORIES[name](client)
