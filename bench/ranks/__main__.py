"""What `Options(ranks="all")` costs each rank beside a run of its own: paired blocks.

`python -m bench.ranks [--quick] [--ranks N] [--pairs N] [--steps N]`

Every rank is a process with a gloo group, and logs every step of about 1 ms, by turns into a run of
its own (`ranks="main"`, `log_rank` its own) and into one that all ranks share. blocks.py says how
it is measured. More ranks than cores measure the machine's lack of them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

from torch._C._distributed_c10d import TCPStore

from bench.lib.arguments import make_parser
from bench.lib.isolation import private_home
from bench.lib.measure import describe_machine, machine, median_interval, table
from bench.ranks.blocks import KINDS, measure, medians_us, ratios

_ROOT = Path(__file__).parents[2]
_ANSWER_S = 1800.0
_HEADINGS = ("rank", "of", "call p50, us", "worker CPU, us a step", "ranks' thread, us a step")


def child(rank: int, ranks: int, port: int, pairs: int, steps: int) -> None:
    """Be one rank; print what was measured."""
    import torch.distributed as dist

    store = TCPStore("127.0.0.1", port, None, False, wait_for_workers=False)
    dist.init_process_group(
        "gloo", store=store, rank=rank, world_size=ranks, timeout=timedelta(seconds=_ANSWER_S)
    )
    found = measure(rank, pairs, steps)
    dist.barrier()
    rows = [[kind, *medians_us(found, kind)] for kind in KINDS]
    print(json.dumps({"rows": rows, "ratios": ratios(found)}), flush=True)
    os._exit(0)  # gloo's end is not the matter here


def measure_all(ranks: int, pairs: int, steps: int) -> list[dict[str, Any]]:
    """Return what each rank has measured, all of them at the same time."""
    server = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(_ROOT)}
    numbers = [str(number) for number in (ranks, server.port, pairs, steps)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "bench.ranks", "--child", str(rank), *numbers],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(ranks)
    ]
    try:
        return [
            json.loads(each.communicate(timeout=_ANSWER_S)[0].splitlines()[-1])
            for each in processes
        ]
    finally:
        for each in processes:
            each.kill()
            each.communicate()


def main() -> None:
    """Measure and print."""
    parser = make_parser("bench.ranks", __doc__)
    parser.add_argument("--quick", action="store_true", help="seconds; shows that it runs, no more")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=60, help="of blocks")
    parser.add_argument("--steps", type=int, default=300, help="in a block")
    parser.add_argument("--child", nargs=5, type=int, help="for its own use")
    arguments = parser.parse_args()
    if arguments.child is not None:
        child(*arguments.child)
    pairs, steps = (3, 100) if arguments.quick else (arguments.pairs, arguments.steps)
    details = machine()
    with private_home():
        told = measure_all(arguments.ranks, pairs, steps)
    print(f"{describe_machine(details)}; {pairs} pairs of {steps} steps\n")
    rows = [
        [str(rank), kind, *(f"{value:.2f}" for value in values)]
        for rank, each in enumerate(told)
        for kind, *values in each["rows"]
    ]
    print(table(_HEADINGS, rows), end="\n\n")
    lines = []
    for rank, each in enumerate(told):
        shown = [
            f"{m:.2f} [{low:.2f}, {high:.2f}]"
            for m, low, high in map(median_interval, each["ratios"].values())
        ]
        lines.append([str(rank), *shown])
    print(table(("all / main, rank", "call", "worker CPU", "both threads' CPU"), lines))


if __name__ == "__main__":
    main()
