"""`python -m bench.against`: its two builds, its processes by turns, its table."""

from __future__ import annotations

import json
import os
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from support.trackers import Trackers

from bench.against.__main__ import main
from bench.against.builds import builds, checked_out, git
from bench.against.internals import idle_worker, worker_cpu_s
from bench.against.results import NO_LIMIT, Figure, Limit, Results
from bench.against.session import LongBlocks
from bench.against.short import add_overhead
from bench.lib.processes import ROOT, busy_process, call_in_new_process, descendants
from bench.lib.served import Served
from bench.lib.trackers import known_options
from bench.lib.turns import in_turns
from bench.overhead.blocks import Block

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

needs_history = pytest.mark.skipif(
    not (ROOT / ".git").exists(), reason="this is no checkout: there is no other build"
)


@pytest.fixture
def make() -> Iterator[Trackers]:
    """Give a maker of trackers that keep their journal only."""
    trackers = Trackers()
    yield trackers
    trackers.finish()


def figure_of(*rounds: list[tuple[float, float]], limit: Limit = NO_LIMIT) -> Figure:
    """Return a figure with these rounds of pairs."""
    figure = Figure("us", limit)
    figure.rounds = list(rounds)
    return figure


# --- figures -------------------------------------------------------------------------------------


def test_a_ratio_is_of_neighbours_differences() -> None:
    """A machine that becomes slower from pair to pair does not make the new build slower."""
    figure = figure_of([(10.0, 5.0), (20.0, 15.0), (40.0, 35.0)])

    assert figure.ratio() == (0.75, 0.75, 0.75)
    assert (figure.median(0), figure.median(1)) == (20.0, 15.0)


def test_a_round_in_which_the_old_build_cost_nothing_has_no_ratio() -> None:
    """Its noise is not divided by noise; the other rounds count."""
    figure = figure_of([(-1.0, 2.0)], [(4.0, 2.0)])

    assert figure.ratio() == (0.5, 0.5, 0.5)
    assert figure_of([(0.0, 1.0)]).cells("t", to_reference=True)[3:5] == ["-", "-"]


@pytest.mark.parametrize(
    ("limit", "to_reference", "met"),
    [
        (Limit(0.5), True, True),
        (Limit(0.4), True, False),
        (Limit(0.4), False, None),
        (Limit(new=5.0), False, True),
        (Limit(new=4.9), False, False),
        (Limit(0.5, 4.9), True, False),
        (Limit(0.5, 5.0), True, True),
        (NO_LIMIT, True, None),
    ],
)
def test_limits_are_held_against_the_ratio_and_the_new_build(
    limit: Limit, to_reference: bool, met: bool | None
) -> None:
    """Both where there are both; those of a ratio only where the old build is the reference."""
    assert figure_of([(10.0, 5.0)], limit=limit).met(to_reference=to_reference) is met


def test_a_ratio_that_is_not_known_meets_no_limit() -> None:
    """What cannot be judged is not passed."""
    assert figure_of([(0.0, 0.0)], limit=Limit(0.5)).met(to_reference=True) is False


def test_the_old_build_stays_old_where_the_new_one_came_first() -> None:
    """Every second round has the builds the other way round."""
    results = Results()
    results.add("t", "us", [(10.0, 5.0)], Limit(0.6))
    results.new_first = True
    results.add("t", "us", [(5.0, 10.0)], Limit(0.6))

    (row,) = results.rows(to_reference=True)

    assert row == ["t", "10.00 us", "5.00 us", "0.500", "0.500 to 0.500", "<= 0.6x old", "yes"]
    assert results.verdict(to_reference=True) == "1 of 1 limits are met."
    assert results.as_json()["figures"]["t"]["rounds"] == [[(10.0, 5.0)], [(10.0, 5.0)]]


def test_paired_overhead_is_the_callers_part_and_the_workers() -> None:
    """By the clock, and by CPU time; shares of the own step without logging."""
    results = Results()
    without = Block(wall_s=1e-3, caller_cpu_s=0.5e-3, process_cpu_s=0.5e-3)
    old = Block(wall_s=1.02e-3, caller_cpu_s=0.51e-3, process_cpu_s=0.51e-3)
    new = Block(wall_s=1.01e-3, caller_cpu_s=0.505e-3, process_cpu_s=0.505e-3)
    turns = [[[(logged, without)] * 2] * 4 for logged in (old, new)]

    add_overhead(results, "1 ms step", turns, [10e-6, 5e-6], NO_LIMIT)

    shares = [
        (figure.median(0), figure.median(1))
        for name, figure in results.figures.items()
        if "paired overhead" in name
    ]
    assert shares == [pytest.approx((0.03, 0.015)), pytest.approx((0.04, 0.02))]


# --- turns, processes, builds --------------------------------------------------------------------


def test_neither_side_always_has_the_first_turn() -> None:
    """Pairs stay in the sides' order all the same."""
    order: list[int] = []

    def measure(side: int) -> int:
        order.append(side)
        return side

    assert in_turns(3, measure) == [(0, 1)] * 3
    assert order == [0, 1, 1, 0, 0, 1]


@pytest.fixture
def served() -> Iterator[Served]:
    """Give a counter in a process of its own."""
    process = Served(Counter, ["a", "b", "a"], path=ROOT)
    yield process
    process.close()


def test_an_object_in_another_process_answers_calls(served: Served) -> None:
    """It stays the same from call to call; a call that fails says how."""
    assert served.call("pop", "b") == 1
    assert served.call("most_common") == [["a", 2]]
    with pytest.raises(RuntimeError, match="no attribute 'nonsense'"):
        served.call("nonsense")


def test_a_busy_process_is_there_for_as_long_as_it_is_asked_for() -> None:
    """And not longer, whatever happens meanwhile."""
    before = set(descendants(os.getpid()))

    def broken() -> None:
        with busy_process():
            assert len(set(descendants(os.getpid())) - before) == 1
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken()

    assert set(descendants(os.getpid())) <= before


def test_a_process_that_has_another_build_than_asked_for_is_refused(tmp_path: Path) -> None:
    """What is installed would be measured otherwise, beside itself."""
    (tmp_path / "bench").symlink_to(ROOT / "bench")

    with pytest.raises(RuntimeError, match="was imported, not that of"):
        call_in_new_process(known_options, path=tmp_path)


def test_a_commits_worktree_is_gone_after_an_interruption(tmp_path: Path) -> None:
    """It holds that commit's files for as long as it is there."""
    git(tmp_path, "init", "--quiet")
    for text in ("old", "new"):
        (tmp_path / "file").write_text(text)
        git(tmp_path, "add", "file")
        author = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        git(tmp_path, *author, "commit", "--quiet", "-m", text)

    trees = []

    def interrupted() -> None:
        with checked_out("HEAD~1", tmp_path) as tree:
            trees.append(tree)
            assert (tree / "file").read_text() == "old"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()

    assert [tree.exists() for tree in trees] == [False]
    assert git(tmp_path, "worktree", "list").count("\n") == 0
    with pytest.raises(RuntimeError), checked_out("nobody", tmp_path):
        pass


@needs_history
def test_each_build_is_the_one_that_is_imported() -> None:
    """The package of its commit, and this tree's bench."""
    with builds("HEAD") as (old, new):
        for build in (old, new):
            assert (build.path / "bench").resolve() == ROOT / "bench"
        assert (new.path / "fasttrack").resolve() == ROOT / "fasttrack"
        assert (old.path / "fasttrack").resolve() != ROOT / "fasttrack"
        assert (old.path / "fasttrack" / "__init__.py").exists()


# --- what the processes do -----------------------------------------------------------------------


def test_an_idle_worker_writes_nothing_and_then_goes_on(make: Trackers) -> None:
    """What the caller pushes meanwhile is thrown away, and the next row is written."""
    tracker = make()
    tracker.log_metrics({"a": 1.0}, 0)
    tracker.flush()
    before_s = worker_cpu_s()

    with idle_worker():
        tracker.log_metrics({"a": 1.0}, 1)
    tracker.log_metrics({"a": 1.0}, 2)
    tracker.flush()

    assert tracker.stats().rows_written == 2
    assert worker_cpu_s() > before_s


def test_long_blocks_of_every_kind_leave_nothing_behind() -> None:
    """Real delivery, stopped and running in turn; closing checks that every row has arrived."""
    process = Served(LongBlocks, path=ROOT)
    try:
        process.call("open", "metrics", "0.1")
        blocks = {
            kind: process.call("block", kind, 0.05, 0.01) for kind in ("caller", "running", "none")
        }
        process.call("close")
    finally:
        process.close()

    assert all(len(block["step_us"]) > 1 for block in blocks.values())


# --- python -m bench.against ---------------------------------------------------------------------


@needs_history
def test_it_measures_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two builds of the same commit, tiny."""
    main(["HEAD", "--quick", "--only", "imports", "--output", str(tmp_path)])

    printed = capsys.readouterr().out
    written = json.loads((tmp_path / "against.json").read_text())
    assert written["failures"] == []
    assert len(written["figures"]) == 4
    for name, figure in written["figures"].items():
        assert f"| {name} |" in printed
        assert [len(pairs) for pairs in figure["rounds"]] == [2]
    assert (tmp_path / "against.md").read_text().count("|") == printed.count("|")


@needs_history
def test_an_unknown_revision_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is measured, with git's own words."""
    with pytest.raises(SystemExit):
        main(["no-such-revision"])

    assert "Needed a single revision" in capsys.readouterr().err
