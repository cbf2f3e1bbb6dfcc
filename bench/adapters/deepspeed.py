"""DeepSpeed: our monitor before its WandbMonitor, which it hands all on to, in one training."""

from __future__ import annotations

import os
from pathlib import Path

import deepspeed
import deepspeed.ops
import torch
import wandb

from bench.adapters.calls import Line, timed, usual_us
from bench.lib.workload import Workload
from fasttrack import ExperimentTracker, Options
from fasttrack.integrations.deepspeed import log_monitor

_BATCH = 32


def measure(steps: int, quick: bool) -> list[Line]:
    """Return what each costs."""
    os.environ["LOCAL_RANK"] = "0"
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # would be compiled
    deepspeed.init_distributed(
        dist_backend="gloo",
        auto_mpi_discovery=False,
        init_method=f"file://{Path.home()}/store",
        rank=0,
        world_size=1,
    )
    model = Workload().model
    config = {
        "train_micro_batch_size_per_gpu": _BATCH,
        "optimizer": {"type": "AdamW", "params": {"torch_adam": True}},
        "wandb": {"enabled": True},
    }
    engine, *_ = deepspeed.initialize(
        model=model, model_parameters=model.parameters(), config=config
    )
    master = engine.monitor
    with ExperimentTracker(options=Options(wait_for_delivery="finish")) as tracker:
        log_monitor(engine, tracker)
        both = timed(engine.monitor, "write_events")["write_events"]
        handed_on = timed(master, "write_events")["write_events"]
        theirs = timed(master.wandb_monitor, "write_events")["write_events"]
        for _ in range(steps):
            inputs, targets = torch.randn(_BATCH, 64), torch.randn(_BATCH, 64)
            engine.backward(torch.nn.functional.mse_loss(engine(inputs), targets))
            engine.step()
    wandb.finish()
    torch.distributed.destroy_process_group()
    ours = [whole - rest for whole, rest in zip(both, handed_on, strict=True)]
    return [
        Line("DeepSpeed's monitor, one event, `write_events`", [usual_us(ours)], [usual_us(theirs)])
    ]
