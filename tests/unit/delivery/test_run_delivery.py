"""One run, many backends: none holds up another, and each has every row once."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from support.deliveries import Scene

from fasttrack.delivery.backends.memory import MemoryBackend, MemoryDestination
from fasttrack.delivery.events import Done, LeftOut, Trouble
from fasttrack.delivery.ledger import CursorFile
from fasttrack.delivery.run_lock import locked
from fasttrack.errors import ArtifactRefusedError, BackendLostError, BackendUnavailableError
from fasttrack.journal.cursor import load_cursor
from fasttrack.journal.entries import Finish, encode
from fasttrack.journal.rows import encode_row
from fasttrack.journal.run_directory import cursor_path, lock_path, segment_name


class Abandonable(MemoryBackend):
    """One that notes when it is told to let go."""

    abandoned: ClassVar[list[Abandonable]] = []

    def abandon(self) -> None:
        """Note it."""
        self.abandoned.append(self)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """A run for two backends."""
    scene = Scene(tmp_path / "r1")
    scene.destinations["other"] = MemoryDestination()
    return scene


def steps(destination: MemoryDestination) -> list[int]:
    """Return the steps of the rows that arrived."""
    return [row.step for row in destination.server.rows]


def outcome(scene: Scene) -> dict[str, bool]:
    """Return the last word of each backend."""
    return {event.backend: event.delivered for event in scene.told(Done)}


def test_both_backends_get_every_row_and_a_ledger_of_their_own(scene: Scene) -> None:
    """Each with its own proof."""
    trainer = scene.begin()
    trainer.log(0, 1, 2)
    trainer.finish()

    assert scene.delivery().follow() is True
    assert [steps(destination) for destination in scene.destinations.values()] == [[0, 1, 2]] * 2
    assert outcome(scene) == {"memory": True, "other": True}
    cursor = load_cursor(cursor_path(scene.run_dir))
    proofs = [ledger.segment(segment_name(1)).proof for ledger in cursor.backends.values()]
    assert proofs == ["3 rows in memory"] * 2


def test_a_dead_backend_holds_up_no_other(scene: Scene) -> None:
    """One is refused to the end; the run is not delivered, and the other's rows are."""
    trainer = scene.begin(mode="online")
    trainer.log(0)
    trainer.finish(within_s=5)
    broken = BackendLostError("the server went away")
    scene.destinations["other"].fail("finish", broken, times=1000)

    assert scene.delivery().follow() is False
    assert outcome(scene) == {"memory": True, "other": False}
    assert steps(scene.destination) == [0]


def test_only_the_backend_that_lacks_rows_is_opened_again(scene: Scene) -> None:
    """By hand, later."""
    trainer = scene.begin()
    trainer.log(0)
    trainer.finish(within_s=5)
    refused = BackendUnavailableError("no account", final=True)
    for method in ("open", "open_offline"):
        scene.destinations["other"].fail(method, refused, times=1000)
    scene.delivery().follow()
    scene.destinations["other"].recover()

    assert scene.delivery(by_hand=True).deliver_now() is True
    assert [steps(destination) for destination in scene.destinations.values()] == [[0]] * 2
    assert len(scene.destination.server.headers) == 1


def test_staged_files_stay_until_every_backend_has_them(scene: Scene) -> None:
    """One refuses at first."""
    trainer = scene.begin()
    trainer.stage(1, b"weights")
    trainer.finish()
    scene.destinations["other"].fail("upload", ArtifactRefusedError("full"))

    assert scene.delivery().follow() is False
    assert len(trainer.staged_files()) == 1
    assert scene.delivery(by_hand=True).deliver_now() is True
    assert trainer.staged_files() == []
    for destination in scene.destinations.values():
        assert len(destination.server.artifacts) == 1


def test_a_courier_that_crashes_beside_others_is_started_again(scene: Scene) -> None:
    """An error that nobody foresaw costs no rows, and the other backend nothing."""
    trainer = scene.begin()
    trainer.log(0, 1)
    trainer.finish(within_s=600)
    scene.destinations["other"].fail("log", KeyError("no such thing"), after=1)

    assert scene.delivery().follow() is True
    assert [steps(destination) for destination in scene.destinations.values()] == [[0, 1]] * 2
    assert [event.reason for event in scene.told(Trouble)] == ["other: KeyError('no such thing')"]


def test_what_the_disk_did_not_take_counts_for_nobody(tmp_path: Path) -> None:
    """Staged files go by what is on disk: another backend's courier may look meanwhile."""
    cursor = CursorFile(tmp_path)
    cursor.ledger("memory").segment("segment-0001.jsonl").artifacts["1"] = "it is there"
    cursor_path(tmp_path).with_suffix(".tmp").mkdir()

    with pytest.raises(BackendLostError, match="cannot be written"):
        cursor.save("memory")
    assert cursor.saved().backends == {}
    cursor_path(tmp_path).with_suffix(".tmp").rmdir()
    cursor.save("memory")
    assert cursor.saved() == load_cursor(cursor_path(tmp_path))


@pytest.mark.parametrize("method", ["open", "log"])
def test_a_courier_that_crashed_leaves_its_backend_free(scene: Scene, method: str) -> None:
    """Or W&B's client would have one run open twice."""
    trainer = scene.begin()
    trainer.log(0)
    trainer.finish(within_s=600)
    scene.backend_class = Abandonable
    scene.destinations["other"].fail(method, KeyError("no such thing"))
    Abandonable.abandoned.clear()

    assert scene.delivery().follow() is True
    assert len(Abandonable.abandoned) == 1


def test_a_courier_that_crashes_for_ever_is_given_up_and_said(scene: Scene) -> None:
    """After five restarts, and not a pause later."""
    trainer = scene.begin()
    trainer.log(0)
    trainer.finish(within_s=600)
    scene.destinations["other"].fail("log", KeyError("no such thing"), times=1000)

    assert scene.delivery().follow() is False
    assert outcome(scene) == {"memory": True, "other": False}
    assert len(scene.told(Trouble)) == 6
    assert scene.clock.elapsed_s == 1 + 2 + 4 + 8 + 16


def test_a_lone_courier_that_crashes_ends_its_process(tmp_path: Path) -> None:
    """Which the trainer starts anew: a fresh interpreter is the better restart."""
    scene = Scene(tmp_path / "r1")
    trainer = scene.begin()
    trainer.log(0)
    trainer.finish()
    scene.destination.fail("log", KeyError("no such thing"))

    with pytest.raises(KeyError, match="no such thing"):
        scene.delivery().follow()
    assert scene.delivery().follow() is True


def test_a_backend_that_nobody_knows_is_said_and_the_others_deliver(scene: Scene) -> None:
    """A newer version recorded the run."""
    trainer = scene.begin(backends=("memory", "carrier pigeon"))
    trainer.log(0)
    trainer.finish()

    assert scene.delivery().follow() is False
    assert steps(scene.destination) == [0]
    (told,) = (event for event in scene.told(Done) if not event.delivered)
    assert "knows no backend 'carrier pigeon'" in told.reason


def test_a_run_without_backends_has_nothing_to_deliver(tmp_path: Path) -> None:
    """The journal is all that was asked for."""
    scene = Scene(tmp_path / "r1")
    trainer = scene.begin(backends=())
    trainer.log(0)
    trainer.finish()

    assert scene.delivery(by_hand=True).deliver_now() is True
    assert scene.events == []


def test_each_attempts_rows_go_where_it_said(scene: Scene) -> None:
    """The newest one must not decide for what earlier ones left undelivered."""
    trainer = scene.begin(backends=("memory",))
    trainer.log(0)
    trainer.stage(1, b"weights")
    trainer.vanish()
    trainer = scene.begin(backends=())
    trainer.log(1)
    trainer.vanish()
    trainer = scene.begin(backends=("other",))
    trainer.log(2)
    scene.clock.at(5, trainer.finish)

    assert scene.delivery().follow() is True
    assert {name: steps(store) for name, store in scene.destinations.items()} == {
        "memory": [0],
        "other": [2],
    }
    assert len(scene.destination.server.artifacts) == 1
    assert trainer.staged_files() == []
    assert scene.delivery(by_hand=True).deliver_now() is True
    assert all(event.already for event in scene.told(Done))


def test_what_an_earlier_attempt_left_is_tried_again_though_its_time_is_over(
    scene: Scene,
) -> None:
    """Its trainer gave delivery a minute, long ago."""
    trainer = scene.begin(backends=("memory",))
    trainer.log(0)
    trainer.finish(within_s=1)
    scene.clock.pause(3600)
    trainer = scene.begin(backends=("other",))
    trainer.log(1)
    scene.clock.at(3700, trainer.finish)
    scene.destination.fail("check", BackendLostError("the server went away"))

    assert scene.delivery().follow() is True
    assert steps(scene.destination) == [0]


def test_a_segment_without_a_header_is_passed_over(scene: Scene) -> None:
    """The disk was full when its attempt began."""
    trainer = scene.begin()
    trainer.log(0)
    trainer.vanish()
    torn = scene.run_dir / segment_name(2)
    torn.write_bytes(b'{"kind":"head')
    trainer = scene.begin()
    trainer.log(1)
    trainer.finish()

    assert trainer.writer.path.name == segment_name(3)
    assert scene.delivery().follow() is True
    assert steps(scene.destination) == [0, 1]


def test_rows_behind_a_damaged_header_are_delivered(scene: Scene) -> None:
    """The run's other attempts say where they belong."""
    trainer = scene.begin()
    trainer.log(0)
    trainer.vanish()
    header, row = trainer.writer.path.read_bytes().splitlines(keepends=True)
    trainer.writer.path.write_bytes(header[:20] + b"\0" * 20 + b"\n" + row)
    trainer = scene.begin()
    trainer.log(1)
    trainer.finish()

    assert scene.delivery().follow() is True
    assert steps(scene.destination) == [0, 1]


def test_a_run_whose_only_header_is_damaged_goes_by_its_directorys_name(tmp_path: Path) -> None:
    """A run could never be delivered for one line; who calls sync wants its rows to arrive."""
    scene = Scene(tmp_path / "r1")
    scene.destinations["wandb"] = scene.destination  # what a run is for unless it says so
    trainer = scene.begin()
    trainer.vanish()
    trainer.writer.path.write_bytes(b"\x00\n" + encode_row(0, 0, 0.0, {"a": 1}))

    assert scene.delivery().deliver_now() is True
    assert steps(scene.destination) == [0]
    assert scene.destination.server.headers[0].run_id == "r1"
    assert [event.what for event in scene.told(LeftOut)] == ["segment-0001.jsonl:1 (not JSON)"]


def test_a_run_without_header_and_rows_is_refused(tmp_path: Path) -> None:
    """The disk was full when it began."""
    scene = Scene(tmp_path / "r1")
    trainer = scene.begin()
    trainer.vanish()
    trainer.writer.path.write_bytes(b'{"kind":"hea')

    with pytest.raises(ValueError, match="neither header nor rows"):
        scene.delivery()


def test_one_wrong_field_of_a_header_costs_that_field_only(tmp_path: Path) -> None:
    """Tags of numbers; W&B's client refused them, and the run with them, for ever."""
    scene = Scene(tmp_path / "r1")
    trainer = scene.begin(project="vla-lego", tags=("model:eo1",))
    trainer.log(0)
    trainer.finish()
    path = trainer.writer.path
    path.write_bytes(path.read_bytes().replace(b'"tags":["model:eo1"]', b'"tags":[5]'))

    assert scene.delivery().deliver_now() is True
    header = scene.destination.server.headers[0]
    assert (header.project, header.tags) == ("vla-lego", None)
    assert [event.what for event in scene.told(LeftOut)] == [
        "segment-0001.jsonl:1 (tags must hold texts only)"
    ]


def test_rows_behind_a_stray_finish_line_are_delivered(scene: Scene) -> None:
    """Two journals were put together; delivery ended at the first end, and never again."""
    trainer = scene.begin()
    trainer.writer.append([encode(Finish(exit_code=0))])
    for seq in range(3 * 256 * 1024 // 50):  # beyond what is read in one go
        trainer.log(seq)
    trainer.finish()

    assert scene.delivery().follow() is True
    assert len(steps(scene.destination)) == 3 * 256 * 1024 // 50


def test_a_trainers_delivery_waits_for_whoever_is_at_work_on_the_run(scene: Scene) -> None:
    """An earlier attempt's, or one by hand."""
    trainer = scene.begin()
    trainer.log(0)
    trainer.finish(within_s=600)
    scene.run_dir.mkdir(exist_ok=True)
    lock = os.open(lock_path(scene.run_dir), os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    opened_too_soon: list[int] = []

    def release() -> None:
        opened_too_soon.extend(steps(scene.destination))
        os.close(lock)

    scene.clock.at(5, release)

    assert scene.delivery().follow() is True
    assert opened_too_soon == []
    assert steps(scene.destination) == [0]


@pytest.fixture
def stopped_holder(tmp_path: Path) -> Iterator[int]:
    """Have a process hold the lock of run r1, and be stopped; return its id."""
    run_dir = tmp_path / "r1"
    run_dir.mkdir()
    source = (
        "import sys; from pathlib import Path; from fasttrack.delivery.run_lock import locked\n"
        "with locked(Path(sys.argv[1]), 'fasttrack sync'):\n"
        "    print('held', flush=True); input()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    command = [sys.executable, "-c", source, str(run_dir)]
    with subprocess.Popen(command, **pipes) as process:  # type: ignore[call-overload]
        process.stdout.readline()
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        yield process.pid
        process.kill()


def test_a_holder_that_is_stopped_is_named_and_given_up_on_at_the_runs_deadline(
    scene: Scene, stopped_holder: int
) -> None:
    """It was waited for without limit and without a word, by a process that nobody would see."""
    trainer = scene.begin()
    trainer.log(0)
    scene.clock.at(3600, trainer.finish)  # as long as the trainer is there, nothing is late

    assert scene.delivery().follow() is None
    holder = f"fasttrack sync (process {stopped_holder} on this machine, which is stopped"
    assert [event.backend for event in scene.told(Trouble)] == ["memory", "other"]
    assert all(event.reason.startswith(holder) for event in scene.told(Trouble))
    assert outcome(scene) == {"memory": False, "other": False}
    assert all(str(event.reason).endswith("still holds the run") for event in scene.told(Done))
    assert 3600 + 60 <= scene.clock.elapsed_s < 3600 + 61
    assert steps(scene.destination) == []


def test_a_holder_that_is_at_work_has_as_long_as_uploads_have(scene: Scene) -> None:
    """A sync by hand sends a large checkpoint just when the run ends."""
    trainer = scene.begin(upload_timeout_s=600.0)
    trainer.log(0)
    trainer.finish(within_s=60)
    with locked(scene.run_dir, "fasttrack sync"):
        assert scene.delivery().follow() is None

    assert 660 <= scene.clock.elapsed_s < 661


def test_rows_behind_a_lost_header_go_where_they_went_before(tmp_path: Path) -> None:
    """To W&B went the rest of a run that was for another backend alone."""
    scene = Scene(tmp_path / "r1")
    trainer = scene.begin()
    trainer.log(0)
    trainer.finish()
    assert scene.delivery().follow() is True
    path = trainer.writer.path
    path.write_bytes(
        b"\x00\n" + encode_row(0, 0, 0.0, {"a": 0.0}) + encode_row(1, 1, 0.0, {"a": 1})
    )

    assert scene.delivery().deliver_now() is True
    assert outcome(scene) == {"memory": True}
    assert steps(scene.destination) == [0, 1]


def test_couriers_leave_no_threads_behind(scene: Scene) -> None:
    """The process may end when `follow` returns."""
    trainer = scene.begin()
    trainer.log(0)
    trainer.finish()
    scene.delivery().follow()

    assert not [t for t in threading.enumerate() if t.name.startswith("courier-")]
