"""MLflow and trackio: what their own readers find; no row is lost, or there twice."""

from __future__ import annotations

import math
import random
import shutil
import sqlite3
import sys
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from support.heaps import Heap, MlflowHeap, TrackioHeap, counted, deliver_here, staged
from support.journals import append, finish, row, rows_of, write_attempt

from fasttrack.delivery.backends.mlflow.names import name_for
from fasttrack.delivery.backends.trackio.database import name_for as trackio_name_for
from fasttrack.delivery.verification import recheck, verify
from fasttrack.delivery.watchdog import Watchdog
from fasttrack.journal.cursor import load_cursor
from fasttrack.journal.entries import Config, Metadata
from fasttrack.journal.rows import Row
from fasttrack.journal.run_directory import cursor_path, staged_directory

if TYPE_CHECKING:
    from pathlib import Path

    from support.heaps import Values

NAMES = ["loss", "train/lr", "acc@5", "ä", "step", "a b"]
SPELLED = {"mlflow": name_for, "trackio": trackio_name_for}


def spelled(heap: Heap, rows: list[Row]) -> Values:
    """Return what of `rows` is to be seen, under the names that the destination has for them."""
    spell = SPELLED[heap.backend]
    return counted((row.step, {spell(k): v for k, v in row.values.items()}) for row in rows)


def random_rows(seed: int, count: int = 200) -> list[Row]:
    """Return rows whose steps go back, repeat and are negative, within milliseconds."""
    rng = random.Random(seed)
    step, time_s, rows = -3, 1e9, []
    for seq in range(count):
        step += rng.choice((0, 0, 1, 1, 10, -1, -25))
        time_s += rng.choice((0.0, 0.0003, 0.5))
        names = rng.sample(NAMES, rng.randint(1, 4))
        values = [rng.choice((rng.gauss(0, 1e3), math.nan, float(seq), 2**40)) for _ in names]
        rows.append(Row(seq, step, time_s, dict(zip(names, values, strict=True))))
    return rows


@pytest.fixture(params=["mlflow", "trackio"])
def heap(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Heap:
    """A destination that only this test's runs go to."""
    project = f"{request.node.nodeid.rpartition('::')[2]}"
    project = "".join(letter if letter.isalnum() else "-" for letter in project)[:100]
    made: Heap = TrackioHeap(project)
    if request.param == "mlflow":
        made = MlflowHeap(project, tmp_path)
    for name, value in made.environment().items():
        monkeypatch.setenv(name, value)
    return made


def record(base: Path, heap: Heap, *entries: Any, run_id: str = "ab12", **changes: Any) -> Path:
    """Write an attempt that is for the heap; return its segment.

    trackio's databases are all of one directory, so ids are the test's own there.
    """
    told = {"backends": (heap.backend,), "project": heap.project, **changes}
    return write_attempt(base, run_id, *entries, **told)


# --- rows ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_rows_read_back_are_those_of_the_journal(tmp_path: Path, heap: Heap, seed: int) -> None:
    """Whatever their names, steps, times and numbers are."""
    rows = random_rows(seed)
    segment = record(tmp_path, heap, *rows, finish())

    done = deliver_here(segment.parent)[heap.backend]

    assert done.delivered, done.reason
    assert done.proof is not None
    assert done.proof.startswith("200 rows read back from ")
    assert heap.values_of_the_run() == spelled(heap, rows)


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_infinity_arrives(tmp_path: Path, heap: Heap, value: float) -> None:
    """MLflow's databases know none, and keep the greatest number; verify knows that."""
    segment = record(tmp_path, heap, row(0, 0, loss=value), finish())

    assert deliver_here(segment.parent)[heap.backend].delivered
    ((_, _, found),) = heap.values_of_the_run()
    kept = math.copysign(sys.float_info.max, value) if heap.backend == "mlflow" else value
    assert found == kept


@pytest.mark.parametrize("value", [2**64 - 1, -(2**63), 2**53 + 1, 0.1, 5e-324, -0.0, True])
def test_a_number_arrives(tmp_path: Path, heap: Heap, value: float) -> None:
    """As the nearest one of 64 bits."""
    segment = record(tmp_path, heap, row(0, 2**64 - 1, loss=value), finish())

    assert deliver_here(segment.parent)[heap.backend].delivered
    ((step, _, found),) = heap.values_of_the_run()
    assert (step, found) == (2**63 - 1, float(value) + 0.0)


def test_a_row_logged_twice_is_there_twice(tmp_path: Path, heap: Heap) -> None:
    """With one step, one number and one time: MLflow would take the second for the first."""
    rows = [row(seq, 7, 1e9, loss=1.0) for seq in range(5)]
    segment = record(tmp_path, heap, *rows, finish())

    assert deliver_here(segment.parent)[heap.backend].delivered
    assert heap.values_of_the_run() == {(7, "loss", 1.0): 5}


def test_a_run_without_rows_is_delivered(tmp_path: Path, heap: Heap) -> None:
    segment = record(tmp_path, heap, finish())

    done = deliver_here(segment.parent)[heap.backend]
    assert (done.delivered, done.proof) == (True, "no rows")


# --- again, and again ---------------------------------------------------------------------------


@pytest.mark.parametrize("forget", [False, True])
def test_a_second_delivery_goes_on_behind_the_first(
    tmp_path: Path, heap: Heap, forget: bool
) -> None:
    """Also where what was known of the first is lost, as after a kill, or on another machine."""
    rows = random_rows(1)
    segment = record(tmp_path, heap, *rows[:90])
    assert deliver_here(segment.parent)[heap.backend].delivered
    if forget:
        cursor_path(segment.parent).unlink()
    append(segment, *rows[90:], finish())

    assert deliver_here(segment.parent)[heap.backend].delivered
    assert heap.values_of_the_run() == spelled(heap, rows)
    assert deliver_here(segment.parent)[heap.backend].already


def test_attempts_that_tell_a_step_again_are_both_there(tmp_path: Path, heap: Heap) -> None:
    """Resumed from a checkpoint; some numbers come out the same, and are there twice."""
    first = [row(seq, seq, 1e9 + seq, loss=float(seq)) for seq in range(20)]
    again = [row(seq, 15 + seq, 1.1e9 + seq, loss=15.0 + seq) for seq in range(15)]
    segment = record(tmp_path, heap, *first, finish(1))
    assert deliver_here(segment.parent)[heap.backend].delivered
    record(tmp_path, heap, *again, finish(), resumed=True, name=None)

    assert deliver_here(segment.parent)[heap.backend].delivered
    assert heap.values_of_the_run() == spelled(heap, first + again)


def test_a_run_that_went_elsewhere_is_added_later(tmp_path: Path, heap: Heap) -> None:
    """All attempts of it; from then on it is one of the run's destinations."""
    rows = rows_of({"loss": [float(step) for step in range(20)]})
    segment = record(tmp_path, heap, *rows[:10], finish(), backends=())
    record(tmp_path, heap, *rows[10:], finish(), backends=())
    run_dir = segment.parent

    done = deliver_here(run_dir, (heap.backend,))

    assert done[heap.backend].delivered
    assert heap.values_of_the_run() == spelled(heap, rows)
    assert load_cursor(cursor_path(run_dir)).added == [heap.backend]
    again = deliver_here(run_dir)
    assert (list(again), again[heap.backend].already) == ([heap.backend], True)


def test_two_copies_of_a_run_that_went_on_are_both_there(tmp_path: Path, heap: Heap) -> None:
    """Rows are known by what they are, not by their number in the run."""
    common = rows_of({"loss": [float(step) for step in range(5)]})
    segment = record(tmp_path / "a", heap, *common, finish(1))
    assert deliver_here(segment.parent)[heap.backend].delivered
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    ours = rows_of({"loss": [10.0, 11.0]}, first_step=5)
    theirs = rows_of({"loss": [20.0, 21.0, 22.0]}, first_step=5)
    for base, more in ((tmp_path / "a", ours), (tmp_path / "b", theirs)):
        segment = record(base, heap, *more, finish(), resumed=True)
        assert deliver_here(segment.parent)[heap.backend].delivered

    assert heap.values_of_the_run() == spelled(heap, common + ours + theirs)


# --- configuration ------------------------------------------------------------------------------


def test_the_configuration_is_there(tmp_path: Path, heap: Heap) -> None:
    """Also what became known after the last row."""
    config = {"lr": 0.1, "model": {"layers": 3}}
    late = Config({"batch_size": 8})
    segment = record(tmp_path, heap, row(0, 0, loss=1.0), late, finish(), config=config)
    assert deliver_here(segment.parent)[heap.backend].delivered
    append(segment, Config({"epochs": 4}), finish())
    assert deliver_here(segment.parent)[heap.backend].delivered

    found = heap.config(heap.runs()[0])
    if heap.backend == "mlflow":
        assert found == {"lr": "0.1", "model.layers": "3", "batch_size": "8", "epochs": "4"}
    else:
        expected = {**config, "batch_size": 8, "epochs": 4}
        assert {name: found.get(name) for name in expected} == expected
    assert sum(heap.values_of_the_run().values()) == 1


# --- MLflow's own -------------------------------------------------------------------------------


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
    segment = record(tmp_path, store, row(0, 0, loss=1.0), last, time_s=1e9)

    deliver_here(segment.parent)

    (run,) = store.runs()
    info = store.client.get_run(run).info
    assert (info.status, info.start_time) == (status, 10**12)
    assert info.end_time == int(last.time_s * 1000)


def test_what_the_run_is_called_and_tagged(tmp_path: Path, store: MlflowHeap) -> None:
    """A resumed attempt with another configuration goes on, and says what it changed."""
    meta = Metadata({"git": {"commit": "abc", "dirty": False}})
    told = {"name": "eo1_lego", "group": "baseline", "notes": "try", "config": {"lr": 0.1}}
    segment = record(tmp_path, store, meta, row(0, 0, loss=1.0), finish(1), **told)
    deliver_here(segment.parent)
    record(tmp_path, store, row(0, 1, loss=1.0), finish(), resumed=True, config={"lr": 0.2})

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


def test_without_an_address_the_database_is_beside_wandb(tmp_path: Path, store: MlflowHeap) -> None:
    """Where `mlflow server` looks for it; the address is remembered."""
    segment = record(tmp_path, store, row(0, 0, loss=1.0), finish())
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI")
        done = deliver_here(segment.parent)["mlflow"]

    assert (done.delivered, done.directory, done.url) == (True, str(tmp_path), None)
    assert len(store.runs()) == 1
    notes = load_cursor(cursor_path(segment.parent)).ledger("mlflow").notes
    assert notes == {"store": store.uri, "run_id": store.runs()[0]}


def test_checkpoints_are_folders_of_the_runs_artifacts(tmp_path: Path, store: MlflowHeap) -> None:
    """None replaces another; the aliases are tags that say which is which."""
    segment = record(tmp_path, store, row(0, 0, loss=1.0))
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
    segment = record(tmp_path, store, row(0, 0, loss=1.0), backends=("wandb",))
    entry = staged(segment, {"weights.pt": "old"})
    append(segment, entry, finish())
    shutil.rmtree(staged_directory(segment, 1))

    done = deliver_here(segment.parent, ("mlflow",))["mlflow"]

    assert done.delivered, done.reason


def test_a_run_that_was_deleted_there_is_not_made_again(tmp_path: Path, store: MlflowHeap) -> None:
    """Somebody wanted it gone; what to do otherwise is said."""
    segment = record(tmp_path, store, row(0, 0, loss=1.0))
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
    segment = record(tmp_path, store, *rows[:10], finish(1))
    deliver_here(segment.parent)
    record(tmp_path, store, *rows[10:], finish(), resumed=True)
    other = MlflowHeap("vla", (tmp_path / "other").absolute().parent / "home")
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
    segment = record(tmp_path, store, *rows, finish())

    done = deliver_here(segment.parent)["mlflow"]

    assert done.delivered, done.reason
    assert done.proof is not None
    assert done.proof.endswith("left out: 'bad' from step 0 on: no 'bad' here")
    assert store.values_of_the_run() == {(step, "loss", float(step)): 1 for step in range(20)}


def test_an_offline_run_does_not_touch_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does it wait for it; whoever asks by hand, asks for it."""
    from fasttrack.delivery.backends.base import Place
    from fasttrack.delivery.backends.mlflow.backend import MlflowBackend
    from fasttrack.errors import BackendUnavailableError
    from fasttrack.journal.cursor import Ledger
    from fasttrack.journal.entries import Header

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:word@127.0.0.1:9")
    place = Place(run_dir=tmp_path, ledger=Ledger(), save=lambda: None, in_trainer=True)

    with pytest.raises(BackendUnavailableError, match="the run is in offline mode") as raised:
        MlflowBackend(place).open(Header(run_id="ab12", mode="offline"), online=True, timeout_s=1.0)

    assert raised.value.final
    assert "word" not in str(raised.value)


# --- trackio's own ------------------------------------------------------------------------------


def test_a_project_that_trackio_does_not_take_is_said(tmp_path: Path) -> None:
    """Its database would be another's."""
    heap = TrackioHeap("registry-models")
    segment = record(tmp_path, heap, row(0, 0, loss=1.0), finish())

    done = deliver_here(segment.parent)["trackio"]

    assert not done.delivered
    assert done.reason is not None
    assert "registry-" in done.reason


# --- what was there and is no more --------------------------------------------------------------


@pytest.mark.parametrize("lost", [1, 20])
def test_rows_that_vanish_are_found_and_sent_again(tmp_path: Path, heap: Heap, lost: int) -> None:
    """`fasttrack verify --repair`: each value once; nothing else is touched."""
    rows = [row(seq, seq, 1e9 + seq, loss=float(seq)) for seq in range(20)]
    segment = record(tmp_path, heap, *rows, finish())
    deliver_here(segment.parent)
    with closing(sqlite3.connect(heap.database)) as connection, connection:
        connection.execute("DELETE FROM metrics WHERE step < ?", (lost,))

    (before,) = verify(segment.parent, Watchdog())
    recheck(segment.parent)
    done = deliver_here(segment.parent)[heap.backend]
    (after,) = verify(segment.parent, Watchdog())

    assert (before["missing"], before["missing_steps"]) == (lost, [[0, lost - 1]])
    assert done.delivered, done.reason
    assert (after["missing"], after["doubled"], after["rows"]) == (0, 0, 20)
    assert heap.values_of_the_run() == spelled(heap, rows)


def test_a_destination_that_is_not_there_lacks_everything(tmp_path: Path, heap: Heap) -> None:
    """Looking for a run makes none."""
    segment = record(tmp_path, heap, row(0, 0, loss=1.0), finish())

    (place,) = verify(segment.parent, Watchdog())

    assert (place["rows"], place["missing"]) == (1, 1)
    assert heap.runs() == []
