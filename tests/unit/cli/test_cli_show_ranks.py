"""What `fasttrack show` says of all ranks: who is missing, who held the others up, what bounds."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.journals import Line, append, finish, rows_of, windows, write_attempt

from fasttrack.cli.app import cli
from fasttrack.journal.trouble import RanksStanding

_WHERE = "rank 2 (node7, GPU 2: NVIDIA H100, GPU-8d1c)"
_WHAT = "it is at work of its own 74% of the time, the others 4%"


def show(*options: str) -> str:
    """Return what the command prints."""
    done = CliRunner(env={"COLUMNS": "400"}).invoke(cli, ["show", "ab12", *options])
    assert done.exit_code == 0, done.output
    return done.output


def line(name: str) -> str:
    """Return one line of the run's facts; "" where it has none."""
    lines = (each.split(maxsplit=1) for each in show().splitlines())
    return next((each[1].strip() for each in lines if each[0] == name), "")


def test_a_run_of_one_rank_has_no_such_line(tmp_path: Path) -> None:
    """Nor has it a verdict."""
    write_attempt(tmp_path, "ab12", *rows_of({"loss/total": [1.0]}), finish(), world_size=4)

    told = json.loads(show("--json"))

    assert (told["ranks"], told["verdict"], line("ranks"), line("verdict")) == (None, None, "", "")


def test_straggler_is_named_with_its_node_as_long_as_it_is_one(tmp_path: Path) -> None:
    """While the run goes on, once it has recovered, and where the run has ended with it."""
    slow = RanksStanding(stragglers={_WHERE: _WHAT})
    rows: list[Line] = [*windows(range(10), [5.0] * 4, [0.0] * 4), slow]
    path = write_attempt(tmp_path, "ab12", *rows, world_size=4, pid=os.getpid())
    append(path, *windows(range(10, 100), [5.0, 5.0, 80.0, 5.0], [0.0] * 4, straggler=2))
    lasts = f"4 of 4 heard; {_WHERE} holds the others up since step 9: {_WHAT}"
    assert line("ranks") == lasts
    assert line("verdict") == f"waiting for others: 67.5% of the training time for {_WHERE}"

    append(path, RanksStanding(), *windows(range(100, 110), [5.0] * 4, [0.0] * 4))
    over = f"{_WHERE} held the others up from step 9 to 99: {_WHAT}"
    assert line("ranks") == f"4 of 4 heard; {over}"

    append(path, slow, finish())
    to_the_end = f"{_WHERE} held the others up from step 109 to the end: {_WHAT}"
    assert line("ranks") == f"4 of 4 heard; {over}; {to_the_end}"
    (first, second) = json.loads(show("--json"))["ranks"]["stragglers"]
    assert first == {"where": _WHERE, "what": _WHAT, "first_step": 9, "last_step": 99}
    assert second["last_step"] is None


def test_missing_ranks_are_those_of_the_newest_attempt(tmp_path: Path) -> None:
    """What an earlier one missed has been restarted since; its one-offs have been."""
    missing = tuple(f"rank {rank} (node{rank // 8})" for rank in range(8, 24))
    gone = RanksStanding(missing=missing, missing_ranks=100)
    first = windows(range(5), [5.0] * 4, [0.0] * 4, one_off_stragglers=2)
    write_attempt(tmp_path, "ab12", *first, gone, world_size=128)
    assert line("ranks").startswith("28 of 128 heard; missing: rank 8 (node1), rank 9 (node1), ")
    assert line("ranks").endswith("and 92 more; 2 times one was waited for just once")

    again = windows(range(5, 10), [5.0] * 4, [0.0] * 4, missing=3, one_off_stragglers=1)
    write_attempt(tmp_path, "ab12", *again, finish(), world_size=128)

    assert line("ranks") == (
        "128 of 128 heard; 3 tell of no steps; 3 times one was waited for just once"
    )


@pytest.mark.parametrize(
    ("own", "data", "phases", "said"),
    [
        (
            [60.0, 65.0, 70.0, 60.0],
            [40.0, 45.0, 50.0, 45.0],
            {},
            "waiting for data: 45.0% of the training time, in the mean over all ranks; most on "
            "rank 2 (node7, GPU 2: NVIDIA H100, GPU-8d1c): 50.0%",
        ),
        (
            [4.0, 4.0, 74.0, 4.0],
            [0.0, 0.0, 67.0, 0.0],
            {},
            "waiting for others: 70.0% of the training time for rank 2 (node7, GPU 2: NVIDIA H100, "
            "GPU-8d1c), which waits for its data 67.0%",
        ),
        (
            [80.0] * 4,
            [2.0] * 4,
            {},
            "compute-bound: 2.0% of the training time waits for data, no rank holds the others up",
        ),
        (
            [94.0, 4.0, 4.0, 4.0],  # the busiest by chance: it was never named
            [2.0] * 4,
            {"others": 12.0},
            "compute-bound: 2.0% of the training time waits for data, 12.0% for other ranks",
        ),
        (
            [80.0] * 4,  # the data comes from elsewhere than a DataLoader
            [0.0] * 4,
            {"data": 60.0},
            "waiting for data: 60.0% of the training time",
        ),
        (
            [5.0] * 4,
            [1.0] * 4,
            {"others": 30.0},
            "waiting for others: 30.0% of the training time",
        ),
    ],
    ids=range(6),
)
def test_verdict_is_that_of_all_ranks(
    tmp_path: Path, own: list[float], data: list[float], phases: dict[str, float], said: str
) -> None:
    """Where they are told of; the recording one's phases count where they say more."""
    rows: list[Line] = [*windows(range(20), own, data)]
    if phases:
        marked = {f"perf/phase_pct/{name}": [share] for name, share in phases.items()}
        rows += rows_of(marked, first_step=20)
    named = [RanksStanding(stragglers={_WHERE: _WHAT}), RanksStanding()]
    write_attempt(tmp_path, "ab12", *rows, *named, finish(), world_size=4)

    assert line("verdict") == said


def test_rows_of_no_ranks_of_ours_are_passed_over(tmp_path: Path) -> None:
    """Somebody's own metric of that name, and an older run's rows, which say less."""
    strange = rows_of({"ranks/missing": [float("nan"), 0.0], "ranks/step": [float("inf"), 1.0]})
    write_attempt(tmp_path, "ab12", *strange, finish(), world_size=4)

    assert (line("ranks"), line("verdict")) == ("4 of 4 heard", "")
