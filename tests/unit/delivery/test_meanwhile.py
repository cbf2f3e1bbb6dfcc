"""Rows of an offline run on their way while it goes on, beside the run's own delivery."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.deliveries import Scene

from fasttrack.delivery.backends import memory
from fasttrack.delivery.backends.memory import MemorySession
from fasttrack.delivery.events import Busy, Done
from fasttrack.delivery.run_lock import locked
from fasttrack.errors import BackendLostError
from fasttrack.journal.cursor import load_known
from fasttrack.journal.run_directory import (
    destination_lock_path,
    meanwhile_cursor_path,
    meanwhile_directory,
    segment_name,
)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """An offline run on another machine."""
    return Scene(tmp_path / "r1")


def known_proof(scene: Scene, attempt: int = 1) -> str | None:
    """Return what is known to prove an attempt's delivery, by whoever it was."""
    return load_known(scene.run_dir).ledger("memory").segment(segment_name(attempt)).proof


def test_rows_arrive_while_the_runs_own_delivery_holds_it(scene: Scene) -> None:
    """In pieces, each once; its lock, its cursor and its stand-in are left alone."""
    trainer = scene.begin(mode="offline", host="node")
    with locked(scene.run_dir, "the run's own delivery"):
        trainer.log(0, 1)
        assert scene.delivery(by_hand=True).deliver_meanwhile() is True
        first = scene.steps()
        assert scene.delivery(by_hand=True).deliver_meanwhile() is True  # nothing is new
        trainer.log(2)
        assert scene.delivery(by_hand=True).deliver_meanwhile() is True

    assert (first, scene.steps()) == ([0, 1], [0, 1, 2])
    assert scene.destination.offline == []
    assert known_proof(scene) == "3 rows in memory"
    assert not (scene.run_dir / "cursor.json").exists()
    assert not meanwhile_directory(scene.run_dir).exists()


def test_rows_that_come_while_others_are_proven_are_no_failure(scene: Scene) -> None:
    """They are for the next time."""
    trainer = scene.begin(mode="offline", host="node")
    trainer.log(0)

    class Slow(MemorySession):
        def prove(self, *, artifacts: int, timeout_s: float) -> str:
            trainer.log(1)
            return super().prove(artifacts=artifacts, timeout_s=timeout_s)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "MemorySession", Slow)
        assert scene.delivery(by_hand=True).deliver_meanwhile() is True
    (done,) = scene.told(Done)
    assert (done.delivered, done.offline, done.rows, scene.steps()) == (True, False, 1, [0])

    assert scene.delivery(by_hand=True).deliver_meanwhile() is True
    assert scene.steps() == [0, 1]


def test_a_run_that_is_over_is_compared_as_a_whole_once(scene: Scene) -> None:
    """What a destination took and lost meanwhile is sent then."""
    trainer = scene.begin(mode="offline", host="node")
    trainer.log(0, 1)
    scene.delivery(by_hand=True).deliver_meanwhile()
    del scene.destination.server.rows[0]
    trainer.log(2)
    trainer.finish(3)
    assert scene.delivery().follow() is True  # offline, into the stand-in

    assert scene.delivery(by_hand=True).deliver_now() is True
    assert sorted(scene.steps()) == [0, 1, 2]
    assert not meanwhile_cursor_path(scene.run_dir).exists()
    assert known_proof(scene) == "3 rows in memory"
    assert scene.destination.server.endings[-1] == (3, False)


def test_artifacts_wait_until_the_run_is_over(scene: Scene) -> None:
    """Their files are the trainer's to stage and its own delivery's to remove."""
    trainer = scene.begin(mode="offline", host="node")
    trainer.log(0)
    trainer.stage(1, b"weights")
    assert scene.delivery(by_hand=True).deliver_meanwhile() is True
    early = list(scene.destination.server.artifacts)
    trainer.finish()
    assert len(trainer.staged_files()) == 1
    assert scene.delivery(by_hand=True).deliver_now() is True

    assert early == []
    assert len(scene.destination.server.artifacts) == 1
    assert trainer.staged_files() == []


def test_one_that_breaks_off_loses_and_doubles_nothing(scene: Scene) -> None:
    """The server goes away in the middle; the next one goes on."""
    trainer = scene.begin(mode="offline", host="node")
    trainer.log(0, 1, 2)
    scene.destination.fail("log", BackendLostError("gone"), after=1, times=1000)
    assert scene.delivery(by_hand=True).deliver_meanwhile() is False
    scene.destination.recover()
    trainer.log(3)

    assert scene.delivery(by_hand=True).deliver_meanwhile() is True
    assert scene.steps() == [0, 1, 2, 3]


def test_a_resumed_run_is_one(scene: Scene) -> None:
    """The first attempt was delivered by hand; the second goes on, offline, too."""
    trainer = scene.begin(mode="offline", host="node")
    trainer.log(0)
    trainer.finish()
    assert scene.delivery(by_hand=True).deliver_now() is True
    trainer = scene.begin(mode="offline", host="node", resumed=True)
    trainer.log(1)

    assert scene.delivery(by_hand=True).deliver_meanwhile() is True
    assert scene.steps() == [0, 1]
    assert known_proof(scene, 2) == "2 rows in memory"


def test_an_attempt_that_goes_online_waits_and_takes_over(scene: Scene) -> None:
    """The job was requeued to a node with network while the last rows were sent."""
    trainer = scene.begin(mode="offline", host="node")
    trainer.log(0)
    assert scene.delivery(by_hand=True).deliver_meanwhile() is True
    trainer.vanish()
    trainer = scene.begin(mode="online", resumed=True, upload_timeout_s=1.0)
    trainer.log(1)
    trainer.finish(within_s=5)
    with locked(scene.run_dir, "fasttrack sync --watch", which=destination_lock_path):
        assert scene.delivery().follow() is None
        assert scene.steps() == [0]

    assert scene.delivery().follow() is True
    assert scene.steps() == [0, 1]


@pytest.mark.parametrize("method", ["deliver_meanwhile", "deliver_now"])
def test_two_never_send_at_a_time(scene: Scene, method: str) -> None:
    """Neither two watches, nor a watch and a sync by hand; it is said who is at work."""
    trainer = scene.begin(mode="offline", host="node")
    trainer.log(0)
    with locked(scene.run_dir, "fasttrack sync --watch", which=destination_lock_path):
        assert getattr(scene.delivery(by_hand=True), method)() is None

    (busy,) = scene.told(Busy)
    assert busy.holder.startswith("fasttrack sync --watch (process ")
    assert scene.steps() == []


def test_what_the_runs_own_delivery_brings_itself_is_left_to_it(scene: Scene) -> None:
    """Event files on the node's own disk have no stand-in."""

    class Files(scene.backend_class):  # type: ignore[name-defined, misc]
        has_offline = False

    scene.backend_class = Files
    trainer = scene.begin(mode="offline", host="node")
    trainer.log(0)

    assert scene.delivery(by_hand=True).deliver_meanwhile() is True
    assert scene.steps() == []
