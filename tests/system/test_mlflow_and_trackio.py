"""Runs from a real tracker to MLflow and trackio, at once, later, and through kills and outages."""

from __future__ import annotations

import json
import math
import sqlite3
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from support.heaps import MlflowHeap, TrackioHeap, counted, deliver_here, staged
from support.journals import append, finish, rows_of, write_attempt
from support.mlflow_server import MlflowServer
from support.runs import journal_rows, make_tracker, run_dir, wait_until

from fasttrack import Options
from fasttrack.cli.app import cli
from fasttrack.delivery.verification import verify
from fasttrack.delivery.watchdog import Watchdog
from fasttrack.journal.cursor import load_cursor
from fasttrack.journal.run_directory import cursor_path

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from click.testing import Result
    from support.heaps import Heap, Values

BOTH = ("mlflow", "trackio")


@pytest.fixture
def heaps(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[MlflowHeap, TrackioHeap]:
    """Both destinations, for this test's project."""
    project = request.node.name.replace("_", "-")[:100]
    both = MlflowHeap(project, tmp_path), TrackioHeap(project)
    for heap in both:
        for name, value in heap.environment().items():
            monkeypatch.setenv(name, value)
    return both


@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """MLflow's own server, which is down."""
    folder = tmp_path_factory.mktemp("mlflow-server")
    served = MlflowServer(MlflowHeap("served", folder).uri, folder / "artifacts")
    yield served
    served.stop()


def journal(base: Path, run_id: str | None) -> Values:
    """Return what the run's journal has."""
    return counted((row.step, row.values) for row in journal_rows(base, run_id))


def proofs(base: Path, run_id: str | None) -> dict[str, str | None]:
    """Return what proves the first attempt's delivery, by backend."""
    ledgers = load_cursor(cursor_path(run_dir(base, run_id))).backends
    return {name: ledger.segment("segment-0001.jsonl").proof for name, ledger in ledgers.items()}


def command(*arguments: object) -> Result:
    """Call fasttrack in this process; delivery and verification are processes of their own."""
    return CliRunner().invoke(cli, [*map(str, arguments)])


def test_one_run_goes_to_both_and_each_has_a_proof(
    tmp_path: Path, heaps: tuple[Heap, Heap], capsys: pytest.CaptureFixture[str]
) -> None:
    """What their own readers show is what the journal holds; it is said how to look at each."""
    options = Options(backends=(*BOTH, "tensorboard"))
    with make_tracker(project=heaps[0].project, options=options) as tracker:
        for step in (*range(50), *range(20, 40)):
            tracker.log_training_step(step / 7, step, 4, extra={"extra/x": step})
        tracker.log_metrics({"val/loss": float("nan")}, step=10)
    run_id = tracker.get_run_id()

    assert tracker.stats().rows_delivered == tracker.stats().rows_written == 71
    expected = journal(tmp_path, run_id)
    for heap in heaps:
        assert heap.values_of_the_run() == expected
    found = proofs(tmp_path, run_id)
    assert sorted(found) == sorted((*BOTH, "tensorboard"))
    assert all(proof and proof.startswith("71 rows read back") for proof in found.values())
    said = capsys.readouterr().err
    store, events = f"sqlite:///{heaps[0].database}", tmp_path / "tensorboard" / str(run_id)
    for name, arguments in {
        "mlflow": f"mlflow server --backend-store-uri {store}",
        "trackio": f"trackio show --project {heaps[0].project}",
        "tensorboard": f"tensorboard --logdir {events}",
    }.items():
        (line,) = (line for line in said.splitlines() if f"{name}: rows delivered: 71" in line)
        assert line.endswith(arguments), line


@pytest.mark.parametrize(("backend", "count"), [("mlflow", 4000), ("trackio", 20_000)])
def test_killed_delivery_goes_on_where_it_was(
    tmp_path: Path, heaps: tuple[Heap, Heap], backend: str, count: int
) -> None:
    """Killed in the middle: no row is lost, none is there twice, and it is one run."""
    (heap,) = (heap for heap in heaps if heap.backend == backend)
    rows = rows_of({"loss": [step / 7 for step in range(count)]})
    told: dict[str, Any] = {"backends": (backend,), "project": heap.project}
    segment = write_attempt(tmp_path, "ab12", *rows, finish(), **told)
    process = subprocess.Popen(
        [sys.executable, "-m", "fasttrack.delivery", str(segment.parent)], stdout=subprocess.DEVNULL
    )
    with process:
        wait_until(lambda: _count(heap) > 0 or process.poll() is not None)
        process.kill()
    arrived = _count(heap)

    done = deliver_here(segment.parent)[backend]

    assert 0 < arrived < count
    assert done.delivered, done.reason
    assert len(heap.runs()) == 1
    assert heap.values_of_the_run() == counted((row.step, row.values) for row in rows)


def _count(heap: Heap) -> int:
    """Return how many values are there; asked of the file itself, which is quick."""
    if not heap.database.exists():
        return 0
    with closing(sqlite3.connect(heap.database)) as connection:
        try:
            ((count,),) = connection.execute("SELECT count(*) FROM metrics")
        except sqlite3.OperationalError:  # it is being made
            return 0
    return int(count)


def test_one_that_is_down_holds_up_no_other(
    tmp_path: Path,
    heaps: tuple[MlflowHeap, TrackioHeap],
    mlflow_server: MlflowServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Once MLflow's server is up, it gets all, and tells it to who reads over the network."""
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    rows = rows_of({"a": [float(step) for step in range(1500)], "nan": [math.nan, math.inf]})
    told: dict[str, Any] = {"backends": BOTH, "project": heaps[0].project, "mode": "online"}
    segment = write_attempt(tmp_path, "ab12", *rows, **told)
    append(segment, staged(segment, {"weights.pt": "1"}), finish())

    down = deliver_here(segment.parent)
    mlflow_server.start()
    up = deliver_here(segment.parent)
    (place, _) = verify(segment.parent, Watchdog())

    assert (down["trackio"].delivered, down["mlflow"].delivered) == (True, False)
    assert down["mlflow"].reason is not None
    assert mlflow_server.uri.removeprefix("http://").partition(":")[0] in down["mlflow"].reason
    assert heaps[1].values_of_the_run() == counted((row.step, row.values) for row in rows)
    assert up["mlflow"].delivered, up["mlflow"].reason
    assert up["trackio"].already
    client = MlflowClient(mlflow_server.uri)
    experiment = client.get_experiment_by_name(heaps[0].project)
    (run,) = client.search_runs([experiment.experiment_id])
    steps = [point.step for point in client.get_metric_history(run.info.run_id, "a")]
    assert (steps, run.info.status) == ([*range(1500)], "FINISHED")
    page = f"/#/experiments/{experiment.experiment_id}/runs/{run.info.run_id}"
    assert up["mlflow"].url == mlflow_server.uri + page
    assert (place["missing"], place["doubled"], place["values"]) == (0, 0, 1502)
    (folder,) = client.list_artifacts(run.info.run_id, "model/model-ab12")
    assert folder.path == "model/model-ab12/1.1"


def test_a_finished_run_is_delivered_later(tmp_path: Path, heaps: tuple[Heap, Heap]) -> None:
    """It was recorded for the journal alone; what was lost there since is found and sent."""
    rows = rows_of({"loss": [step / 7 for step in range(40)]})
    told: dict[str, Any] = {"backends": (), "project": heaps[0].project}
    write_attempt(tmp_path, "ab12", *rows, finish(), **told)

    later = command("sync", "--to", "mlflow", "--to", "trackio", "ab12", "--json")
    checked = command("verify", "ab12", "--json")

    assert later.exit_code == 0, later.output
    (done,) = json.loads(later.stdout)
    assert sorted(done["backends"]) == [*BOTH]
    assert (done["delivered"], done["rows"]) == (True, 40)
    expected = counted((row.step, row.values) for row in rows)
    for heap in heaps:
        assert heap.values_of_the_run() == expected
    assert checked.exit_code == 0, checked.output
    places = json.loads(checked.stdout)["places"]
    assert sorted(place["backend"] for place in places) == [*BOTH]
    assert "mlflow" in command("show", "ab12").output
