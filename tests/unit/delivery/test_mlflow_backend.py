"""What MLflow has of a run beside its rows, and where; runs that went or vanished there."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from support.heaps import MlflowHeap, counted, deliver_here, staged
from support.journals import append, finish, row, rows_of
from support.late import Late

from fasttrack.delivery.backends.base import Place
from fasttrack.delivery.backends.mlflow import names
from fasttrack.errors import BackendUnavailableError
from fasttrack.journal.cursor import Ledger, load_cursor
from fasttrack.journal.entries import Header, Metadata
from fasttrack.journal.media import MediaRow
from fasttrack.journal.run_directory import cursor_path, media_directory, staged_directory

mlflow_client = Late("fasttrack.delivery.backends.mlflow.client")
mlflow_backend = Late("fasttrack.delivery.backends.mlflow.backend")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowHeap:
    """A database of MLflow's."""
    made = MlflowHeap("vla", tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", made.uri)
    return made


@pytest.mark.parametrize(
    ("exit_code", "preempting", "status"),
    [
        (0, False, "FINISHED"),
        (1, False, "FAILED"),
        (143, False, "KILLED"),
        (-9, False, "KILLED"),
        (0, True, "KILLED"),
    ],
)
def test_the_run_ends_as_its_trainer_did(
    tmp_path: Path, store: MlflowHeap, exit_code: int, preempting: bool, status: str
) -> None:
    """And began and ended when it did, however late it is delivered."""
    last = finish(exit_code, preempting=preempting)
    segment = store.record(tmp_path, row(0, 0, loss=1.0), last, time_s=1e9)

    deliver_here(segment.parent)

    (run,) = store.runs()
    info = store.client.get_run(run).info
    assert (info.status, info.start_time) == (status, 10**12)
    assert info.end_time == int(last.time_s * 1000)


def test_media_are_files_under_their_names_and_steps(tmp_path: Path, store: MlflowHeap) -> None:
    """Each once, also where delivery begins anew and an attempt logs what is there already."""
    picture, page = "0" * 20 + ".png", "1" * 20 + ".html"
    bins = {"counts": [1, 2], "bins": [0, 1, 2]}
    media = [
        MediaRow(1, 5, 1e9, name="val/sample", type="image", files=(picture,)),
        MediaRow(2, 5, 1e9, name="../pages", type="html", files=(page,)),
        MediaRow(3, 6, 1e9, name="weights", type="histogram", about=bins),
        MediaRow(4, 6, 1e9, name="gone", type="text", files=("2" * 20 + ".txt",)),
    ]
    segment = store.record(tmp_path, row(0, 0, loss=1.0), *media, row(5, 6, loss=0.5), finish())
    folder = media_directory(segment.parent)
    folder.mkdir()
    (folder / picture).write_bytes(b"a picture")
    (folder / page).write_bytes(b"<p>")
    first = deliver_here(segment.parent)["mlflow"]
    (run,) = store.runs()
    listed = mlflow_client.Client(store.uri).sizes(run, "media")
    cursor_path(segment.parent).unlink()
    store.record(tmp_path, media[0], row(6, 7, loss=0.5), finish(), resumed=True)
    again = deliver_here(segment.parent)["mlflow"]

    assert first.delivered
    assert (first.proof or "").endswith("; 3 of 3 files of media listed with their sizes")
    assert again.delivered
    assert store.values_of_the_run() == counted(
        [(0, {"loss": 1.0}), (6, {"loss": 0.5}), (7, {"loss": 0.5})]
    )
    named = media[2].identity.removeprefix("media ")
    escaped = names.name_for("../pages")
    assert listed == mlflow_client.Client(store.uri).sizes(run, "media")
    assert set(listed) == {
        f"media/val/sample/00000005-{picture}",
        f"media/{escaped}/00000005-{page}",
        f"media/weights/00000006-{named}.json",
    }
    assert listed[f"media/val/sample/00000005-{picture}"] == 9
    assert not list(segment.parent.glob(".*media*"))


def test_what_the_run_is_called_and_tagged(tmp_path: Path, store: MlflowHeap) -> None:
    """A resumed attempt with another configuration goes on, and says what it changed."""
    meta = Metadata({"git": {"commit": "abc", "dirty": False}})
    told: dict[str, Any] = {
        "name": "eo1_lego",
        "group": "baseline",
        "notes": "try",
        "config": {"lr": 0.1},
    }
    segment = store.record(tmp_path, meta, row(0, 0, loss=1.0), finish(1), **told)
    deliver_here(segment.parent)
    store.record(tmp_path, row(0, 1, loss=1.0), finish(), resumed=True, config={"lr": 0.2})

    assert deliver_here(segment.parent)["mlflow"].delivered
    (run,) = store.runs()
    found = store.client.get_run(run)
    assert (found.info.run_name, found.info.status) == ("eo1_lego", "FINISHED")
    assert found.data.params == {"lr": "0.1"}
    expected = {
        "fasttrack.run_id": "ab12",
        "model": "eo1",
        "objective": "ar+fm",
        "group": "baseline",
        "mlflow.note.content": "try",
        "mlflow.source.git.commit": "abc",
        "metadata.git.dirty": "False",
        "config.lr": "0.2",
    }
    assert {name: found.data.tags.get(name) for name in expected} == expected


def test_a_database_is_made_whole_or_not_at_all(
    tmp_path: Path, store: MlflowHeap, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow can neither use nor mend one whose making was broken off."""
    other = tmp_path / "other" / "mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{other}")

    def broken_off(tracking_uri: str) -> None:
        Path(tracking_uri.removeprefix("sqlite:///")).write_text("half")
        raise OSError("No space left on device")

    monkeypatch.setattr("fasttrack.delivery.backends.mlflow.client.MlflowClient", broken_off)
    segment = store.record(tmp_path, row(0, 0, loss=1.0), finish())
    done = deliver_here(segment.parent)["mlflow"]

    assert (done.delivered, done.reason) == (False, "MLflow: No space left on device")
    assert list(other.parent.iterdir()) == []


def test_without_an_address_the_database_is_beside_wandb(tmp_path: Path, store: MlflowHeap) -> None:
    """Where `mlflow server` looks for it; the address is remembered."""
    segment = store.record(tmp_path, row(0, 0, loss=1.0), finish())
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI")
        done = deliver_here(segment.parent)["mlflow"]

    assert (done.delivered, done.directory, done.url) == (True, str(tmp_path), None)
    assert len(store.runs()) == 1
    notes = load_cursor(cursor_path(segment.parent)).ledger("mlflow").notes
    assert notes == {"store": store.uri, "run_id": store.runs()[0]}


def test_checkpoints_are_folders_of_the_runs_artifacts(tmp_path: Path, store: MlflowHeap) -> None:
    """None replaces another; the aliases are tags that say which is which."""
    segment = store.record(tmp_path, row(0, 0, loss=1.0))
    first = staged(segment, {"weights.pt": "old", "optimizer/state.pt": "state"})
    second = staged(segment, {"weights.pt": "newer"}, number=2)
    append(segment, first, second, finish())

    done = deliver_here(segment.parent)["mlflow"]

    assert done.delivered, done.reason
    (run,) = store.runs()
    folder = tmp_path / "mlruns" / run / "artifacts" / "model" / "model-ab12"
    assert (folder / "1.1" / "weights.pt").read_text() == "old"
    assert (folder / "1.1" / "optimizer" / "state.pt").read_text() == "state"
    assert (folder / "1.2" / "weights.pt").read_text() == "newer"
    tags = store.client.get_run(run).data.tags
    assert tags["model-ab12.latest"] == "model/model-ab12/1.2"
    assert tags["model-ab12.step1"] == "model/model-ab12/1.1"
    proofs = load_cursor(cursor_path(segment.parent)).ledger("mlflow").segment(segment.name)
    assert proofs.artifacts == {
        "1": "model/model-ab12/1.1: 2 files listed with their sizes",
        "2": "model/model-ab12/1.2: 1 files listed with their sizes",
    }
    assert not staged_directory(segment, 1).exists()


def test_files_that_are_gone_hold_up_no_run_that_is_added_later(
    tmp_path: Path, store: MlflowHeap
) -> None:
    """They were removed once W&B had them."""
    segment = store.record(tmp_path, row(0, 0, loss=1.0), backends=("wandb",))
    entry = staged(segment, {"weights.pt": "old"})
    append(segment, entry, finish())
    shutil.rmtree(staged_directory(segment, 1))

    done = deliver_here(segment.parent, ("mlflow",))["mlflow"]

    assert done.delivered, done.reason


def test_a_run_that_was_deleted_there_is_not_made_again(tmp_path: Path, store: MlflowHeap) -> None:
    """Somebody wanted it gone; what to do otherwise is said."""
    segment = store.record(tmp_path, row(0, 0, loss=1.0))
    deliver_here(segment.parent)
    (run,) = store.runs()
    store.client.delete_run(run)
    append(segment, row(1, 1, loss=1.0), finish())

    done = deliver_here(segment.parent)["mlflow"]

    assert not done.delivered
    fix = f"'mlflow runs restore --run-id {run}' brings it back"
    assert done.reason == f"MLflow's run {run} was deleted; {fix}"
    assert store.runs() == []


def test_a_run_that_vanished_there_is_sent_again(tmp_path: Path, store: MlflowHeap) -> None:
    """All attempts of it, also those that were proven to be there: another database, say."""
    rows = rows_of({"loss": [float(step) for step in range(20)]})
    segment = store.record(tmp_path, *rows[:10], finish(1))
    deliver_here(segment.parent)
    store.record(tmp_path, *rows[10:], finish(), resumed=True)
    other = MlflowHeap("vla", tmp_path / "home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", other.uri)
        done = deliver_here(segment.parent)["mlflow"]

    assert done.delivered, done.reason
    assert other.values_of_the_run() == counted((row.step, row.values) for row in rows)


def test_a_metric_that_is_refused_holds_up_no_other(
    tmp_path: Path, store: MlflowHeap, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an older server may do; it is named in the proof."""

    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    real = SqlAlchemyStore.log_batch

    def log_batch(self: Any, run_id: str, metrics: Any, params: Any, tags: Any) -> None:
        if any(metric.key == "bad" for metric in metrics):
            raise MlflowException("no 'bad' here", INVALID_PARAMETER_VALUE)
        real(self, run_id, metrics, params, tags)

    monkeypatch.setattr(SqlAlchemyStore, "log_batch", log_batch)
    rows = rows_of({"loss": [float(step) for step in range(20)], "bad": [1.0, 2.0]})
    segment = store.record(tmp_path, *rows, finish())

    done = deliver_here(segment.parent)["mlflow"]

    assert done.delivered, done.reason
    assert done.proof is not None
    assert done.proof.endswith("left out: 'bad' from step 0 on: no 'bad' here")
    assert store.values_of_the_run() == {(step, "loss", float(step)): 1 for step in range(20)}


def test_an_offline_run_does_not_touch_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does it wait for it; whoever asks by hand, asks for it."""

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:word@127.0.0.1:9")
    place = Place(run_dir=tmp_path, ledger=Ledger(), save=lambda: None, in_trainer=True)

    with pytest.raises(BackendUnavailableError, match="the run is in offline mode") as raised:
        mlflow_backend.MlflowBackend(place).open(
            Header(run_id="ab12", mode="offline"), online=True, timeout_s=1.0
        )

    assert raised.value.final
    assert "word" not in str(raised.value)
