"""Does a training loop keep its pace while a checkpoint is uploaded? `python -m bench.checkpoint`.

Rounds of three parts in one process: steps before, `log_checkpoint` of a directory that is rotated
away 50 ms later, and as many steps while it is hashed and uploaded. The W&B server is the tests',
on this machine, so that it and the hashing share the CPUs with training: on a cluster only the
hashing does. Files are sparse; all their bytes are read and sent.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from bench.measure import percentile
from bench.workload import LOSS, Workload
from fasttrack import ExperimentTracker

_SERVER = Path(__file__).parents[1] / "tests" / "wandb_server.py"
_FILES = 4
_WARM_UP = 500


def make_checkpoint(root: Path, size_bytes: int) -> None:
    """Make a directory of sparse files, with two symbolic links that lead back."""
    (root / "shards").mkdir(parents=True)
    for number in range(_FILES):
        with (root / "shards" / f"rank{number}.pt").open("wb") as file:
            file.write(os.urandom(16))
            file.truncate(size_bytes // _FILES)
    (root / "loop").symlink_to(".")
    (root / "shards" / "up").symlink_to("..")


def train(workload: Workload, tracker: ExperimentTracker, first: int, steps: int) -> list[float]:
    """Train and log every step; return the steps' times in ms."""
    times = []
    for step in range(first, first + steps):
        begin = time.perf_counter()
        tracker.log_training_step(workload.step(step)[LOSS], step)
        times.append((time.perf_counter() - begin) * 1e3)
    return times


def measure(base: Path, size_bytes: int, steps: int) -> dict[str, Any]:
    """Do one round; return its figures."""
    workload, checkpoint = Workload(), base / "checkpoint"
    make_checkpoint(checkpoint, size_bytes)
    tags = {"model": "m", "dataset": "d", "objective": "o", "experiment_group": "bench"}
    with ExperimentTracker(project="bench", tags=tags, mode="online", log_interval=1) as tracker:
        train(workload, tracker, 0, _WARM_UP)
        before = train(workload, tracker, _WARM_UP, steps)
        begin = time.perf_counter()
        tracker.log_checkpoint(checkpoint, force=True)
        call_ms = (time.perf_counter() - begin) * 1e3
        rotation = threading.Timer(0.05, shutil.rmtree, [checkpoint])
        rotation.start()
        during = train(workload, tracker, _WARM_UP + steps, steps)
        rotation.join()
    directory = tracker.get_run_dir()
    assert directory is not None
    assert not (directory / "artifacts").exists(), "not uploaded"
    return {
        "call": call_ms,
        "ratio": statistics.median(during) / statistics.median(before),
        "before": [percentile(before, q) for q in (50, 99)],
        "during": [percentile(during, q) for q in (50, 99)],
    }


def main() -> None:
    """Print a row per round."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--gib", type=float, default=2.0, help="size of the checkpoint")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=5000, help="in each part")
    arguments = parser.parse_args()
    command = [sys.executable, str(_SERVER)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        os.environ["WANDB_BASE_URL"] = server.stdout.readline().strip()
        os.environ["WANDB_API_KEY"] = "local" + 40 * "0"
        print("| round | call, ms | p50 before, ms | during | p99 before, ms | during | ratio |")
        print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
        ratios = []
        for number in range(arguments.rounds):
            with tempfile.TemporaryDirectory() as base:
                os.environ["WANDB_DIR"] = base
                found = measure(Path(base), int(arguments.gib * 2**30), arguments.steps)
            ratios.append(found["ratio"])
            parts = [(found["before"][i], found["during"][i]) for i in (0, 1)]
            figures = " | ".join(f"{value:.2f}" for part in parts for value in part)
            print(f"| {number + 1} | {found['call']:.1f} | {figures} | {found['ratio']:.2f} |")
        print(f"\nmedian ratio {statistics.median(ratios):.2f}")
        server.terminate()


if __name__ == "__main__":
    main()
