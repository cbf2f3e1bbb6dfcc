"""What torchrun starts in tests: a rank that is asked to stop, and then fails or ends.

    stopped_trainer.py DIRECTORY

It is started twice, each time together with the other agent's rank. Rank 1 has SIGTERM sent to it
in the first start, and SIGUSR1 in the second one. Each rank notes what it saw in `seen`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from fasttrack import ExperimentTracker, Options

_QUIET_CALLS = 25  # of the second start, in which the ranks look at the store twice
_CALL_S = 0.1


def main(directory: Path) -> None:
    """Train until all ranks stop; fail on the first agent's node the first time."""
    agent, start = os.environ["AGENT"], _meet(directory)
    rank = dist.get_rank()
    tracker = ExperimentTracker(
        project="stopped",
        mode="offline",
        options=Options(
            share_run_id=True, stop_signals=("SIGTERM", "SIGUSR1"), wait_for_delivery="finish"
        ),
    )
    run_id = tracker.get_run_id()
    calls = 0
    while not tracker.should_stop():
        calls += 1
        if calls == (_QUIET_CALLS if start else 1) and rank == 1:
            os.kill(os.getpid(), signal.SIGUSR1 if start else signal.SIGTERM)
        time.sleep(_CALL_S)
    noted = {"start": start, "rank": rank, "run_id": run_id, "calls": calls}
    noted |= {"why": tracker.stop_reason(), "count": os.environ["TORCHELASTIC_RESTART_COUNT"]}
    with (directory / "seen").open("a") as file:
        file.write(json.dumps(noted) + "\n")
    _wait_for_all(directory / "seen", start)
    tracker.finish()
    if not start:
        if agent == "first":
            sys.exit("fails")
        time.sleep(60)  # until its agent ends it
        sys.exit("was not started again")
    dist.barrier()
    dist.destroy_process_group()


def _meet(directory: Path) -> int:
    """Initialise the group; return which start this is, from 0.

    What gloo has left in the agents' store is deleted: a group may meet dead ranks with it.
    """
    path = directory / f"starts-{os.environ['AGENT']}"
    start = len(path.read_text().split()) if path.exists() else 0
    store, rank, ranks = next(iter(rendezvous("env://")))
    if rank == 0:
        for key in store.list_keys():
            if key.startswith("default_pg") and "fasttrack" not in key:
                store.delete_key(key)
    with path.open("a") as file:
        file.write(f"{os.getpid()}\n")
    for agent in ("first", "second"):
        _wait_for_lines(directory / f"starts-{agent}", start + 1)
    dist.init_process_group(
        "gloo", store=PrefixStore("default_pg", store), rank=rank, world_size=ranks
    )
    return start


def _wait_for_all(path: Path, start: int) -> None:
    _wait_for_lines(path, 2 * (start + 1))


def _wait_for_lines(path: Path, count: int) -> None:
    while not path.exists() or len(path.read_text().splitlines()) < count:
        time.sleep(0.02)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
