"""The watch reads a growing journal by itself, goes on where another left off, and sees the end."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.journals import make_header

from fasttrack.alerts.judge import Finding, Judge
from fasttrack.alerts.settings import AlertSettings
from fasttrack.delivery.alerting.standing import Standing
from fasttrack.delivery.alerting.watch import AlertWatch
from fasttrack.journal.entries import Finish, Pausing, encode
from fasttrack.journal.reader import SegmentReader
from fasttrack.journal.rows import Row, encode_row
from fasttrack.journal.run_directory import alerts_state_path, segments
from fasttrack.journal.shared_reads import Piece, SharedReads
from fasttrack.journal.trouble import AskedAlert, RanksStanding
from fasttrack.journal.writer import SegmentWriter


class Run:
    """A run whose journal is written by hand, and its watch."""

    def __init__(self, directory: Path) -> None:
        """Begin the first attempt."""
        self.directory = directory
        self.alive = True
        self.standing = Standing()
        self.found: list[tuple[str, int]] = []
        self.settings: dict[str, Any] = {}
        self.now_s = 0.0
        self.reads = SharedReads(lambda: self.now_s)
        self._open: list[AlertWatch | SegmentWriter] = []
        self.begin()

    def begin(self) -> None:
        """Begin an attempt."""
        self._seq, self.alive = 0, True
        self.writer = SegmentWriter(self.directory, make_header(self.directory.name))
        self._open.append(self.writer)

    def log(self, *losses: float, first_step: int = 0) -> None:
        """Log a row for each loss."""
        for step, loss in enumerate(losses, first_step):
            self.writer.append([encode_row(self._seq, step, 1e6 + step, {"loss/total": loss})])
            self._seq += 1

    def watch(self) -> AlertWatch:
        """Return a watch, as a new process makes one."""
        watch = AlertWatch(
            segments(self.directory),
            Judge(AlertSettings(**self.settings)),
            trainer_alive=lambda: self.alive,
            found=self._note,
            look=lambda: self.standing,
            reads=self.reads,
        )
        self._open.append(watch)
        return watch

    def close(self) -> None:
        """Close all files."""
        for each in self._open:
            each.close()

    def _note(self, finding: Finding, attempt: int) -> None:
        self.found.append((finding.key, attempt))


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """A run."""
    made = Run(tmp_path / "r1")
    yield made
    made.close()


def test_rows_are_judged_as_they_come_and_the_end_as_it_is(run: Run) -> None:
    """A torn line waits for its rest."""
    watch = run.watch()
    run.log(1.0, math.nan)
    assert watch.run_once(0.25) is False
    assert run.found == [("non_finite:loss/total:1", 1)]
    run.log(1.0, first_step=2)
    run.writer.append([encode(Finish(exit_code=3, time_s=5.0))])

    assert watch.run_once(0.25) is True
    assert run.found[1:] == [("crash:1", 1)]
    assert watch.wait(0) is True


def test_what_the_program_asks_for_is_found_once_by_every_watch(run: Run) -> None:
    """In its place among the rows; one of the same title at another time is another."""
    asked = AskedAlert(title="half way", text="of it", step=1, time_s=7.5)
    run.log(math.nan)
    run.writer.append([encode(asked), encode(replace(asked, time_s=8.0))])
    run.log(math.inf, first_step=2)
    first: list[tuple[str, int]] = []
    second: list[tuple[str, int]] = []
    for found in (first, second):
        run.found = found
        alerts_state_path(run.directory).unlink(missing_ok=True)
        run.watch().run_once(0.25)

    assert first == second
    assert [key for key, _ in first[:3]] == [
        "non_finite:loss/total:0",
        "asked:half way:1 7.5",
        "asked:half way:1 8.0",
    ]


def test_what_a_courier_reads_is_not_read_twice(run: Run) -> None:
    """It is taken as it was read: here, the courier has read something else."""
    watch = run.watch()
    courier = SegmentReader(segments(run.directory)[-1], shared=run.reads)
    run.log(1.0, 1.0)
    assert len(courier.read()) == 3
    piece = run.reads.starting_at(courier.path, 0)
    assert piece is not None
    piece.entries.append(Row(2, 2, 1e6, {"loss/total": math.nan}))
    watch.run_once(0.25)
    assert run.found == [("non_finite:loss/total:2", 1)]

    run.log(math.inf, first_step=3)
    assert watch.run_once(0.25) is False
    assert len(run.found) == 1
    assert len(courier.read()) == 1
    watch.run_once(0.25)
    assert len(run.found) == 1  # an episode is told of once
    courier.close()


def test_a_courier_that_stays_away_is_not_waited_for(run: Run) -> None:
    """Nor is any at the end, where somebody waits for what is still to be judged."""
    watch = run.watch()
    courier = SegmentReader(segments(run.directory)[-1], shared=run.reads)
    run.log(1.0)
    courier.read()
    courier.close()
    run.log(math.nan, first_step=1)
    run.now_s = 1.9
    watch.run_once(0.25)
    assert run.found == []
    run.now_s = 2.0
    watch.run_once(0.25)
    assert run.found == [("non_finite:loss/total:1", 1)]

    run.now_s = 0.5
    run.writer.append([encode(Finish(exit_code=3))])
    assert watch.run_once(0.25) is False
    assert watch.wait(0) is False
    assert watch.run_once(0.25) is True
    assert run.found[1:] == [("crash:1", 1)]


def test_couriers_that_read_elsewhere_do_not_keep_it_from_reading(run: Run) -> None:
    """One that began before its place is in other pieces; one that is behind may be so for long."""
    first = run.watch()
    run.log(1.0)
    first.run_once(0.25)
    first._save()  # amid what a courier of the next delivery process reads in one piece
    run.log(1.0, first_step=1)
    courier = SegmentReader(segments(run.directory)[-1], shared=run.reads)
    courier.read()
    watch = run.watch()
    run.log(math.nan, first_step=2)
    for step in (3, 4):
        run.now_s += 0.5
        run.log(1.0, first_step=step)
        courier.read()
        watch.run_once(0.25)
    assert run.found == [("non_finite:loss/total:2", 1)]
    courier.close()

    run.log(*[1.0] * 60, math.inf, first_step=100)  # news again
    behind = Piece(run.directory / "segment-0000.jsonl", 0, 1, [], 1, 0, [], may_have_more=False)
    for _ in range(8):
        assert len(run.found) == 1
        run.now_s += 0.25
        run.reads.note(behind)
        watch.run_once(0.25)
    watch.run_once(0.25)
    assert len(run.found) == 2


def test_a_trainer_that_is_gone_without_a_word_has_crashed(run: Run) -> None:
    """What it left is judged first."""
    watch = run.watch()
    run.log(math.inf)
    run.alive = False

    assert watch.run_once(0.25) is True
    assert run.found == [("non_finite:loss/total:0", 1), ("crash:1", 1)]


def test_the_next_process_goes_on_behind_the_row_that_was_judged_last(run: Run) -> None:
    """It reads no row twice, and what is told again has its key."""
    run.log(*[1.0] * 60, math.nan)
    run.watch().run_once(0.25)
    run.log(*[50.0] * 5, first_step=61)
    run.watch().run_once(0.25)

    assert run.found == [("non_finite:loss/total:60", 1), ("spike:loss/total:63", 1)]
    alerts_state_path(run.directory).write_text("{damaged")
    run.found.clear()
    run.watch().run_once(0.25)
    assert run.found == [("non_finite:loss/total:60", 1), ("spike:loss/total:63", 1)]


def test_an_attempt_that_died_with_its_delivery_is_told_of_by_the_next(run: Run) -> None:
    """And its rows that nobody judged."""
    run.log(1.0, math.nan)
    run.watch().run_once(0.25)
    run.log(*[1.0] * 60, math.nan, first_step=2)
    run.begin()
    run.log(1.0, first_step=63)
    watch = run.watch()
    run.alive = False

    assert watch.run_once(0.25) is False
    assert watch.run_once(0.25) is True
    assert run.found[1:] == [("non_finite:loss/total:62", 1), ("crash:1", 1), ("crash:2", 2)]


def test_a_run_that_was_never_watched_is_watched_from_its_newest_attempt_on(run: Run) -> None:
    """What is long past is no news."""
    run.log(math.nan)
    run.begin()
    run.log(1.0, first_step=1)
    run.watch().run_once(0.25)

    assert run.found == []


def test_a_marked_pause_is_no_stall(run: Run) -> None:
    """The journal says when it begins and ends."""
    run.settings = {"stall": 1.0}
    watch = run.watch()
    run.log(*[1.0] * 12)
    run.writer.append([encode(Pausing(True, 1e6))])
    for _ in range(100):
        watch.run_once(1.0)
    assert run.found == []
    run.writer.append([encode(Pausing(False, 1e6))])
    for _ in range(4):
        watch.run_once(1.0)

    assert run.found == [("stall:1:12", 1)]


def test_a_process_that_stands_still_is_told_of(run: Run) -> None:
    """As it looks from outside."""
    watch = run.watch()
    run.standing = Standing(stopped=True)
    for _ in range(12):
        watch.run_once(1.0)

    assert run.found == [("hung:1:0", 1)]


def test_a_disk_that_is_full_costs_no_alert(run: Run) -> None:
    """Where it was is written down once there is room."""
    scratch = alerts_state_path(run.directory).with_suffix(".tmp")
    scratch.mkdir()
    watch = run.watch()
    run.log(math.nan)
    watch.run_once(0.25)
    assert run.found == [("non_finite:loss/total:0", 1)]
    assert not alerts_state_path(run.directory).exists()
    scratch.rmdir()
    run.alive = False
    watch.run_once(0.25)

    assert alerts_state_path(run.directory).exists()


def test_what_is_told_of_ranks_is_told_once_by_whatever_process(run: Run) -> None:
    """With the last step before it; a process that goes on there knows it."""
    slow = RanksStanding(stragglers={"rank 2 (n7)": "it is slow"})
    watch = run.watch()
    run.log(1.0, 1.0)
    run.writer.append([encode(slow)])
    watch.run_once(0.25)
    assert run.found == [("straggler:rank 2 (n7)", 1)]
    watch._save()

    run.writer.append([encode(RanksStanding(missing=("rank 1",), missing_ranks=1)), encode(slow)])
    run.watch().run_once(0.25)

    assert run.found[1:] == [("missing:1 rank 1", 1)]
