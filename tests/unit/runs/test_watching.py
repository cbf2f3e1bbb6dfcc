"""`Watch`: what is due when, in turn, at most so many at a time, and again after a failure."""

from __future__ import annotations

import os
import shutil
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from support.journals import append, finish, row, write_attempt, write_proofs

from fasttrack.runs.local import candidate_directories
from fasttrack.runs.sync import SyncResult
from fasttrack.runs.watching import Due, Told, Watch, WatchedRun

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ELSEWHERE = "a-node-without-network"


class Desk:
    """A watch whose deliveries wait until the test lets them end, and whose clock it moves."""

    def __init__(self, base: Path, jobs: int) -> None:
        """Watch all runs under `base`."""
        self.now_s = 0.0
        self.told: list[Told] = []
        self.troubles: list[str] = []
        self.reason: str | None = None
        self._gates: dict[str, threading.Event] = {}
        self.pool = ThreadPoolExecutor(jobs)
        self.watch = Watch(
            directories=lambda: sorted(candidate_directories(base)),
            jobs=jobs,
            on_delivery=self.told.append,
            on_trouble=self.troubles.append,
            deliver=self._deliver,
            clock=lambda: self.now_s,
        )

    def _deliver(self, watched: WatchedRun, due: Due, unwanted: Callable[[], bool]) -> SyncResult:
        assert self._gates[watched.run_id].wait(60)
        reason = self.reason
        return SyncResult(
            run_id=watched.run_id,
            directory=str(watched.directory),
            delivered=reason is None,
            busy=reason == "busy",
            rows=1,
            reason=reason,
        )

    def look(self, after_s: float = 0.0) -> list[tuple[str, Due]]:
        """Look once; return what was begun: id, and what was due."""
        self.now_s += after_s
        before = {one.run_id for one in self.watch.runs.values() if one.under_way}
        for name in os.listdir(next(iter(self.watch.directories())).parent):
            if name not in before:
                self._gates[name] = threading.Event()
        self.watch.look(self.pool)
        return [
            (one.run_id, one.due)
            for one in self.watch.runs.values()
            if one.under_way and one.run_id not in before
        ]

    def end(self, *run_ids: str) -> None:
        """Let deliveries end, and take them in."""
        for watched in self.watch.runs.values():
            if watched.run_id in run_ids:
                assert watched.under_way is not None
                self._gates[watched.run_id].set()
                watched.under_way.exception(60)
        self.watch.collect()

    def close(self) -> None:
        """End everything."""
        for gate in self._gates.values():
            gate.set()
        self.pool.shutdown()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """Two deliveries at a time."""
    desk = Desk(tmp_path, jobs=2)
    yield desk
    desk.close()


def begin(base: Path, run_id: str, **header: object) -> Path:
    """Begin a run on another machine, offline unless told otherwise; return its segment."""
    given = {"mode": "offline", "host": ELSEWHERE, **header}
    return write_attempt(base, run_id, row(0, 0, loss=1.0), **given)


def test_rows_are_sent_when_they_have_come(tmp_path: Path, desk: Desk) -> None:
    """Once for each growth, not before the run has had its peace, and whole at its end."""
    segment = begin(tmp_path, "ab")

    assert desk.look() == [("ab", Due.ROWS)]
    desk.end("ab")
    assert desk.look(after_s=60) == []
    append(segment, row(1, 1, loss=0.5))
    assert desk.look() == [("ab", Due.ROWS)]
    desk.end("ab")
    append(segment, row(2, 2, loss=0.5))
    assert desk.look() == []
    assert desk.look(after_s=9) == []
    assert desk.look(after_s=2) == [("ab", Due.ROWS)]
    append(segment, finish())
    desk.end("ab")
    assert desk.look(after_s=11) == [("ab", Due.ALL)]
    desk.end("ab")
    assert desk.look(after_s=3600) == []
    assert [told.all_of_it for told in desk.told] == [False, False, False, True]


def test_runs_that_deliver_themselves_are_left_alone_until_they_are_over(
    tmp_path: Path, desk: Desk
) -> None:
    """Two deliveries at a time would double rows, and a lock may not be seen from elsewhere."""
    segment = begin(tmp_path, "ab", mode="online")

    assert desk.look() == desk.look(after_s=300) == []
    append(segment, finish())
    assert desk.look() == [("ab", Due.ALL)]


def test_a_run_without_a_last_line_is_over_when_nothing_came_for_long(
    tmp_path: Path, desk: Desk
) -> None:
    """Its trainer was killed, on a machine that cannot be asked."""
    begin(tmp_path, "ab")
    desk.look()
    desk.end("ab")

    assert desk.look(after_s=590) == []
    assert desk.look(after_s=20) == [("ab", Due.ALL)]


def test_a_run_whose_process_is_gone_from_here_is_over(tmp_path: Path, desk: Desk) -> None:
    """On this machine it can be asked."""
    begin(tmp_path, "ab", host=socket.gethostname(), pid=2**22 + 1)

    assert desk.look() == [("ab", Due.ALL)]


def test_what_is_delivered_already_and_what_is_for_no_backend_is_not_touched(
    tmp_path: Path, desk: Desk
) -> None:
    """However many old runs lie there."""
    segment = begin(tmp_path, "done")
    append(segment, finish())
    write_proofs(segment.parent, proof="1 rows read back")
    append(begin(tmp_path, "nowhere", backends=()), finish())
    begin(tmp_path, "files", backends=("tensorboard",))

    assert desk.look() == desk.look(after_s=30) == []
    begin(tmp_path, "done")
    assert desk.look(after_s=30) == [("done", Due.ROWS)]


def test_so_many_at_a_time_and_those_that_waited_longest_first(tmp_path: Path, desk: Desk) -> None:
    """Each run's turn comes, however long others take."""
    for number in range(4):
        begin(tmp_path, f"r{number}")

    first = [run_id for run_id, _ in desk.look()]
    assert len(first) == 2
    desk.end(first[0])
    second = [run_id for run_id, _ in desk.look(after_s=1)]
    desk.end(second[0], first[1])
    third = [run_id for run_id, _ in desk.look(after_s=1)]
    assert len({*first, *second, *third}) == 4
    assert desk.look(after_s=1) == []


def test_runs_that_go_on_and_a_heap_of_old_ones_take_turns(tmp_path: Path, desk: Desk) -> None:
    """Neither keeps the other waiting."""
    for number in range(6):
        append(begin(tmp_path, f"old{number}"), finish())
    for number in range(3):
        begin(tmp_path, f"live{number}")

    assert sorted(due.name for _, due in desk.look()) == ["ALL", "ROWS"]


def test_what_failed_is_tried_again_later_and_later(tmp_path: Path, desk: Desk) -> None:
    """And is said once, with when."""
    begin(tmp_path, "ab")
    desk.reason = "the server does not answer"
    desk.look()
    waits = []
    for _ in range(10):
        desk.end("ab")
        waits.append(1)
        while not desk.look(after_s=1):
            waits[-1] += 1

    assert waits == [2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
    assert [told.result.reason for told in desk.told] == ["the server does not answer"]


def test_rows_that_wait_too_long_are_said(tmp_path: Path, desk: Desk) -> None:
    """There are more runs than so many at a time can follow."""
    for number in range(3):
        begin(tmp_path, f"r{number}")
    desk.look()

    desk.look(after_s=59)
    assert desk.troubles == []
    desk.look(after_s=3)
    desk.look(after_s=3)
    (said,) = desk.troubles
    assert "have waited for up to 62 s" in said
    assert "more than 2 at a time (--jobs)" in said


def test_a_run_that_cannot_be_read_is_said_once_and_harms_no_other(
    tmp_path: Path, desk: Desk
) -> None:
    """A directory in the place of a segment, say."""
    begin(tmp_path, "ab")
    broken = begin(tmp_path, "broken")
    broken.unlink()
    broken.mkdir()

    assert [run_id for run_id, _ in desk.look()] == ["ab"]
    desk.look(after_s=5)
    (said,) = desk.troubles
    assert said.startswith(f"{broken.parent} cannot be read: ")


def test_a_run_that_is_deleted_is_forgotten(tmp_path: Path, desk: Desk) -> None:
    """Also one that is sent just then, or waits to be tried again."""
    kept, deleted = begin(tmp_path, "kept"), begin(tmp_path, "deleted")
    desk.look()
    shutil.rmtree(deleted.parent)
    desk.look(after_s=1)
    desk.reason = "it is gone"
    desk.end("deleted")
    desk.look(after_s=600)

    assert [*desk.watch.runs] == [kept.parent]


def test_the_end_breaks_off_what_is_under_way(tmp_path: Path) -> None:
    """And says nothing of it."""
    begin(tmp_path, "ab")
    told: list[Told] = []

    def deliver(watched: WatchedRun, due: Due, unwanted: Callable[[], bool]) -> SyncResult:
        watch.stopped.set()
        assert unwanted()
        return SyncResult(run_id="ab", directory="", reason="it was broken off")

    watch = Watch(
        directories=lambda: candidate_directories(tmp_path),
        jobs=1,
        on_delivery=told.append,
        on_trouble=print,
        deliver=deliver,
    )
    watch.watch()

    assert told == []
