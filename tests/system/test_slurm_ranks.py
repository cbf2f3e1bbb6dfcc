"""All ranks of a job under a real Slurm: two emulated nodes, two tasks on each, no torchrun."""

from __future__ import annotations

import sys
from pathlib import Path

from support.journals import read_headers, read_rows
from support.runs import program_environment
from support.slurm_cluster import NEEDS_SLURM, SlurmCluster, free_ports

pytestmark = NEEDS_SLURM

_JOB = """#!/bin/bash
#SBATCH --nodes=2 --ntasks-per-node=2 --output=job.out
srun --kill-on-bad-exit=0 {python} train.py
"""
_TRAIN = """
import os, signal, time
import torch
import torch.distributed as dist
from fasttrack.ranks import aggregate, member, straggler
from support.runs import make_tracker
from support.trackers import journal_only

aggregate.SILENT_S = 3.0
member.TELL_EVERY_S, member.LOOK_EVERY_S, straggler._SHORTEST_SPAN_S = 0.25, 1 / 64, 0.2
rank, ranks = int(os.environ["SLURM_PROCID"]), int(os.environ["SLURM_NTASKS"])
torch.set_num_threads(1)
tracker = make_tracker(options=journal_only(ranks="all"), gpu_stats_interval=20)
dist.init_process_group("gloo", rank=rank, world_size=ranks)
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(8, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
over, step, began_s = torch.zeros(1), 0, time.monotonic()
while not over:
    if rank == 3:
        time.sleep(0.03)
    optimizer.zero_grad()
    loss = model(torch.randn(4, 8)).square().mean()
    loss.backward()
    optimizer.step()
    tracker.log_training_step(loss, step, 4)
    step += 1
    if step % 20 == 0:
        named = rank == 0 and tracker._engine._gathered._named is not None
        over[0] = float(named or time.monotonic() - began_s > 60)
        dist.broadcast(over, 0)
store = dist.distributed_c10d._get_default_store()
while not store.check(["over"]):
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    tracker.log_training_step(1.0, step, 4)
    step += 1
    with tracker.pause():  # nobody waits for anybody: no work of one's own to be blamed for
        time.sleep(0.01)
    gone = rank == 0 and tracker._engine._gathered._aggregator._missing
    if gone or time.monotonic() - began_s > 90:
        break
if rank == 0:
    store.set("over", "1")
tracker.finish()
print("rank", rank, "ended", flush=True)
time.sleep(1)  # rank 0 has the store
os._exit(0)
"""


def test_slow_rank_and_lost_rank_of_a_job_are_named_with_their_nodes(tmp_path: Path) -> None:
    """Trackers that are made before the ranks meet, by Slurm's variables; all is told often."""
    (tmp_path / "train.py").write_text(_TRAIN, encoding="utf-8")
    job = tmp_path / "job.sbatch"
    job.write_text(_JOB.format(python=sys.executable), encoding="utf-8")
    environment = program_environment() | {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_ports(1)[0]),
        "WANDB_DIR": str(tmp_path),
    }
    for name in ("RANK", "WORLD_SIZE"):
        environment.pop(name, None)

    with SlurmCluster(nodes=2) as cluster:
        number = cluster.submit(job, environment=environment, directory=tmp_path)
        cluster.wait_for_state(number, "COMPLETED", "FAILED", "CANCELLED", "TIMEOUT")
        node = cluster.name + "n{}"

    log = (tmp_path / "job.out").read_text(encoding="utf-8")
    for rank in (0, 2, 3):
        assert f"rank {rank} ended" in log, log
    assert f"rank 3 ({node.format(2)}) holds the other ranks up" in log, log
    assert log.count("holds the other ranks up") == 1, log
    assert f"nothing was heard of rank 1 ({node.format(1)}) for 3 s" in log, log
    (directory,) = (tmp_path / "wandb" / "fasttrack").iterdir()
    (header,) = read_headers(directory)
    assert header.world_size == 4
    rows = [row.values for row in read_rows(directory) if "ranks/missing" in row.values]
    assert {row["ranks/straggler"] for row in rows if "ranks/straggler" in row} == {3}
    assert rows[0]["ranks/missing"] == 0
    assert any(row["ranks/missing"] == 1 for row in rows)
