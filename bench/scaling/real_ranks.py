"""Real ranks: gloo processes that train in step, their trackers, and the store of torch's own.

Each counts with its own clocks; what is the recording one's is read off its journal.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import TCPStore

from bench.lib.processes import ROOT, end
from fasttrack import ExperimentTracker, Options

_STEP_S = 0.02
_WIDTH = 50
_ANSWER_S = 600.0


def be_rank(rank: int, ranks: int, port: int, seconds: int) -> None:
    """Be one rank; print what was measured."""
    torch.set_num_threads(1)
    store = TCPStore("127.0.0.1", port, None, False, wait_for_workers=False)
    patience = timedelta(seconds=_ANSWER_S)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks, timeout=patience)
    options = Options(ranks="all", backends=("none",), console=False)
    tracker = ExperimentTracker("bench", mode="offline", log_interval=1, options=options)
    clock = _clock_of("fasttrack-ranks")
    counted = _count_reading(tracker) if rank == 0 else [0, 0]
    token, logged_s = torch.zeros(1), []
    dist.barrier()
    began_s, before_s, before = time.monotonic(), time.clock_gettime(clock), list(counted)
    for step in range(round(seconds / _STEP_S)):
        time.sleep(_STEP_S)
        dist.all_reduce(token)
        tracker.log_training_step(1.0 + rank, step, 1)
        logged_s.append(time.time())
    took_s = time.monotonic() - began_s
    cpu_s = time.clock_gettime(clock) - before_s
    told: dict[str, Any] = {
        "logged_s": logged_s[_WIDTH - 1 :: _WIDTH],
        "cpu_s": cpu_s / took_s,
        "messages": (counted[0] - before[0]) / took_s,
        "bytes": (counted[1] - before[1]) / took_s,
    }
    run_dir = tracker.get_run_dir()
    tracker.finish()
    told["written_s"] = {} if run_dir is None else _written_s(run_dir)
    dist.barrier()
    print(json.dumps(told), flush=True)
    os._exit(0)  # gloo's end is not the matter here


def _clock_of(name: str) -> int:
    thread = next(thread for thread in threading.enumerate() if thread.name == name)
    return time.pthread_getcpuclockid(thread.ident or 0)


def _count_reading(tracker: ExperimentTracker) -> list[int]:
    """Return the number of messages that were read so far and of their bytes, kept up to date."""
    member: Any = tracker._engine._member  # type: ignore[union-attr]
    until_s = time.monotonic() + _ANSWER_S
    while member._inbox is None and time.monotonic() < until_s:
        time.sleep(0.01)
    read, counted = member._inbox.read, [0, 0]

    def counting() -> Any:
        found = read()
        counted[0] += len(found)
        counted[1] += sum(len(text) for _, text in found)
        return found

    member._inbox.read = counting
    return counted


def _written_s(run_dir: Path) -> dict[int, float]:
    """Return, by the newest step of a window, when its row was written."""
    rows = [json.loads(line) for line in (run_dir / "segment-0001.jsonl").open("rb")]
    return {
        int(row["values"]["ranks/step"]): row["time"]
        for row in rows
        if row["kind"] == "row" and "ranks/step" in row["values"]
    }


def measure_real(ranks: int, seconds: int) -> dict[str, Any]:
    """Return what `ranks` real ranks cost the recording one, and each other one's thread."""
    server = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    numbers = [str(number) for number in (ranks, server.port, seconds)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "bench.scaling", "--child", str(rank), *numbers],
            env={**environment, "RANK": str(rank), "WORLD_SIZE": str(ranks)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(ranks)
    ]
    try:
        told = [
            json.loads(each.communicate(timeout=_ANSWER_S)[0].splitlines()[-1])
            for each in processes
        ]
    finally:
        for each in processes:
            end(each)
            each.communicate()
    return _sum_up(told)


def _sum_up(told: list[dict[str, Any]]) -> dict[str, Any]:
    written_s = {int(step): at_s for step, at_s in told[0]["written_s"].items()}
    ends_s = [max(ends) for ends in zip(*(each["logged_s"] for each in told), strict=True)]
    steps = [_WIDTH * (number + 1) - 1 for number in range(len(ends_s))]
    delays_s = [
        written_s[step] - end_s
        for step, end_s in list(zip(steps, ends_s, strict=True))[:-1]  # the last one ends early
        if step in written_s
    ]
    return {
        "messages": told[0]["messages"],
        "bytes": told[0]["bytes"],
        "cpu_s": told[0]["cpu_s"],
        "others_cpu_s": median(each["cpu_s"] for each in told[1:]),
        "delay_s": median(delays_s),
        "delay_most_s": max(delays_s),
        "windows": len(delays_s),
    }
