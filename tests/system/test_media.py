"""Media end to end: from arrays of a real run to W&B's files and server and TensorBoard's files."""

from __future__ import annotations

import functools
import io
import json
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from support.runs import (
    deliver,
    delivery_pid,
    journal_entries,
    make_tracker,
    offline_dirs,
    run_dir,
    wait_until,
)
from support.wandb_server import Fault, WandbServer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

import fasttrack
from fasttrack import Options
from fasttrack.delivery.backends.wandb.history import FileHistory
from fasttrack.journal.cursor import load_cursor
from fasttrack.journal.media import MediaRow
from fasttrack.journal.run_directory import cursor_path
from fasttrack.runs.local import find_run
from fasttrack.runs.verify import verify_run

if TYPE_CHECKING:
    from fasttrack import ExperimentTracker


@functools.cache
def digits() -> Any:
    """Return scikit-learn's digits, which are not loaded by whoever only collects this."""
    from sklearn.datasets import load_digits

    return load_digits()


@functools.cache
def images() -> Any:
    """Return their pictures: uint8, (1797, 8, 8)."""
    return np.round(digits().images * 255 / 16).astype(np.uint8)


class Training:
    """A classifier of digits that shows what it gets wrong."""

    def __init__(self) -> None:
        """Begin with random weights."""
        torch.manual_seed(0)
        self.inputs = torch.from_numpy(digits().data).float() / 16
        self.labels = torch.from_numpy(digits().target)
        self.model = torch.nn.Linear(64, 10)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.05)

    def train(self, tracker: ExperimentTracker, steps: range) -> None:
        """Take and log some steps."""
        for step in steps:
            loss = torch.nn.functional.cross_entropy(self.model(self.inputs), self.labels)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            tracker.log_training_step(loss, step, 8)
            said = self.model(self.inputs).argmax(1)
            wrong = (said != self.labels).nonzero()[:3, 0]
            pictures = [
                fasttrack.Image(images()[n], f"{self.labels[n]} as {said[n]}")
                for n in wrong.tolist()
            ]
            tracker.log_media("wrong", pictures, step)
            tracker.log_media("weight", fasttrack.Histogram(self.model.weight), step)
            rows = [[n, (said == n).sum().item()] for n in range(10)]
            tracker.log_media("said", fasttrack.Table(columns=["digit", "times"], data=rows), step)
            tracker.log_media("first", images()[step], step)
            tracker.log_media("note", f"<{step}>", step)


NAMES = ("wrong", "weight", "said", "first", "note")


def pixels(picture: Path | bytes) -> list[list[int]]:
    """Return what another program reads from a picture."""
    file = io.BytesIO(picture) if isinstance(picture, bytes) else picture
    with Pillow.open(file) as opened:
        found: list[list[int]] = np.asarray(opened).tolist()
    return found


def shown(rows: list[dict[str, Any]]) -> list[tuple[int, str]]:
    """Return the media of W&B's rows: the user's step and the name of each."""
    return [(row["step"], name) for row in rows for name in row if name in NAMES]


def once(steps: range) -> list[tuple[int, str]]:
    """Return the same, of steps that were logged once each."""
    return [(step, name) for step in steps for name in NAMES]


def test_an_offline_run_stands_in_both_backends_with_what_it_showed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line of W&B's for each step; its files' contents; TensorBoard's own reader."""
    with make_tracker(options=Options(backends=("wandb", "tensorboard"))) as tracker:
        Training().train(tracker, range(4))
    run_id = str(tracker.get_run_id())

    (directory,) = offline_dirs(tmp_path)
    rows: list[dict[str, Any]] = list(FileHistory(directory.glob("run-*.wandb")).rows())
    assert [row["step"] for row in rows] == [row["_step"] for row in rows] == [0, 1, 2, 3]
    assert sorted(shown(rows)) == sorted(once(range(4)))
    media = {(one.step, one.name): one for one in fasttrack.open_run(run_id).media()}
    for row in rows:
        step = int(row["step"])
        first = directory / "files" / row["first"]["path"]
        assert pixels(first) == images()[step].tolist()
        assert row["wrong"]["captions"] == list(media[step, "wrong"].captions)
        assert row["weight"]["values"] == list(media[step, "weight"].counts)
        table = json.loads((directory / "files" / row["said"]["path"]).read_text())
        assert sum(times for _, times in table["data"]) == len(images())
        assert (directory / "files" / row["note"]["path"]).read_text().count(f"&lt;{step}&gt;") == 1
    assert tracker.stats().rows_delivered == tracker.stats().rows_written == 24

    found = EventAccumulator(str(tmp_path / "tensorboard" / run_id), {"tensors": 0}).Reload()
    tensors = {tag: found.Tensors(tag) for tag in NAMES}
    assert {tag: [event.step for event in events] for tag, events in tensors.items()} == (
        {tag: [0, 1, 2, 3] for tag in NAMES}
    )
    plugins = {tag: found.SummaryMetadata(tag).plugin_data.plugin_name for tag in NAMES}
    assert plugins == {
        "wrong": "images",
        "weight": "histograms",
        "said": "text",
        "first": "images",
        "note": "text",
    }
    for step in range(4):
        width, height, picture = make_ndarray(tensors["first"][step].tensor_proto)
        assert (int(width), int(height), pixels(picture)) == (8, 8, images()[step].tolist())
        bars = make_ndarray(tensors["weight"][step].tensor_proto)
        assert bars[:, 2].tolist() == list(media[step, "weight"].counts)
        assert len(make_ndarray(tensors["wrong"][step].tensor_proto)) == 2 + 3

    # What is not there is missed as a row is, by its contents.
    (run_dir(tmp_path, run_id) / "segment-0001.jsonl").write_bytes(
        (run_dir(tmp_path, run_id) / "segment-0001.jsonl")
        .read_bytes()
        .replace(media[2, "note"].paths[0].name.encode(), b"0" * 20 + b".txt")
    )
    for place in verify_run(find_run(run_id)).places:
        assert (place.missing, place.missing_steps) == (1, [[2, 2]]), place


@pytest.mark.server
def test_killed_deliveries_and_a_resumed_run_leave_everything_on_the_server_once(
    server: WandbServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The delivery process is killed in the midst, then the run goes on; the files arrive, too."""
    monkeypatch.setenv("WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL", "1")
    training = Training()
    with make_tracker(mode="online") as tracker:
        training.train(tracker, range(8))
        run_id = str(tracker.get_run_id())
        wait_until(lambda: run_id in server.runs and len(server.runs[run_id].history) > 3)
        os.kill(delivery_pid(tracker), signal.SIGKILL)
        training.train(tracker, range(8, 12))
    with make_tracker(mode="online", resume_id=run_id, tags=None) as second:
        training.train(second, range(12, 15))

    run = server.runs[run_id]
    assert sorted(shown(run.history)) == sorted(once(range(15)))
    assert [row["_step"] for row in run.history] == sorted({row["_step"] for row in run.history})
    for row in run.history:
        assert pixels(run.files[row["first"]["path"]]) == images()[int(row["step"])].tolist()
        assert set(row["wrong"]["filenames"]) <= set(run.files)
        assert row["said"]["path"] in run.files
    rows = {segment.name: 0 for segment in run_dir(tmp_path, run_id).glob("segment-*")}
    ledger = load_cursor(cursor_path(run_dir(tmp_path, run_id))).ledger("wandb")
    proofs = [str(ledger.segment(name).proof) for name in rows]
    assert all("read back from the server" in proof for proof in proofs)
    assert "files of media are there" in proofs[-1]
    assert capsys.readouterr().err.count("files of media") == 0
    assert {artifact.type for artifact in server.artifacts} == {"run_table"}


@pytest.mark.server
def test_what_was_logged_offline_comes_to_the_server_later_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Delivered twice by hand; the second time adds nothing."""
    with make_tracker(mode="offline") as tracker:
        Training().train(tracker, range(5))
    run_id = str(tracker.get_run_id())
    with WandbServer() as server:
        for name, value in server.env().items():
            monkeypatch.setenv(name, value)
        first = deliver(run_dir(tmp_path, run_id))
        second = deliver(run_dir(tmp_path, run_id))
        run = server.runs[run_id]

    assert (first["delivered"], second["delivered"]) == (True, True), (first, second)
    assert sorted(shown(run.history)) == sorted(once(range(5)))
    assert [pixels(run.files[row["first"]["path"]]) for row in run.history] == [
        images()[step].tolist() for step in range(5)
    ]


@pytest.mark.server
def test_a_file_that_the_server_refuses_is_named_and_holds_up_no_row(
    server: WandbServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The client says nothing of it; what the server has is asked for."""
    with make_tracker(mode="online", options=Options(console=False)) as tracker:
        wait_until(lambda: tracker.get_run_url() is not None)
        server.fault = Fault("status", "upload", status=403)
        tracker.log_media("first", images()[0], 0)
        tracker.log_metrics({"loss": 1.0}, 0)

    said = capsys.readouterr().err
    assert server.faults_struck > 0
    assert "rows delivered: 2" in said
    assert "1 of 1 files of media (media/images/first_0_" in said


def test_a_file_that_is_gone_leaves_its_row_and_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing else is held up by it: the run is delivered, in both backends."""
    with make_tracker(options=Options(backends=("none",), console=False)) as tracker:
        tracker.log_media("gone", images()[0], 0)
        tracker.log_media("there", images()[1], 0)
        tracker.log_metrics({"loss": 1.0}, 0)
    run_id = str(tracker.get_run_id())
    gone, _ = fasttrack.open_run(run_id).media()
    gone.paths[0].unlink()
    segment = run_dir(tmp_path, run_id) / "segment-0001.jsonl"
    segment.write_bytes(
        segment.read_bytes().replace(b'"backends":[]', b'"backends":["wandb","tensorboard"]')
    )
    options = Options(backends=("wandb", "tensorboard"), console=False)
    with make_tracker(resume_id=run_id, tags=None, options=options) as second:
        pass

    assert second._engine is not None
    assert second._engine.delivery.report.delivered
    (directory,) = offline_dirs(tmp_path)
    (row,) = FileHistory(directory.glob("run-*.wandb")).rows()
    assert (row["loss"], set(row) >= {"gone", "there"}) == (1.0, True)
    assert len(list((directory / "files/media/images").iterdir())) == 1
    assert capsys.readouterr().err.count("what 'gone' showed at step 0") == 2


def test_without_pillow_pictures_arrive_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package that cannot be imported stands before the real one."""
    blocked = tmp_path / "blocked" / "PIL"
    blocked.mkdir(parents=True)
    (blocked / "__init__.py").write_text("raise ImportError('no Pillow here')")
    monkeypatch.setenv("PYTHONPATH", str(blocked.parent))
    with make_tracker(options=Options(console=False)) as tracker:
        tracker.log_media("first", images()[0], 0)

    assert tracker.stats().rows_delivered == 1
    (entry,) = journal_entries(tmp_path, tracker.get_run_id(), MediaRow)
    (directory,) = offline_dirs(tmp_path)
    (row,) = FileHistory(directory.glob("run-*.wandb")).rows()
    told: Any = row["first"]
    assert told["_type"] == "image-file"
    picture = directory / "files" / told["path"]
    assert pixels(picture) == images()[0].tolist()
    assert picture.stem.endswith(entry.files[0].partition(".")[0])
