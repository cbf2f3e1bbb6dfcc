"""Does a training loop keep its pace while a checkpoint is uploaded? `python -m bench.checkpoint`.

Rounds of three parts in one process: steps before, `log_checkpoint` of a directory that is rotated
away 50 ms later, and as many steps while it is hashed and uploaded. The call waits for its copy of
the files; with `--wait 0` that is made beside the steps, too. The W&B server is the tests', on this
machine, so that it and the hashing share the CPUs with training: on a cluster only the hashing
does.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import threading
import time
from pathlib import Path
from typing import Any

from bench.lib.arguments import make_parser
from bench.lib.isolation import private_home
from bench.lib.local_server import local_server
from bench.lib.measure import MS, percentile, table, timed_loop
from bench.lib.scalars import LOSS, TAGS
from bench.lib.workload import Workload
from fasttrack import ExperimentTracker, Options

_FILES = 4
_PIECE_BYTES = 2**20
_WARM_UP = 500
_HEADINGS = (
    "round",
    "save, ms",
    "call, ms",
    "p50 before, ms",
    "during",
    "p99 before, ms",
    "during",
    "ratio",
)


def make_checkpoint(root: Path, size_bytes: int) -> None:
    """Make a directory of files without holes, with two symbolic links that lead back."""
    (root / "shards").mkdir(parents=True)
    piece = os.urandom(_PIECE_BYTES)
    for number in range(_FILES):
        with (root / "shards" / f"rank{number}.pt").open("wb") as file:
            file.write(os.urandom(16))
            for _ in range(size_bytes // _FILES // _PIECE_BYTES):
                file.write(piece)
    (root / "loop").symlink_to(".")
    (root / "shards" / "up").symlink_to("..")


def measure(base: Path, size_bytes: int, steps: int, options: Options) -> dict[str, Any]:
    """Do one round; return its figures."""
    workload, checkpoint = Workload(), base / "checkpoint"
    begin = time.perf_counter()
    make_checkpoint(checkpoint, size_bytes)
    save_ms = (time.perf_counter() - begin) * MS

    with ExperimentTracker(
        project="bench", tags=TAGS, mode="online", log_interval=1, options=options
    ) as tracker:

        def step_ms(first_step: int, steps: int) -> list[float]:
            times = timed_loop(
                workload.step,
                lambda scalars, step: tracker.log_training_step(scalars[LOSS], step),
                first_step,
                steps,
            )
            return [seconds * MS for seconds in times.step_s]

        step_ms(0, _WARM_UP)
        before = step_ms(_WARM_UP, steps)
        begin = time.perf_counter()
        tracker.log_checkpoint(checkpoint, force=True)
        call_ms = (time.perf_counter() - begin) * MS
        rotation = threading.Timer(0.05, shutil.rmtree, [checkpoint])
        rotation.start()
        during = step_ms(_WARM_UP + steps, steps)
        rotation.join()
    directory = tracker.get_run_dir()
    assert directory is not None
    assert not (directory / "artifacts").exists(), "not uploaded"
    return {
        "save": save_ms,
        "call": call_ms,
        "ratio": statistics.median(during) / statistics.median(before),
        "before": [percentile(before, q) for q in (50, 99)],
        "during": [percentile(during, q) for q in (50, 99)],
    }


def row(number: int, found: dict[str, Any]) -> list[str]:
    """Return one line of the table."""
    parts = zip(found["before"], found["during"], strict=True)
    figures = [f"{value:.2f}" for part in parts for value in part]
    calls = [f"{found[name]:.1f}" for name in ("save", "call")]
    return [str(number), *calls, *figures, f"{found['ratio']:.2f}"]


def main() -> None:
    """Print a row per round."""
    parser = make_parser("bench.checkpoint", __doc__)
    parser.add_argument("--gib", type=float, default=2.0, help="size of the checkpoint")
    parser.add_argument("--wait", type=float, default=120.0, help="Options.checkpoint_wait_s")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=5000, help="in each part")
    arguments = parser.parse_args()
    options = Options(checkpoint_wait_s=arguments.wait)
    rounds = []
    with local_server() as server:
        for number in range(1, arguments.rounds + 1):
            with private_home() as base:
                os.environ.update(server)
                found = measure(base, int(arguments.gib * 2**30), arguments.steps, options)
            rounds.append(found)
            print(f"round {number}: ratio {found['ratio']:.2f}", file=sys.stderr, flush=True)
    print(table(_HEADINGS, [row(number, found) for number, found in enumerate(rounds, 1)]))
    print(f"\nmedian ratio {statistics.median(found['ratio'] for found in rounds):.2f}")


if __name__ == "__main__":
    main()
