"""How quickly are runs read? `python -m bench.reading`.

One run of 1,000,000 rows, of one metric and of five: its last 50 rows after opening, all of it
into Arrow, its summary, a page of it for a browser. Then a picture of 100 runs of 100,000 rows.
Pages and pictures are made by processes of their own, with all that a process takes to start. The
files are in the page cache, as they are while one looks at runs again and again. About 3 minutes,
and 1.5 GB of disk.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from bench.lib.arguments import make_parser
from bench.lib.internals import Finish, encode, encode_row, make_writer, segments
from bench.lib.isolation import private_home
from bench.lib.measure import MS, describe_machine, machine, table
from fasttrack import open_run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_METRICS = ("loss/total", "train/lr", "train/grad_norm", "train/accuracy", "perf/steps_per_sec")
_BLOCK_ROWS = 10_000
_INTERVAL_S = 0.01  # between two rows
_HEADINGS = ("what", "fastest", "median", "unit")


def make_run(directory: Path, rows: int, metrics: int) -> Path:
    """Write a run of noisy curves that come down, with all the digits of doubles.

    Returns:
        Its segment.
    """
    chance = random.Random(0)
    begin_s = time.time()
    writer = make_writer(directory)
    for first in range(0, rows, _BLOCK_ROWS):
        lines = [
            encode_row(
                step,
                step,
                begin_s + step * _INTERVAL_S,
                {
                    name: 2 / (1 + 10 * step / rows) + chance.gauss(0, 0.05)
                    for name in _METRICS[:metrics]
                },
            )
            for step in range(first, min(rows, first + _BLOCK_ROWS))
        ]
        assert writer.append(lines) is None, "the disk is full"
    writer.append([encode(Finish(exit_code=0))])
    writer.close()
    return segments(directory)[0]


def seconds(call: Callable[[], object], rounds: int) -> list[float]:
    """Return how long a call takes, sorted; once more it is called before."""
    call()
    taken = []
    for _ in range(rounds):
        begin = time.perf_counter()
        call()
        taken.append(time.perf_counter() - begin)
    return sorted(taken)


def measure_one(base: Path, rows: int, metrics: int, rounds: int) -> list[list[str]]:
    """Return the lines of the table for a run of so many rows and metrics."""
    name = f"run{metrics}"
    make_run(base / "wandb" / "fasttrack" / name, rows, metrics)
    run = open_run(name, base)
    what = f"{rows:,} rows of {metrics}"
    last_s = seconds(lambda: run.history(last=50).to_arrow(), rounds)
    whole_s = seconds(lambda: run.history().to_arrow(), rounds)
    summary_s = seconds(lambda: run.summary, rounds)
    return [
        line(f"{what}: the last 50 into Arrow", [taken * MS for taken in last_s], "ms"),
        line(f"{what}: all into Arrow", whole_s, "s"),
        line(f"{what}: the summary", summary_s, "s"),
        *measure_page(base, name, what, rounds),
    ]


def measure_page(base: Path, name: str, what: str, rounds: int) -> list[list[str]]:
    """Return the lines of the table for a page of a run: how long it takes, how large it is."""
    page = base / f"{name}.html"
    command = [sys.executable, "-m", "fasttrack", "report", "--dir", str(base), name]
    command += ["-o", str(page)]

    def write() -> None:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    taken_s = seconds(write, rounds)
    size_mb = page.stat().st_size / 1e6
    return [
        line(f"{what}: a page for a browser", taken_s, "s"),
        line(f"{what}: the page's size", [size_mb], "MB"),
    ]


def measure_plot(base: Path, runs: int, rows: int, rounds: int) -> list[list[str]]:
    """Return the lines of the table for a picture of so many runs that have ended."""
    parent = base / "wandb" / "fasttrack"
    segment = make_run(parent / "many000", rows, 1)
    names = [f"many{number:03d}" for number in range(runs)]
    for name in names[1:]:
        (parent / name).mkdir()
        shutil.copy(segment, parent / name)
    command = [sys.executable, "-m", "fasttrack", "plot", "--dir", str(base), *names]
    picture = ["-m", _METRICS[0], "-o", str(base / "runs.png")]

    def plot(*, first: bool) -> None:
        if first:
            shutil.rmtree(base / ".cache" / "fasttrack", ignore_errors=True)
        subprocess.run([*command, *picture], check=True, stdout=subprocess.DEVNULL)

    what = f"a picture of {runs} runs of {rows:,} rows"
    return [
        line(f"{what}, the first time", seconds(lambda: plot(first=True), rounds), "s"),
        line(f"{what}, again", seconds(lambda: plot(first=False), rounds), "s"),
    ]


def line(what: str, taken: list[float], unit: str) -> list[str]:
    """Return a line of the table for sorted readings."""
    return [what, f"{taken[0]:.2f}", f"{taken[len(taken) // 2]:.2f}", unit]


def main() -> None:
    """Print the table."""
    parser = make_parser("bench.reading", __doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the one run")
    parser.add_argument("--runs", type=int, default=100, help="in the picture")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    told = []
    with private_home() as base:
        for metrics in (1, len(_METRICS)):
            told += measure_one(base, arguments.rows, metrics, arguments.rounds)
        told += measure_plot(base, arguments.runs, arguments.rows // 10, arguments.rounds)
    print(f"{table(_HEADINGS, told)}\n\n{describe_machine(machine())}")


if __name__ == "__main__":
    main()
