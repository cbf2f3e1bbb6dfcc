"""What the hardware of many nodes costs the run: `python -m bench.nodes [--nodes N] [--seconds S]`.

One process writes the files of N nodes of eight GPUs, with the sampler's own code and made-up
readings; another records a run of short steps and takes them in. Nodes are sampled more often than
by default, so that the cost of one sample is told from noise; it does not depend on how often. CPU
is that of the threads that take them in, the worker's and the one that reads the files, less that
of the same run without nodes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from bench.lib.arguments import make_parser
from bench.lib.processes import ROOT

_GPUS = 8
_INTERVAL_S = 4.0
_FIGURES = {
    "utilization": 97.0,
    "memory_used_gb": 71.25,
    "temperature": 63.0,
    "power_w": 655.125,
    "clock_sm_mhz": 1755.0,
    "clock_memory_mhz": 2619.0,
    "throttled_power": 1,
    "throttled_thermal": 0,
    "ecc_corrected": 0,
    "ecc_uncorrected": 0,
    "pcie_recv_mb_s": 1024.5,
    "pcie_sent_mb_s": 980.125,
    "nvlink_recv_mb_s": 151_220.375,
    "nvlink_sent_mb_s": 151_180.5,
}


class MadeUpGpus:
    """Stands for NVML."""

    reason = None

    def facts(self) -> list[dict[str, Any]]:
        return [{"uuid": f"GPU-{n}", "name": "none", "memory_gb": 80.0} for n in range(_GPUS)]

    def sample(self) -> list[dict[str, float]]:
        noise = random.random
        moved = {name: round(value * (0.9 + 0.1 * noise()), 3) for name, value in _FIGURES.items()}
        return [moved] * _GPUS

    def close(self) -> None:
        pass


def write_files(segment: str, nodes: int) -> None:
    """Be all nodes, until standard input ends; they begin evenly over the interval."""
    from fasttrack.journal.run_directory import node_path
    from fasttrack.nodes.files import NodeFile
    from fasttrack.nodes.sampling import NodeSampler

    made = []
    for number in range(nodes):
        sampler: Any = NodeSampler(f"node{number:04d}", gpus=MadeUpGpus())  # type: ignore[arg-type]
        path = node_path(Path(segment), sampler.node)
        made.append((sampler, NodeFile(path, sampler.first_line(_INTERVAL_S))))
        sampler.sample()  # the first has no rates
    os.set_blocking(0, False)
    turn = 0
    began_s = time.monotonic()
    while sys.stdin.buffer.raw.read(1) != b"":  # type: ignore[union-attr]
        sampler, file = made[turn % nodes]
        file.add(sampler.sample().as_line())
        turn += 1
        time.sleep(max(0.0, began_s + turn * _INTERVAL_S / nodes - time.monotonic()))


def record(nodes: int, seconds: float, base: str) -> dict[str, float]:
    """Record a run and return what it cost; without nodes where there are none."""
    os.environ.update(RANK="0", WORLD_SIZE=str(8 * max(nodes, 1)), LOCAL_RANK="7")
    os.environ.update(GROUP_WORLD_SIZE=str(max(nodes, 1)), LOCAL_WORLD_SIZE="8")
    from fasttrack import ExperimentTracker, Options

    options = Options(
        directory=base,
        backends=("none",),
        console=False,
        nodes="all" if nodes else "main",
        nodes_interval_s=_INTERVAL_S / max(1.0, nodes / 15),
    )
    tracker = ExperimentTracker("bench", options=options)
    run_dir = tracker.get_run_dir()
    assert run_dir is not None
    writer = None
    if nodes:
        command = [
            sys.executable,
            "-m",
            "bench.nodes",
            "--files",
            str(run_dir / "segment-0001.jsonl"),
        ]
        writer = subprocess.Popen(
            [*command, "--nodes", str(nodes)], stdin=subprocess.PIPE, cwd=ROOT
        )
    began_s = time.monotonic()
    step = 0
    while time.monotonic() < began_s + seconds:
        tracker.log_training_step(0.5, step)
        step += 1
        time.sleep(0.005)
    took_s = time.monotonic() - began_s
    cpu_s = tracker.stats().worker_cpu_pct / 100 * took_s
    for thread in threading.enumerate():
        if thread.name == "fasttrack-node" and thread.ident is not None:
            cpu_s += time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
    if writer is not None:
        writer.communicate(timeout=60)
    tracker.finish()
    return {"seconds": took_s, "cpu_s": cpu_s, **sizes(run_dir)}


def sizes(run_dir: Path) -> dict[str, float]:
    """What a run has of nodes' samples."""
    rows = [json.loads(line) for line in (run_dir / "segment-0001.jsonl").open("rb")]
    told = [row for row in rows if row["kind"] == "row" and is_node(row["values"])]
    ages_s = sorted(
        value for row in told for name, value in row["values"].items() if name.endswith("/age_s")
    )
    in_files = sum(path.stat().st_size for path in run_dir.glob("node-*"))
    return {
        "samples": len(told),
        "metrics": len(told[-1]["values"]) if told else 0,
        "journal_bytes": sum(len(json.dumps(row, separators=(",", ":"))) + 1 for row in told),
        "file_bytes": in_files,
        "age_p50_s": ages_s[len(ages_s) // 2] if ages_s else 0.0,
        "age_max_s": ages_s[-1] if ages_s else 0.0,
    }


def is_node(values: dict[str, float]) -> bool:
    """Whether a row is a node's."""
    return next(iter(values)).startswith("host/")


def run_apart(nodes: int, seconds: float) -> dict[str, float]:
    """Return what `record` does, of a process of its own."""
    with tempfile.TemporaryDirectory() as base:
        command = [sys.executable, "-m", "bench.nodes", "--record", base, "--nodes", str(nodes)]
        command += ["--seconds", str(seconds)]
        printed = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT
        ).stdout
    return dict(json.loads(printed.splitlines()[-1]))


def main() -> None:
    """Measure by turns, and print."""
    parser = make_parser("bench.nodes", __doc__)
    parser.add_argument("--nodes", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--files", help=argparse.SUPPRESS)
    parser.add_argument("--record", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.files:
        write_files(given.files, given.nodes)
        return
    if given.record:
        print(json.dumps(record(given.nodes, given.seconds, given.record)))
        return
    interval_s = 15.0 * max(1.0, given.nodes / 15)
    for _ in range(given.rounds):
        without, found = (run_apart(nodes, given.seconds) for nodes in (0, given.nodes))
        samples = found["samples"]
        cpu_s = found["cpu_s"] - without["cpu_s"] * found["seconds"] / without["seconds"]
        hourly = given.nodes * 3600 / interval_s
        each_ms = 1e3 * cpu_s / samples
        print(
            f"{given.nodes} nodes: {samples:.0f} samples of {found['metrics']:.0f} metrics; "
            f"{each_ms:.2f} ms of CPU each, {each_ms * hourly / 3600:.2f} ms/s at the default "
            f"interval ({interval_s:g} s), beside training's own "
            f"{1e3 * without['cpu_s'] / without['seconds']:.2f} ms/s; "
            f"journal {found['journal_bytes'] / samples:.0f} bytes each, "
            f"{found['journal_bytes'] / samples * hourly / 2**20:.1f} MiB/h; files "
            f"{found['file_bytes'] / samples:.0f} each, "
            f"{found['file_bytes'] / samples * hourly / 2**20:.1f} MiB/h in all; age p50 "
            f"{found['age_p50_s']:.2f} s, most {found['age_max_s']:.2f} s of {_INTERVAL_S:g}"
        )


if __name__ == "__main__":
    main()
