"""A sweep as a Slurm array: a run for each element, in one group, compared afterwards."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.runs import QUICK_END
from support.slurm_cluster import NEEDS_SLURM, SlurmCluster

from fasttrack.runs.local import LocalRun, find_runs

pytestmark = NEEDS_SLURM

_SCRIPT = Path(__file__).parents[2] / "slurm" / "array_sweep.sbatch"
_TRAIN = """
import argparse, os, sys
from pathlib import Path
from fasttrack import ExperimentTracker, Options

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int)
parser.add_argument("--lr", type=float)
parser.add_argument("--requeue-once", action="store_true")
args = parser.parse_args()
saved = Path(os.environ["CHECKPOINT_DIR"], "step")
first = int(saved.read_text()) if saved.exists() else 0
tracker = ExperimentTracker(
    config=vars(args), resume_id="auto", options=Options(backends="none")
)
for step in range(first, args.steps):
    tracker.log_metrics({"loss": args.lr * step}, step)
    if args.requeue_once and not first and step == 4:
        saved.write_text("5")
        tracker.finish(75, preempting=True)
        sys.exit(75)
tracker.finish()
"""


@pytest.fixture
def cluster() -> Iterator[SlurmCluster]:
    """One node."""
    with SlurmCluster(nodes=1) as running:
        yield running


def test_every_element_is_a_run_of_the_arrays_group(cluster: SlurmCluster, tmp_path: Path) -> None:
    """One leaves early and goes on in its run; one has no settings, and says so."""
    scratch = tmp_path / "scratch"
    (tmp_path / "logs").mkdir()
    (tmp_path / "train.py").write_text(_TRAIN)
    (tmp_path / "sweep.txt").write_text("--lr 0.1\n--lr 0.5 --requeue-once\n")
    environment = {**os.environ, "SCRATCH": str(scratch), "PYTHON": sys.executable}
    environment["PYTHONPATH"] = QUICK_END
    for name in ("WANDB_DIR", "XDG_CACHE_HOME", "OMP_NUM_THREADS"):
        environment.pop(name, None)

    command = ("--array=1-3", _SCRIPT, "sweep.txt", "train.py", "--steps", "10")
    array = cluster.submit(*command, environment=environment, directory=tmp_path)
    ended = {
        number: cluster.wait_for_state(f"{array}_{number}", "COMPLETED", "FAILED")
        for number in (1, 2, 3)
    }

    logs = {n: (tmp_path / "logs" / f"array_sweep_{array}_{n}.out").read_text() for n in ended}
    codes = {n: (job["ExitCode"], job["Restarts"]) for n, job in ended.items()}
    assert codes == {1: ("0:0", "0"), 2: ("0:0", "1"), 3: ("2:0", "0")}, logs
    assert "sweep.txt has no line 3" in logs[3]
    runs = find_runs([f"group:sweep-{array}"], scratch)
    by_rate = {run.header.config["lr"]: run for run in runs if run.header is not None}
    assert sorted(by_rate) == [0.1, 0.5]
    assert len(list((scratch / "wandb" / "fasttrack").glob("[!.]*"))) == 2
    assert _rows(by_rate[0.1]) == [(1, step, 0.1 * step) for step in range(10)]
    assert _rows(by_rate[0.5]) == [(1 + (step > 4), step, 0.5 * step) for step in range(10)]
    told = json.loads(_fasttrack(f"compare group:sweep-{array} --json", scratch))
    assert {run["run_id"] for run in told["runs"]} == {run.run_id for run in runs}
    (rates,) = [one["values"] for one in told["config"] if one["name"] == "lr"]
    assert sorted(rates) == [0.1, 0.5]


def _rows(run: LocalRun) -> list[tuple[int, int, float]]:
    return [(row.attempt, row.step, row.values["loss"]) for row in run.rows()]


def _fasttrack(arguments: str, base: Path) -> str:
    command = [sys.executable, "-m", "fasttrack", *shlex.split(arguments)]
    environment = {**os.environ, "WANDB_DIR": str(base)}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout
