"""What is kept of a checkpoint, in which order, and who waits for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.journals import read_entries
from support.trackers import Trackers

from fasttrack.artifacts import copying, snapshot
from fasttrack.artifacts.recorder import Recorder
from fasttrack.journal.entries import Artifact, Config, Recorded
from fasttrack.notices import Notices

LARGE = 3 * 2**20  # above what is copied at once


class Journal:
    """A recorder and what it writes."""

    def __init__(self, run_dir: Path, **arguments: Any) -> None:
        """Record for a run in `run_dir`."""
        run_dir.mkdir()
        self.run_dir = run_dir
        self.notices = Notices()
        self.entries: list[Recorded] = []
        self.recorder = Recorder(
            "ab12",
            run_dir / "segment-0001.jsonl",
            self.entries.append,
            self.notices,
            **{"upload_models": False, "copy_wait_s": 60.0, **arguments},
        )


def test_artifacts_are_numbered_and_found_from_the_run_directory(tmp_path: Path) -> None:
    """Each in a folder of its own, with what it was logged with."""
    checkpoint = tmp_path / "model.pt"
    checkpoint.write_bytes(b"weights")
    journal = Journal(tmp_path / "run")
    journal.recorder.log_config({"lr": 0.1}, None)
    journal.recorder.log_checkpoint(checkpoint, ("best",), force=True, step=7)

    config, first, second = journal.entries
    assert isinstance(config, Config)
    assert isinstance(first, Artifact)
    assert isinstance(second, Artifact)
    assert config.values == {"lr": 0.1}
    assert (first.number, first.type, first.name, first.step) == (1, "config", "config-ab12", None)
    assert (second.number, second.name, second.aliases, second.step) == (
        2,
        "model-ab12",
        ("best",),
        7,
    )
    assert (second.files, second.size_bytes) == (1, len(b"weights"))
    staged = journal.run_dir / second.directory / "files" / "model.pt"
    assert staged.read_bytes() == b"weights"


def test_without_a_backend_that_takes_files_none_are_staged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """That is said once, forced or not; the configuration is recorded all the same."""
    journal = Journal(tmp_path / "run", upload_models=True, takes_artifacts=False)
    journal.recorder.log_config({"lr": 0.1}, None)
    for force in (False, True):
        journal.recorder.log_checkpoint("model.pt", ("latest",), force=force, step=None)

    assert [type(entry) for entry in journal.entries] == [Config]
    assert list(journal.run_dir.iterdir()) == []
    assert capsys.readouterr().err.count("this run has no backend that takes files") == 1


def test_tracker_without_delivery_stages_no_checkpoint(
    make: Trackers, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the settings to the recorder."""
    (tmp_path / "model.pt").write_bytes(b"weights")
    tracker = make()
    tracker.log_checkpoint(tmp_path / "model.pt", force=True)
    tracker.finish()

    run_dir = tracker.get_run_dir()
    assert run_dir is not None
    assert read_entries(run_dir, Artifact) == []
    assert not (run_dir / "artifacts").exists()
    assert "no backend that takes files" in capsys.readouterr().err


def kept_files(journal: Journal) -> list[bytes]:
    """Return the contents of `model.pt` in every artifact of the journal, in its order."""
    directories = [entry.directory for entry in journal.entries if isinstance(entry, Artifact)]
    return [(journal.run_dir / d / "files" / "model.pt").read_bytes() for d in directories]


def test_a_checkpoint_saved_again_under_one_name_is_kept_each_time(tmp_path: Path) -> None:
    """`torch.save` to one name rewrites one file; what the call has returned from is ours."""
    checkpoint = tmp_path / "model.pt"
    journal = Journal(tmp_path / "run")
    for version in (b"a", b"b", b"c"):
        checkpoint.write_bytes(version * LARGE)
        journal.recorder.log_checkpoint(checkpoint, ("latest",), force=True, step=None)
    checkpoint.unlink()

    assert kept_files(journal) == [version * LARGE for version in (b"a", b"b", b"c")]


def test_versions_keep_their_order_although_nobody_waits(tmp_path: Path) -> None:
    """A small one does not overtake a large one: its aliases would go to the older."""
    journal = Journal(tmp_path / "run", copy_wait_s=0.0)
    sizes = (LARGE * 20, 1, LARGE * 5, 2)
    for number, size in enumerate(sizes):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "model.pt").write_bytes(b"w" * size)
        journal.recorder.log_checkpoint(folder, ("latest",), force=True, step=number)

    assert journal.recorder.wait(60)
    assert [len(contents) for contents in kept_files(journal)] == list(sizes)


class SlowDisk:
    """A copy that waits until it is told to go on."""

    def __init__(self) -> None:
        """Hold every copy up."""
        self.reached, self.go_on = threading.Event(), threading.Event()

    def copy(self, reading: int, writing: int, is_cut_short: Callable[[], bool]) -> None:
        """Take the place of `copying.copy`."""
        self.reached.set()
        assert self.go_on.wait(60)
        copying.copy(reading, writing, is_cut_short)


@pytest.fixture
def slow_disk(monkeypatch: pytest.MonkeyPatch) -> SlowDisk:
    """A disk that takes its time."""
    disk = SlowDisk()
    monkeypatch.setattr(snapshot, "copy", disk.copy)
    return disk


def test_the_call_waits_for_the_copy_no_longer_than_it_may(
    tmp_path: Path, slow_disk: SlowDisk, capsys: pytest.CaptureFixture[str]
) -> None:
    """Then the copy goes on beside training, which is said; a rewrite meanwhile is noticed."""
    checkpoint = tmp_path / "model.pt"
    checkpoint.write_bytes(b"a" * LARGE)
    journal = Journal(tmp_path / "run", copy_wait_s=0.01)
    journal.recorder.log_checkpoint(checkpoint, ("latest",), force=True, step=None)
    busy, entries = journal.recorder.busy, list(journal.entries)
    checkpoint.write_bytes(b"b" * LARGE)
    slow_disk.go_on.set()

    assert journal.recorder.wait(60)
    assert (busy, entries, journal.entries) == (True, [], [])
    assert journal.notices.counts() == {"failed_calls": 1}
    said = capsys.readouterr().err
    assert f"log_checkpoint has waited 0.01 s for a copy of {checkpoint}" in said
    assert f"log_checkpoint of {checkpoint}: model.pt was changed, in place" in said


def test_a_copy_that_is_cut_short_is_kept_as_links(tmp_path: Path, slow_disk: SlowDisk) -> None:
    """SIGTERM comes while a copy is under way: the checkpoint is uploaded all the same."""
    checkpoint = tmp_path / "model.pt"
    checkpoint.write_bytes(b"a" * LARGE)
    journal = Journal(tmp_path / "run", copy_wait_s=0.0)
    journal.recorder.log_checkpoint(checkpoint, ("latest",), force=True, step=None)
    assert slow_disk.reached.wait(60)
    in_time = journal.recorder.cut_short(0.0)
    slow_disk.go_on.set()

    assert not in_time
    assert journal.recorder.cut_short(60.0)
    assert kept_files(journal) == [b"a" * LARGE]


def test_metadata_that_is_asked_for_is_no_checkpoint_that_is_cut_short(tmp_path: Path) -> None:
    """Git may take seconds; nothing of it is said to be lost at a SIGTERM."""
    asked, answer = threading.Event(), threading.Event()

    def ask() -> dict[str, Any]:
        asked.set()
        assert answer.wait(60)
        return {}

    journal = Journal(tmp_path / "run")
    journal.recorder.record_metadata(ask)
    assert asked.wait(60)
    try:
        assert journal.recorder.busy
        assert journal.recorder.cut_short(0.0)
    finally:
        answer.set()
    assert journal.recorder.wait(60)


@pytest.mark.parametrize(
    ("offline", "said"),
    [
        (False, "uploading checkpoint {}: 3.1 MB in 1 files; until then a copy takes 3.1 MB"),
        (True, "keeping checkpoint {} for an upload: 3.1 MB in 1 files; until then a copy takes"),
    ],
)
def test_the_room_that_a_copy_takes_is_said_before(
    tmp_path: Path,
    slow_disk: SlowDisk,
    capsys: pytest.CaptureFixture[str],
    offline: bool,
    said: str,
) -> None:
    """Offline nothing is uploading."""
    checkpoint = tmp_path / "model.pt"
    checkpoint.write_bytes(b"a" * LARGE)
    journal = Journal(tmp_path / "run", copy_wait_s=0.0, is_offline=lambda: offline)
    journal.recorder.log_checkpoint(checkpoint, ("latest",), force=True, step=None)
    assert slow_disk.reached.wait(60)
    before = capsys.readouterr().err
    slow_disk.go_on.set()

    assert said.format(checkpoint) in before
    assert journal.recorder.wait(60)


def test_nobody_waits_for_what_no_thread_was_left_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit of processes: the checkpoint is refused; the end of the run waited an hour for it."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    checkpoint = tmp_path / "model.pt"
    checkpoint.write_bytes(b"weights")
    journal = Journal(tmp_path / "run")
    with monkeypatch.context() as limited:
        limited.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start"):
            journal.recorder.log_checkpoint(checkpoint, ("best",), force=True, step=7)
    journal.recorder.log_checkpoint(checkpoint, ("best",), force=True, step=8)

    assert journal.recorder.wait(0.0)
    assert [entry.step for entry in journal.entries if isinstance(entry, Artifact)] == [8]
