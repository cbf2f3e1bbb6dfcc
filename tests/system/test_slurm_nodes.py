"""The hardware of all nodes of a real Slurm job, two emulated ones, in its run.

A job that is requeued rests for 5 s before it starts again, which is most of what this takes.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from support.journals import read_rows
from support.runs import QUICK_END, offline_dirs, wait_until, wandb_rows
from support.slurm_cluster import NEEDS_SLURM, SlurmCluster
from support.slurm_site import OVER, PATIENCE_S

pytestmark = NEEDS_SLURM

# No process group: the job's processes meet by a note in the directory that they share.
_TRAIN = """
import os, sys, time
from pathlib import Path
from fasttrack import ExperimentTracker, Options

options = Options(nodes="all", nodes_interval_s=0.3, wait_for_delivery="finish")
tracker = ExperimentTracker(
    mode="offline", log_interval=1, resume_id="auto", options=options
)
step = 0
while not Path(sys.argv[1]).exists():
    tracker.log_training_step(0.5, step)
    step += 1
    time.sleep(0.02)
tracker.finish()
"""


def test_two_nodes_of_a_job_are_in_its_run_also_after_it_was_requeued(tmp_path: Path) -> None:
    """One file for each node and attempt; W&B has the figures of both nodes, each once."""
    script, go = tmp_path / "train.py", tmp_path / "go"
    script.write_text(_TRAIN)
    batch = tmp_path / "job.sbatch"
    batch.write_text(f"#!/bin/bash\nexec srun {sys.executable} {script} {go}\n")
    environment = {k: v for k, v in os.environ.items() if k != "COVERAGE_PROCESS_CONFIG"}
    environment |= {"WANDB_DIR": str(tmp_path), "OMP_NUM_THREADS": "1", "PYTHONPATH": QUICK_END}

    def names(attempt: int) -> set[str]:
        files = tmp_path.glob(f"wandb/fasttrack/*/node-*-{attempt:04d}.jsonl")
        return {path.name.rpartition("-")[0].removeprefix("node-") for path in files}

    def in_run(nodes: set[str], segments: int) -> bool:
        found = list((tmp_path / "wandb" / "fasttrack").glob("[!.]*"))
        if not found or len(list(found[0].glob("segment-*"))) < segments:
            return False
        rows = [row for row in read_rows(found[0]) if row.values.get("nodes/sampled") == 2]
        return len(names(segments)) == 2 and len(rows) > 3 * segments

    with SlurmCluster(nodes=2) as cluster:
        options = ("--nodes=2", "--ntasks-per-node=1", "--requeue", f"--output={tmp_path}/log")
        job_id = cluster.submit(*options, batch, environment=environment, directory=tmp_path)
        wait_until(lambda: in_run(names(1), 1), PATIENCE_S)
        nodes = names(1)
        cluster.command("scontrol", "requeue", job_id)
        wait_until(lambda: in_run(names(2), 2), PATIENCE_S)
        go.touch()
        job = cluster.wait_for_state(job_id, *OVER)

    log = (tmp_path / "log").read_text()
    assert (job["JobState"], job["Restarts"]) == ("COMPLETED", "1"), log
    assert names(2) == nodes
    assert all(node.startswith(cluster.name) for node in nodes)
    assert "nodes:" not in log, log
    (run_dir,) = (tmp_path / "wandb" / "fasttrack").glob("[!.]*")
    assert_that_it_arrived(run_dir, tmp_path, nodes)


def assert_that_it_arrived(run_dir: Path, base: Path, nodes: set[str]) -> None:
    """A file of each node and attempt; all rows are in W&B's files, training's and nodes'."""
    assert len(list(run_dir.glob("segment-*"))) == 2
    for path in run_dir.glob("node-*"):
        first, second, *_ = map(json.loads, path.read_text().splitlines())
        assert (first["kind"], second["kind"], first["interval_s"]) == ("node", "sample", 0.3)
    told = [row for directory in offline_dirs(base) for row in wandb_rows(directory)]
    for node in nodes:
        key = f"host/{node}/memory_used_gb"
        arrived = [row[key] for row in told if key in row]
        assert arrived == [row.values[key] for row in read_rows(run_dir, key)]
        assert len(arrived) > 4
    losses = [row["step"] for row in told if "loss/total" in row]
    assert losses == [row.step for row in read_rows(run_dir, "loss/total")]
