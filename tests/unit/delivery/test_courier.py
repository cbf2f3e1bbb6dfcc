"""Delivery's strategy, on the memory backend: every way in which it can go."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from support.deliveries import Scene

from fasttrack.delivery.backends.memory import MemoryBackend
from fasttrack.delivery.events import Busy, Done, Offline, Online, Progress, Trouble, Upload
from fasttrack.errors import (
    ArtifactRefusedError,
    BackendLostError,
    BackendUnavailableError,
    UnprovenError,
)
from fasttrack.journal.cursor import load_cursor
from fasttrack.journal.run_directory import cursor_path, files_directory, staged_directory

AWAY = BackendUnavailableError("nobody answers")
GONE = BackendLostError("the server went away")


class LocalBackend(MemoryBackend):
    """One whose destination lies on this machine."""

    has_offline = False
    takes_artifacts = False


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """A run that nobody has delivered yet."""
    return Scene(tmp_path / "r1")


def done(scene: Scene) -> Done:
    """Return the last word, of which there is one."""
    (event,) = scene.told(Done)
    assert scene.events[-1] is event
    assert isinstance(event, Done)
    return event


# --- at its destination -------------------------------------------------------------------------


def test_what_waits_is_delivered_at_once_however_wide_its_rows_are(scene: Scene) -> None:
    """Between looks that find little it rests, so that training has the cores."""
    trainer = scene.begin()
    arrived: dict[float, int] = {}
    trainer.log_wide(100, metrics=2000)  # 5 MB, of which one look takes a few rows
    scene.clock.at(0.4, lambda: arrived.update({0.4: len(scene.steps())}))
    scene.clock.at(0.45, lambda: trainer.log(100))
    scene.clock.at(1.0, lambda: arrived.update({1.0: len(scene.steps())}))
    scene.clock.at(2.0, trainer.finish)

    assert scene.delivery().follow() is True
    assert arrived == {0.4: 100, 1.0: 101}


def test_a_run_is_followed_to_its_end(scene: Scene) -> None:
    """Rows that come later, the configuration, the console, and how it ended."""
    trainer = scene.begin(finish_timeout_s=30.0)
    trainer.configure(lr=0.1)
    trainer.log(0, 10)
    trainer.say("epoch 1\n")
    scene.clock.at(3, lambda: trainer.log(20, 5))
    scene.clock.at(5, lambda: trainer.finish(3, preempting=True))

    assert scene.delivery().follow() is True
    assert scene.steps() == [0, 10, 20, 5]
    server = scene.destination.server
    assert server.config == {"lr": 0.1, "metadata": {"seeds": {}}}
    assert server.console == [("stdout", "epoch 1\n")]
    assert server.endings == [(3, True)]
    assert scene.told(Online) == [Online(backend="memory", url="memory://r1")]
    assert done(scene) == Done(
        backend="memory", delivered=True, rows=4, proof="4 rows in memory", url="memory://r1"
    )


def test_progress_is_told_once_a_second_at_most(scene: Scene) -> None:
    """The trainer's pipe is small; the first is told at once."""
    trainer = scene.begin()
    trainer.log(0)
    scene.clock.at(30, trainer.finish)
    scene.delivery().follow()

    assert scene.told(Progress)[0] == Progress(backend="memory", rows=1)
    assert len(scene.told(Progress)) <= 3  # by real time, of which none passes here


def test_a_trainer_that_vanished_has_failed(scene: Scene) -> None:
    """No finish line, no process: exit code 1."""
    trainer = scene.begin()
    trainer.log(0)
    scene.clock.at(2, trainer.vanish)

    assert scene.delivery().follow() is True
    assert scene.destination.server.endings == [(1, False)]


def test_what_is_proven_is_not_delivered_again(scene: Scene) -> None:
    """A courier that is started anew after the end opens nothing."""
    trainer = scene.begin()
    trainer.log(0)
    trainer.finish()
    scene.delivery().follow()
    assert scene.delivery().follow() is True

    assert len(scene.destination.server.headers) == 1
    assert done(scene).rows == 1


def test_only_the_newest_attempt_is_handed_over_after_a_resume(scene: Scene) -> None:
    """What an earlier one delivered is proven; the header is completed from it."""
    trainer = scene.begin(name="first")
    trainer.log(0, 1)
    trainer.finish()
    scene.delivery().follow()
    trainer = scene.begin(resumed=True)
    trainer.log(2)
    trainer.finish()

    assert scene.delivery().follow() is True
    assert scene.steps() == [0, 1, 2]
    assert scene.destination.server.headers[-1].name == "first"
    assert done(scene).rows == 3


def test_what_an_earlier_attempt_left_behind_comes_first(scene: Scene) -> None:
    """It was killed, and so was its delivery."""
    trainer = scene.begin()
    trainer.log(0, 1)
    trainer.vanish()
    trainer = scene.begin(resumed=True)
    trainer.log(2)
    trainer.finish()

    assert scene.delivery().follow() is True
    assert scene.steps() == [0, 1, 2]


def test_rows_written_after_the_proof_follow(scene: Scene) -> None:
    """It was delivered by hand while its trainer, elsewhere, still wrote."""
    trainer = scene.begin()
    trainer.log(0, 1)
    assert scene.delivery(by_hand=True).deliver_now() is True
    trainer.log(2)
    trainer.finish()

    assert scene.delivery().follow() is True
    assert scene.steps() == [0, 1, 2]


def test_what_was_proven_by_hand_is_not_all_while_the_trainer_runs(scene: Scene) -> None:
    """Its delivery died, and was started again after somebody had delivered all there was."""
    trainer = scene.begin()
    trainer.log(0)
    assert scene.delivery(by_hand=True).deliver_now() is True
    scene.clock.at(5, lambda: trainer.log(1))
    scene.clock.at(6, trainer.finish)

    assert scene.delivery().follow() is True
    assert scene.steps() == [0, 1]


def test_a_proof_is_not_for_rows_that_came_after_it(scene: Scene) -> None:
    """They were handed over, and lost with the client before it had finished."""
    trainer = scene.begin()
    trainer.log(0)
    assert scene.delivery(by_hand=True).deliver_now() is True
    trainer.log(1)
    trainer.finish()
    rows = scene.destination.server.rows
    lose_newest = BackendLostError("the client died")
    scene.destination.fail("finish", lose_newest)
    scene.clock.at(0.1, lambda: rows.pop())

    assert scene.delivery().follow() is True
    assert scene.told(Trouble)[0].reason == "the client died"
    assert scene.steps() == [0, 1]


# --- trouble ------------------------------------------------------------------------------------


def test_a_server_that_answers_late_is_waited_for(scene: Scene) -> None:
    """Within `online_timeout_s`, with growing pauses; the run never was offline."""
    trainer = scene.begin(online_timeout_s=30.0)
    trainer.log(0)
    scene.destination.fail("open", AWAY, times=3)
    scene.clock.at(60, trainer.finish)

    assert scene.delivery().follow() is True
    assert scene.steps() == [0]
    assert scene.told(Offline) == []
    assert len(scene.destination.server.headers) == 1


@pytest.mark.parametrize("method", ["settle", "configure", "log", "check", "finish"])
def test_a_session_that_breaks_is_begun_anew_and_doubles_nothing(scene: Scene, method: str) -> None:
    """Wherever it breaks, with rows handed over before and after."""
    trainer = scene.begin()
    trainer.log(0, 1)
    trainer.configure(lr=0.1)
    scene.clock.at(2, lambda: trainer.log(2, 3))
    scene.clock.at(4, trainer.finish)
    scene.destination.fail(method, GONE, after=3 if method == "log" else 0)

    assert scene.delivery().follow() is True
    assert scene.steps() == [0, 1, 2, 3]
    (trouble,) = scene.told(Trouble)
    assert trouble.reason == "the server went away"
    assert done(scene).reason is None


def test_rows_that_were_taken_and_lost_in_the_middle_are_sent_again(scene: Scene) -> None:
    """A client may drop rows and go on, `finish` well, and have the last one: a disk was full."""
    trainer = scene.begin()
    trainer.log(*range(10))
    trainer.finish()
    scene.destination.lost_steps = [3, 4, 7]

    assert scene.delivery().follow() is True
    assert sorted(scene.steps()) == list(range(10))
    assert scene.told(Trouble)[0].reason == "3 of 10 rows are not there (steps 3 to 4, 7)"


def test_rows_that_are_lost_every_time_are_named_and_not_delivered(scene: Scene) -> None:
    """What is sent again may be dropped again; at the deadline the truth is said."""
    trainer = scene.begin()
    trainer.log(*range(5))
    trainer.finish()
    scene.destination.lost_steps = [2] * 1000

    assert scene.delivery().follow() is False
    assert scene.steps() == [0, 1, 3, 4]
    (done,) = scene.told(Done)
    assert (done.delivered, done.proof) == (False, None)
    assert done.reason == "1 of 5 rows are not there (steps 2)"

    scene.destination.lost_steps.clear()

    assert scene.delivery(by_hand=True).deliver_now() is True
    assert scene.steps() == [0, 1, 3, 4, 2]


def test_what_cannot_be_proven_now_is_not_sent_again_and_not_called_delivered(
    scene: Scene,
) -> None:
    """Others' rows in the place of ours, or a server that shows nothing: another try may double."""
    trainer = scene.begin()
    trainer.log(0, 1)
    trainer.finish()
    scene.destination.fail("prove", UnprovenError("it does not tell"))

    assert scene.delivery().follow() is False
    assert len(scene.destination.server.headers) == 1
    (done,) = scene.told(Done)
    assert (done.delivered, done.reason) == (False, "it does not tell")

    assert scene.delivery(by_hand=True).deliver_now() is True
    assert scene.steps() == [0, 1]


def test_a_lost_server_is_tried_for_as_long_as_the_trainer_runs(scene: Scene) -> None:
    """Pauses double, from a second to five minutes."""
    trainer = scene.begin()
    trainer.log(0)
    scene.destination.fail("check", GONE)
    for _ in range(13):
        scene.destination.fail(
            "open", AWAY, after=1 if not scene.destination._faults["open"] else 0
        )
    scene.clock.at(3000, trainer.finish)

    assert scene.delivery().follow() is True
    assert scene.steps() == [0]
    assert scene.told(Offline) == []  # once connected, the journal waits for the server


def test_a_server_that_is_gone_to_the_end_is_given_up_at_the_deadline(scene: Scene) -> None:
    """Not delivered, with the reason; the rows are in the journal."""
    trainer = scene.begin()
    trainer.log(0)
    trainer.finish(within_s=20)
    scene.destination.fail("check", GONE, times=50)

    assert scene.delivery().follow() is False
    assert scene.clock.elapsed_s <= 20
    assert done(scene).delivered is False
    assert done(scene).reason == "the server went away"


def test_a_cursor_that_cannot_be_written_is_trouble_not_a_crash(scene: Scene) -> None:
    """The disk is full: a restart would not know what this session relies on."""
    trainer = scene.begin()
    trainer.log(0)
    trainer.finish(within_s=3)
    scratch = cursor_path(scene.run_dir).with_suffix(".tmp")
    scratch.mkdir()
    scene.clock.at(1, scratch.rmdir)

    assert scene.delivery().follow() is True
    assert "cursor.json cannot be written" in scene.told(Trouble)[0].reason
    assert scene.steps() == [0]


# --- offline ------------------------------------------------------------------------------------


def test_offline_goes_to_a_stand_in(scene: Scene) -> None:
    """As asked; the last word says that an upload is still to come."""
    trainer = scene.begin(mode="offline")
    trainer.log(0, 1)
    scene.clock.at(2, trainer.finish)

    assert scene.delivery().follow() is True
    assert scene.steps() == []
    (stand_in,) = scene.destination.offline
    assert [row.step for row in stand_in.rows] == [0, 1]
    assert scene.told(Offline) == [Offline(backend="memory", directory="offline-1")]
    assert done(scene).offline is True
    assert done(scene).directory == "offline-1"


def test_a_stand_in_that_broke_is_written_anew(scene: Scene) -> None:
    """All of it: half of one is of no use to anybody."""
    trainer = scene.begin(mode="offline")
    trainer.log(0, 1)
    trainer.finish()
    scene.destination.fail("log", GONE, after=1)

    assert scene.delivery().follow() is True
    assert [[row.step for row in store.rows] for store in scene.destination.offline] == [
        [0],
        [0, 1],
    ]


def test_offline_is_given_up_after_three_tries_once_the_trainer_is_gone(scene: Scene) -> None:
    """The disk is full for good."""
    trainer = scene.begin(mode="offline")
    trainer.log(0)
    trainer.finish()
    scene.destination.fail("open_offline", BackendUnavailableError("the disk is full"), times=10)

    assert scene.delivery().follow() is False
    assert [event.reason for event in scene.told(Trouble)] == ["the disk is full"] * 3
    assert done(scene).reason == "the disk is full"


def test_a_server_out_of_reach_is_fallen_back_from_and_tried_once_more_at_the_end(
    scene: Scene,
) -> None:
    """As the troubleshooting guide promises."""
    trainer = scene.begin(online_timeout_s=5.0)
    trainer.log(0)
    scene.destination.fail("open", AWAY, times=100)
    scene.clock.at(30, scene.destination.recover)
    scene.clock.at(60, trainer.finish)

    assert scene.delivery().follow() is True
    assert scene.told(Offline)[0].reason == "nobody answers"
    assert scene.steps() == [0]
    assert done(scene).offline is False


def test_a_last_try_that_fails_leaves_the_stand_in(scene: Scene) -> None:
    """It is proven, and named as what a later upload takes."""
    trainer = scene.begin(online_timeout_s=1.0)
    trainer.log(0)
    scene.clock.at(9, trainer.finish)
    scene.destination.fail("open", AWAY, times=3)
    scene.clock.at(8, scene.destination.recover)
    scene.clock.at(8, lambda: scene.destination.fail("settle", GONE))

    assert scene.delivery().follow() is True
    assert done(scene).offline is True
    assert scene.steps() == []


def test_without_an_account_nothing_is_tried_twice(scene: Scene) -> None:
    """`final`: offline at once, and no last try."""
    trainer = scene.begin()
    trainer.log(0)
    scene.destination.fail("open", BackendUnavailableError("no API key", final=True))
    scene.clock.at(2, trainer.finish)

    assert scene.delivery().follow() is True
    assert scene.told(Offline)[0].reason == "no API key"
    assert scene.destination.server.headers == []


def test_what_can_never_be_opened_is_given_up_at_once(scene: Scene) -> None:
    """Its package is not installed: nobody waits for that, whatever mode was asked for."""
    scene.backend_class = LocalBackend
    trainer = scene.begin()
    trainer.log(0)
    missing = BackendUnavailableError("no such package: pip install it", final=True)
    scene.destination.fail("open", missing, times=100)

    assert scene.delivery().follow() is False
    assert scene.clock.elapsed_s == 0
    assert done(scene).reason == "no such package: pip install it"


def test_no_last_try_where_no_time_is_left(scene: Scene) -> None:
    """Ten seconds is what it may take."""
    trainer = scene.begin(online_timeout_s=0.0)
    trainer.log(0)
    scene.destination.fail("open", AWAY)
    trainer.finish(within_s=5)

    assert scene.delivery().follow() is True
    assert scene.destination.server.headers == []
    assert done(scene).offline is True


def test_a_destination_on_this_machine_knows_no_offline(scene: Scene) -> None:
    """Its rows go there in every mode; it is tried again while the trainer is there."""
    scene.backend_class = LocalBackend
    trainer = scene.begin(mode="offline")
    trainer.log(0)
    trainer.stage(1, b"not for it")
    scene.destination.fail("open", AWAY)
    scene.clock.at(20, trainer.finish)

    assert scene.delivery().follow() is True
    assert scene.steps() == [0]
    assert scene.destination.server.artifacts == []
    assert done(scene).offline is False
    assert len(trainer.staged_files()) == 1


# --- by hand ------------------------------------------------------------------------------------


def test_by_hand_an_offline_run_goes_to_the_server_once(scene: Scene) -> None:
    """The second call finds nothing to do, and says so."""
    trainer = scene.begin(mode="offline", finish_timeout_s=1.0)
    trainer.log(0, 1)
    trainer.finish(within_s=0)
    scene.delivery().follow()
    scene.clock.pause(3600)

    assert scene.delivery(by_hand=True).deliver_now() is True
    assert (done(scene).already, done(scene).rows) == (False, 2)
    assert scene.delivery(by_hand=True).deliver_now() is True
    assert done(scene).already is True
    assert scene.steps() == [0, 1]


def test_by_hand_a_server_that_does_not_answer_is_given_up_at_once(scene: Scene) -> None:
    """Somebody sits and waits."""
    trainer = scene.begin()
    trainer.log(0)
    trainer.finish()
    scene.destination.fail("open", AWAY)

    assert scene.delivery(by_hand=True).deliver_now() is False
    assert done(scene).reason == "nobody answers"
    assert scene.clock.elapsed_s == 0


def test_by_hand_a_session_is_tried_three_times(scene: Scene) -> None:
    """And the second may do."""
    trainer = scene.begin()
    trainer.log(0)
    trainer.finish()
    scene.destination.fail("finish", GONE, times=4)

    assert scene.delivery(by_hand=True).deliver_now() is False
    assert len(scene.told(Trouble)) == 3
    assert scene.delivery(by_hand=True).deliver_now() is True
    assert len(scene.told(Trouble)) == 1
    assert scene.steps() == [0]


def test_by_hand_files_that_are_being_staged_are_left_alone(scene: Scene) -> None:
    """Elsewhere the trainer still runs; half a copy is no orphan yet."""
    trainer = scene.begin()
    trainer.log(0)
    half = files_directory(staged_directory(trainer.writer.path, 1))
    half.mkdir(parents=True)
    (half / "model.pt").write_bytes(b"wei")

    assert scene.delivery(by_hand=True).deliver_now() is True
    assert len(trainer.staged_files()) == 1
    trainer.finish()
    assert scene.delivery().follow() is True
    assert trainer.staged_files() == []


def test_by_hand_a_client_that_failed_to_start_is_tried_again(scene: Scene) -> None:
    """Its helper was killed at the wrong moment; nothing is wrong with the server."""
    trainer = scene.begin()
    trainer.log(0)
    trainer.finish()
    scene.destination.fail("open", BackendUnavailableError("killed", local=True), times=2)

    assert scene.delivery().deliver_now() is True
    assert scene.steps() == [0]


def test_two_at_a_time_do_not_deliver_one_run(scene: Scene) -> None:
    """By hand it is said; a trainer's own delivery waits for its turn."""
    trainer = scene.begin()
    trainer.log(0)
    outcome: list[bool | None] = []

    def try_by_hand() -> None:
        other = Scene(scene.run_dir)
        other.trainer = trainer
        outcome.append(other.delivery(by_hand=True).deliver_now())
        (told,) = other.told(Busy)
        assert "the run's own delivery" in told.holder

    scene.clock.at(1, try_by_hand)
    scene.clock.at(2, trainer.finish)

    assert scene.delivery().follow() is True
    assert outcome == [None]


# --- artifacts ----------------------------------------------------------------------------------


def test_an_artifact_is_uploaded_once_and_its_staged_files_go(scene: Scene) -> None:
    """After the proof; its states are told."""
    trainer = scene.begin()
    trainer.log(0)
    trainer.stage(1, b"weights")
    trainer.finish()

    assert scene.delivery().follow() is True
    (artifact,) = scene.destination.server.artifacts
    assert (artifact.aliases, artifact.files) == (("best",), {"model.txt": b"weights"})
    assert [event.state for event in scene.told(Upload)] == ["hashing", "uploading", "done"]
    assert trainer.staged_files() == []
    assert scene.delivery().follow() is True
    assert len(scene.destination.server.artifacts) == 1


def test_a_refused_artifact_is_said_and_kept_for_a_later_upload(scene: Scene) -> None:
    """The rows are proven all the same, and not sent again with it."""
    trainer = scene.begin()
    trainer.log(0)
    trainer.stage(1, b"weights")
    trainer.finish()
    scene.destination.fail("upload", ArtifactRefusedError("the quota is used up"))

    assert scene.delivery().follow() is False
    assert done(scene).reason == "model-r1: the quota is used up"
    assert len(trainer.staged_files()) == 1
    assert scene.delivery(by_hand=True).deliver_now() is True
    assert len(scene.destination.server.artifacts) == 1
    assert trainer.staged_files() == []
    assert scene.steps() == [0]


def test_an_artifact_whose_files_changed_is_given_up_for_good(scene: Scene) -> None:
    """It is not what was logged."""
    trainer = scene.begin()
    trainer.log(0)
    trainer.stage(1, b"weights")
    (file,) = trainer.staged_files()
    file.write_bytes(b"other weights")
    trainer.finish()

    assert scene.delivery().follow() is True
    assert "changed after the call" in scene.told(Upload)[-1].reason
    assert scene.destination.server.artifacts == []


def test_an_upload_that_breaks_in_an_unforeseen_way_is_a_failure_like_any(scene: Scene) -> None:
    """Its thread's boundary: who waits for it must not wait for ever."""
    trainer = scene.begin()
    trainer.stage(1, b"weights")
    trainer.finish()
    scene.destination.fail("prepare_artifact", ValueError("no such thing"))

    assert scene.delivery().follow() is False
    assert "no such thing" in str(done(scene).reason)


def test_uploads_leave_no_threads_behind(scene: Scene) -> None:
    """However many sessions it took: they may run in the trainer."""
    trainer = scene.begin()
    trainer.stage(1, b"weights")
    trainer.finish()
    scene.destination.fail("finish", GONE, times=3)
    before = {thread for thread in threading.enumerate() if thread.name == "uploads"}

    assert scene.delivery().follow() is True
    for thread in threading.enumerate():
        if thread.name == "uploads" and thread not in before:
            thread.join(10)
            assert not thread.is_alive()


def test_offline_an_artifact_waits_in_the_stand_in_and_in_staging(scene: Scene) -> None:
    """For whichever upload comes first."""
    trainer = scene.begin(mode="offline")
    trainer.stage(1, b"weights")
    trainer.finish()

    assert scene.delivery().follow() is True
    assert len(scene.destination.offline[0].artifacts) == 1
    assert len(trainer.staged_files()) == 1


# --- the console --------------------------------------------------------------------------------


def test_text_before_rows_that_are_there_is_not_repeated(scene: Scene) -> None:
    """What follows them is new."""
    trainer = scene.begin()
    trainer.say("one\n")
    trainer.log(0)
    scene.clock.at(2, lambda: trainer.log(1))
    scene.clock.at(2, lambda: trainer.say("two\n"))
    scene.clock.at(4, trainer.finish)
    scene.destination.fail("check", GONE, after=2)

    assert scene.delivery().follow() is True
    assert [text for _, text in scene.destination.server.console] == ["one\n", "two\n"]


# --- the ledger ---------------------------------------------------------------------------------


def test_the_ledger_says_what_is_proven_of_each_segment(scene: Scene) -> None:
    """On disk, for `fasttrack runs` and for the next attempt."""
    trainer = scene.begin()
    trainer.log(0, 1)
    trainer.finish()
    scene.delivery().follow()

    ledger = load_cursor(cursor_path(scene.run_dir)).ledger("memory")
    state = ledger.segment("segment-0001.jsonl")
    assert (state.rows, state.arrived, state.proof) == (2, 2, "2 rows in memory")
    assert state.size_bytes == trainer.writer.path.stat().st_size
    assert (ledger.url, ledger.directory) == ("memory://r1", None)
