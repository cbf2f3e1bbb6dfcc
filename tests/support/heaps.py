"""MLflow and trackio as a person's own code finds them: what is there, by their own readers.

trackio decides where its databases are when it is imported: it is imported here first, and tests
tell themselves apart by their projects.
"""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

if "trackio" not in sys.modules:
    os.environ["TRACKIO_DIR"] = tempfile.mkdtemp(prefix="trackio-")
    atexit.register(shutil.rmtree, os.environ["TRACKIO_DIR"], ignore_errors=True)

from support.journals import write_attempt
from support.late import Late
from trackio import utils
from trackio.sqlite_storage import SQLiteStorage

from fasttrack.artifacts.staging import stage
from fasttrack.delivery.contents import canonical
from fasttrack.delivery.events import Done
from fasttrack.delivery.run_delivery import RunDelivery
from fasttrack.journal.entries import Artifact
from fasttrack.journal.run_directory import segments, staged_directory

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from support.journals import Line

    from fasttrack.delivery.events import Event

mlflow_client = Late("fasttrack.delivery.backends.mlflow.client")
tracking, version = Late("mlflow.tracking"), Late("mlflow.version")

Values: TypeAlias = "Counter[tuple[int, str, object]]"
"""(step, metric, number) -> how often it is there."""


def counted(rows: Iterable[tuple[int, Mapping[str, object]]]) -> Values:
    """Return the values of rows, (step, metrics) each; NaN is equal to itself."""
    return Counter(
        (step, name, canonical(value)) for step, metrics in rows for name, value in metrics.items()
    )


class Heap:
    """Where one test's runs go.

    Attributes:
        backend: its name.
        project: the test's own.
        database: the file that it is in.
    """

    backend: str
    database: Path

    def __init__(self, project: str) -> None:
        """Take the runs of `project`."""
        self.project = project

    def record(self, base: Path, *entries: Line, **changes: Any) -> Path:
        """Write the next attempt of a run under `base` that is to go there; return its segment.

        Args:
            base: the parent of `wandb/`.
            entries: what follows the header.
            changes: fields of the header.
        """
        told = {"backends": (self.backend,), "project": self.project, **changes}
        return write_attempt(base, "ab12", *entries, **told)

    def environment(self) -> dict[str, str]:
        """Return the variables that say where it is."""
        raise NotImplementedError

    def runs(self) -> list[str]:
        """Return its own ids of the runs that it shows in the project."""
        raise NotImplementedError

    def values(self, run: str) -> Values:
        """Return what it shows of the run that it calls `run`."""
        raise NotImplementedError

    def config(self, run: str) -> dict[str, Any]:
        """Return what it shows of the run's configuration."""
        raise NotImplementedError

    def values_of_the_run(self) -> Values:
        """Return what it shows of the project's only run."""
        (run,) = self.runs()
        return self.values(run)


@functools.cache
def _empty_database() -> bytes:
    """Return a database of MLflow's, kept for all processes of all test runs: it takes seconds."""
    path = Path(tempfile.gettempdir(), f"fasttrack-tests-mlflow-{version.VERSION}-{os.getuid()}.db")
    if not path.exists():
        mlflow_client.make_database(path)
    return path.read_bytes()


class MlflowHeap(Heap):
    """A database of MLflow's, which takes seconds to be made: that is done once."""

    backend = "mlflow"

    def __init__(self, project: str, folder: Path) -> None:
        """Keep it in `folder`."""
        super().__init__(project)
        self.database = folder / "mlflow.db"
        self.database.write_bytes(_empty_database())
        self.uri = f"sqlite:///{self.database}"
        self.client = tracking.MlflowClient(self.uri)

    def environment(self) -> dict[str, str]:
        """Return the variables that say where it is."""
        return {"MLFLOW_TRACKING_URI": self.uri}

    def runs(self) -> list[str]:
        """Return MLflow's ids of the runs."""
        found = self.client.get_experiment_by_name(self.project)
        if found is None:
            return []
        return [run.info.run_id for run in self.client.search_runs([found.experiment_id])]

    def values(self, run: str) -> Values:
        """Return what its public client has of a run."""
        return counted(
            (point.step, {name: point.value})
            for name in self.client.get_run(run).data.metrics
            for point in self.client.get_metric_history(run, name)
        )

    def config(self, run: str) -> dict[str, Any]:
        """Return the run's parameters."""
        return dict(self.client.get_run(run).data.params)


class TrackioHeap(Heap):
    """A project of trackio's."""

    backend = "trackio"
    directory: Path = utils.TRACKIO_DIR

    def __init__(self, project: str) -> None:
        """Take the runs of `project`."""
        super().__init__(project)
        self.database = SQLiteStorage.get_project_db_path(project)

    def environment(self) -> dict[str, str]:
        """Return the variables that say where it is."""
        return {"TRACKIO_DIR": str(self.directory)}

    def runs(self) -> list[str]:
        """Return the runs that its dashboard lists."""
        return [str(record["id"]) for record in SQLiteStorage.get_run_records(self.project)]

    def values(self, run: str) -> Values:
        """Return what its dashboard shows of a run."""
        logs = SQLiteStorage.get_logs(self.project, run_id=run)
        return counted(
            (log["step"], {k: v for k, v in log.items() if k not in ("step", "timestamp")})
            for log in logs
        )

    def config(self, run: str) -> dict[str, Any]:
        """Return the run's configuration."""
        return SQLiteStorage.get_run_config(self.project, run_id=run) or {}


def deliver_here(run_dir: Path, to: tuple[str, ...] = ()) -> dict[str, Done]:
    """Deliver a run by hand, in this process; return what became of it, by backend."""
    told: list[Event] = []
    newest = segments(run_dir)[-1]
    delivery = RunDelivery(newest, trainer_alive=lambda: False, report=told.append, in_trainer=True)
    delivery.deliver_now(to)
    return {event.backend: event for event in told if isinstance(event, Done)}


def staged(segment: Path, files: dict[str, str], *, number: int = 1) -> Artifact:
    """Stage files as a checkpoint of the attempt that writes `segment`; return its entry."""
    folder = staged_directory(segment, number)
    source = segment.parents[3] / f"checkpoint-{number}"
    for name, text in files.items():
        path = source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    stage(source, folder).finish()
    return Artifact(
        number=number,
        type="model",
        name="model-ab12",
        aliases=("latest", f"step{number}"),
        directory=str(folder.relative_to(segment.parent)),
        files=len(files),
    )
