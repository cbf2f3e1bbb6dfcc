"""Artifacts on their way: what changes meanwhile, what never ends, what is there twice."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from support.deliveries import Scene, Trainer
from support.journals import read_entries

from fasttrack.delivery.backends.base import Place
from fasttrack.delivery.backends.memory import (
    MemoryBackend,
    MemoryDestination,
    MemorySession,
    StoredArtifact,
)
from fasttrack.delivery.events import LeftOut, Upload
from fasttrack.delivery.uploads import Uploads
from fasttrack.errors import BackendLostError
from fasttrack.journal.cursor import Ledger
from fasttrack.journal.entries import Artifact, Header, encode

SEGMENT = "segment-0001.jsonl"


class SlowSession(MemorySession):
    """A session whose uploads do not end before they are told to."""

    def __init__(self, destination: MemoryDestination, place: Place) -> None:
        """Open it online."""
        destination.server.headers.append(Header(run_id="r1"))
        super().__init__(destination, destination.server, place, online=True)
        self.reached, self.go_on = threading.Event(), threading.Event()

    def upload(self, artifact: StoredArtifact, aliases: Sequence[str]) -> str | None:
        """Wait in the middle."""
        self.reached.set()
        assert self.go_on.wait(60)
        return super().upload(artifact, aliases)


class Sending:
    """One artifact that is being sent."""

    def __init__(self, scene: Scene) -> None:
        """Begin."""
        self.trainer: Trainer = scene.begin()
        self.trainer.stage(1, b"weights")
        place = Place(run_dir=scene.run_dir, ledger=Ledger(), save=lambda: None, in_trainer=False)
        self.server = scene.destination.server
        self.destination = scene.destination
        self.session = SlowSession(scene.destination, place)
        self.events: list[Upload | LeftOut] = []
        self.now_s = 0.0
        self.uploads = Uploads(
            scene.run_dir, "memory", self.session, self.events.append, clock=lambda: self.now_s
        )
        (self.entry,) = artifacts_of(self.trainer)
        (self.file,) = self.trainer.staged_files()
        self.uploads.submit((SEGMENT, "1"), self.entry)
        assert self.session.reached.wait(60)

    def end(self) -> str | None:
        """Let the upload end; return its outcome."""
        self.session.go_on.set()
        assert self.uploads._thread is not None
        self.uploads._queue.put(None)
        self.uploads._thread.join(60)
        assert not self.uploads.pending
        return self.uploads.outcomes[SEGMENT, "1"]


def artifacts_of(trainer: Trainer) -> list[Artifact]:
    """Return the artifacts that the journal names."""
    return read_entries(trainer.run_dir, Artifact)


@pytest.fixture
def sending(tmp_path: Path) -> Iterator[Sending]:
    """An artifact whose upload is under way."""
    one = Sending(Scene(tmp_path / "r1"))
    yield one
    one.session.go_on.set()


def overwrite(file: Path) -> None:
    """Write other weights of the same size."""
    file.write_bytes(b"WEIGHTS")


def truncate(file: Path) -> None:
    """Leave half of it."""
    file.write_bytes(b"wei")


def add(file: Path) -> None:
    """Put another file beside it."""
    file.with_name("more").write_bytes(b"more")


@pytest.mark.parametrize("change", [overwrite, truncate, add])
def test_a_version_whose_files_changed_meanwhile_is_removed_again(
    sending: Sending, change: Callable[[Path], None]
) -> None:
    """The server may have other contents under it than what was logged."""
    change(sending.file)
    outcome = sending.end()

    assert outcome is not None
    assert "changed, in place, while it was uploaded; the version was removed" in outcome
    assert sending.server.artifacts == []
    assert sending.uploads.taken == 0
    assert isinstance(sending.events[-1], Upload)
    assert (sending.events[-1].state, sending.events[-1].reason) == ("failed", outcome)


def test_a_version_that_cannot_be_removed_is_not_called_right(sending: Sending) -> None:
    """It stands there, which is said."""
    sending.destination.fail("withdraw", BackendLostError("not allowed"))
    overwrite(sending.file)
    outcome = sending.end()

    assert outcome is not None
    assert "could not be removed, and is not what was logged: not allowed" in outcome
    assert sending.uploads.failures == [f"model-r1: {outcome}"]


def test_a_version_whose_files_were_deleted_meanwhile_stands(sending: Sending) -> None:
    """What is gone was not read as something else: the server has checked what it got."""
    sending.file.unlink()

    assert sending.end() == "model-r1 is in memory"
    assert len(sending.server.artifacts) == 1


def test_an_upload_of_changed_files_that_does_not_end_is_broken_off(sending: Sending) -> None:
    """W&B's client sends a file that became shorter for ever; nobody waits an hour for that."""
    truncate(sending.file)
    sending.uploads.check()  # sees it
    sending.now_s = 14.0
    sending.uploads.check()  # it may still end by itself
    sending.now_s = 16.0

    with pytest.raises(
        BackendLostError, match=r"model\.txt changed while an upload of it was under"
    ):
        sending.uploads.check()


def test_an_upload_of_unchanged_files_may_take_all_day(sending: Sending) -> None:
    """A slow server is no reason."""
    for now_s in (0.0, 20.0, 1000.0, 100_000.0):
        sending.now_s = now_s
        sending.uploads.check()

    assert sending.end() == "model-r1 is in memory"


def test_after_the_upload_its_changes_are_nobodys_business(sending: Sending) -> None:
    """Only what is being sent is looked at."""
    truncate(sending.file)
    sending.uploads.check()
    sending.end()
    sending.now_s = 1000.0
    sending.uploads.check()


def test_the_next_session_gives_up_what_the_last_broke_off(tmp_path: Path) -> None:
    """The rows arrive, the artifact is named, and delivery comes to its end."""
    scene = Scene(tmp_path / "r1")

    class Breaking(MemoryBackend):
        """In whose first session the files change and the upload breaks."""

        def open(self, header: Header, *, online: bool, timeout_s: float) -> MemorySession:
            """Change them."""
            session = super().open(header, online=online, timeout_s=timeout_s)
            if len(scene.destination.server.headers) == 1:
                truncate(scene.trainer.staged_files()[0])
                scene.destination.fail("check", BackendLostError("it does not end"))
            return session

    scene.backend_class = Breaking
    trainer = scene.begin()
    trainer.log(0, 1)
    trainer.stage(1, b"weights")
    trainer.finish()

    assert scene.delivery().follow() is True
    assert scene.steps() == [0, 1]
    assert scene.destination.server.artifacts == []
    assert "changed after the call" in str(scene.told(Upload)[-1].reason)


@pytest.mark.parametrize("same", [True, False])
def test_two_artifacts_of_one_number_hold_nobody_up(tmp_path: Path, same: bool) -> None:
    """No tracker writes that: the first is delivered, another of its number named."""
    scene = Scene(tmp_path / "r1")
    trainer = scene.begin()
    trainer.stage(1, b"weights")
    (first,) = artifacts_of(trainer)
    trainer.stage(2, b"other weights")
    second = artifacts_of(trainer)[1]
    again = first if same else dataclasses.replace(second, number=1)
    trainer.writer.append([encode(again)])
    trainer.log(0)
    trainer.finish()

    assert scene.delivery().follow() is True
    assert scene.clock.elapsed_s < 60  # not the hour that uploads may take
    assert scene.steps() == [0]
    contents = [artifact.files["model.txt"] for artifact in scene.destination.server.artifacts]
    assert contents == [b"weights", b"other weights"]
    left_out = [event.what for event in scene.told(LeftOut)]
    assert left_out == ([] if same else [f"{SEGMENT}: a second artifact of number 1, model-r1"])
