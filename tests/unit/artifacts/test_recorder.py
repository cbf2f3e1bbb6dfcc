"""What becomes of files where no backend of the run takes any."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.journals import read_entries
from support.trackers import Trackers

from fasttrack.artifacts.recorder import Recorder
from fasttrack.journal.entries import Artifact, Config, Metadata
from fasttrack.notices import Notices


class Journal:
    """A recorder and what it writes."""

    def __init__(self, run_dir: Path, **arguments: Any) -> None:
        """Record for a run in `run_dir`."""
        run_dir.mkdir()
        self.run_dir = run_dir
        self.notices = Notices()
        self.entries: list[Config | Metadata | Artifact] = []
        self.recorder = Recorder(
            "ab12",
            run_dir / "segment-0001.jsonl",
            self.entries.append,
            self.notices,
            **{"upload_models": False, **arguments},
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
