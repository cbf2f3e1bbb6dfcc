"""What delivery calls of MLflow's client. The only module that imports mlflow.

What is worked around here, each seen with MLflow 3.17:

* Each call is recorded for its makers' statistics, over the network, unless that is switched off.
* A request that is not answered is made again up to seven times, for minutes, although the first
  may have been taken: values of files are there twice then. Here each is made once; whoever follows
  reads back what was taken.
* An experiment's or run's name identifies nothing: two with the same name are two. Ours is found by
  a tag.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any, NamedTuple

from mlflow.entities import Metric, Param, RunStatus, RunTag
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.tracking import MlflowClient

from fasttrack.errors import BackendLostError, BackendUnavailableError
from fasttrack.redaction import redact_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

try:
    from sqlalchemy.exc import SQLAlchemyError
except ImportError:  # only databases need it
    FAULTS: tuple[type[Exception], ...] = (MlflowException, OSError)
else:
    FAULTS = (MlflowException, OSError, SQLAlchemyError)

RUN_ID_TAG = "fasttrack.run_id"
MOST_METRICS = 1000
"""In one batch; a server refuses more."""
_MOST_BATCH_BYTES = 800_000  # a server refuses a request of more than 1,000,000
_MOST_PARAMETERS = 100  # in one batch; as many tags
_PAGE = 25_000  # values in one page of a metric's history; a server gives no more
_MOST_WORDS = 300  # characters of a fault that are told: a database's quotes the whole statement
_FINAL_CODES = (400, 401, 403)


class Point(NamedTuple):
    """One value of a metric."""

    name: str
    value: float
    stamp_ms: int
    step: int


class KnownRun(NamedTuple):
    """What a run was like when it was looked at."""

    run_id: str
    experiment_id: str
    status: str
    deleted: bool
    parameters: dict[str, str]
    tags: dict[str, str]
    metrics: tuple[str, ...]
    """Names of those that have values."""


def refused(error: Exception) -> bool:
    """Return whether MLflow does not take something because of what it is."""
    return isinstance(error, MlflowException) and error.get_http_status_code() == 400


def lost(error: Exception) -> BackendLostError:
    """Return what delivery is told of a fault in an open session."""
    return BackendLostError(f"MLflow: {_words(error)}")


def unavailable(error: Exception) -> BackendUnavailableError:
    """Return what delivery is told of a fault before there is a session."""
    code = error.get_http_status_code() if isinstance(error, MlflowException) else 0
    words = _words(error)
    unanswered = "API request to" in words and "failed with exception" in words
    return BackendUnavailableError(
        f"MLflow: {words}", final=code in _FINAL_CODES, network=unanswered
    )


def _words(error: Exception) -> str:
    lines = redact_text(str(error)).strip().splitlines() or [repr(error)]
    return lines[0] if len(lines[0]) <= _MOST_WORDS else f"{lines[0][:_MOST_WORDS]}..."


class Client:
    """One store's client; every method raises one of `FAULTS` where the store does not do it.

    Threads: any.
    """

    def __init__(self, uri: str) -> None:
        """Connect; a database is set up where there is none, which takes seconds."""
        self._uri = uri
        self._client = MlflowClient(tracking_uri=uri)
        # Pages: the client's own method holds a metric's whole history in memory.
        self._store = self._client._tracking_client.store

    def experiment(self, name: str, artifacts: str | None) -> str:
        """Return the id of the experiment `name`, made where there is none.

        Args:
            name: its name.
            artifacts: where a new one keeps files, as a URI; None: where the store does by default.

        Raises:
            BackendUnavailableError: it was deleted.
        """
        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                made: str = self._client.create_experiment(name, artifact_location=artifacts)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                found = self._client.get_experiment_by_name(name)  # somebody else's run made it
                assert found is not None
            else:
                return made
        if found.lifecycle_stage != "active":
            why = f"MLflow's experiment {name!r} was deleted"
            fix = f"mlflow experiments restore --experiment-id {found.experiment_id}"
            raise BackendUnavailableError(f"{why}; '{fix}' brings it back", final=True)
        return str(found.experiment_id)

    def known_experiment(self, name: str) -> str | None:
        """Return the id of the experiment `name`; None where there is none."""
        found = self._client.get_experiment_by_name(name)
        return None if found is None else str(found.experiment_id)

    def find_run(self, experiment_id: str, run_id: str) -> KnownRun | None:
        """Return the run that is ours by its tag, the oldest; None where there is none."""
        found = self._client.search_runs(
            [experiment_id],
            filter_string=f"tags.`{RUN_ID_TAG}` = '{run_id}'",
            max_results=1,
            order_by=["attributes.start_time ASC"],
        )
        return _known(found[0]) if found else None

    def run(self, mlflow_id: str) -> KnownRun | None:
        """Return MLflow's run of that id; None where there is none."""
        try:
            return _known(self._client.get_run(mlflow_id))
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise

    def create_run(
        self, experiment_id: str, *, name: str | None, began_ms: int, tags: Mapping[str, str]
    ) -> KnownRun:
        """Make a run, with its tags in one step."""
        made = self._client.create_run(
            experiment_id, start_time=began_ms, tags=dict(tags), run_name=name
        )
        return _known(made)

    def rename(self, mlflow_id: str, name: str) -> None:
        """Give the run another name."""
        self._client.update_run(mlflow_id, name=name)

    def reopen(self, mlflow_id: str) -> None:
        """Have the run count as running."""
        self._client.update_run(mlflow_id, status=RunStatus.to_string(RunStatus.RUNNING))

    def end(self, mlflow_id: str, status: str, ended_ms: int) -> None:
        """End the run as "FINISHED", "FAILED" or "KILLED"."""
        self._client.set_terminated(mlflow_id, status=status, end_time=ended_ms)

    def log_points(self, mlflow_id: str, points: Sequence[Point]) -> None:
        """Add values, `MOST_METRICS` at most; a database takes all of them or none."""
        metrics = [Metric(p.name, p.value, p.stamp_ms, p.step) for p in points]
        self._client.log_batch(mlflow_id, metrics=metrics)

    def log_parameters(self, mlflow_id: str, values: Mapping[str, str]) -> None:
        """Add parameters, which can never be changed."""
        parameters = [Param(name, value) for name, value in values.items()]
        for start in range(0, len(parameters), _MOST_PARAMETERS):
            batch = parameters[start : start + _MOST_PARAMETERS]
            self._client.log_batch(mlflow_id, params=batch)

    def set_tags(self, mlflow_id: str, values: Mapping[str, str]) -> None:
        """Set tags; what there is of the same names is replaced."""
        tags = [RunTag(name, value) for name, value in values.items()]
        for start in range(0, len(tags), _MOST_PARAMETERS):
            self._client.log_batch(mlflow_id, tags=tags[start : start + _MOST_PARAMETERS])

    def points(self, mlflow_id: str, metric: str) -> Iterator[tuple[int, float]]:
        """Yield (step, value) of all that was logged of a metric, page by page."""
        token: str | None = None
        while True:
            page: Any = self._store.get_metric_history(
                run_id=mlflow_id, metric_key=metric, max_results=_PAGE, page_token=token
            )
            for point in page:
                yield point.step, point.value
            token = page.token
            if not token:
                return

    def upload(self, mlflow_id: str, directory: Path, path: str) -> None:
        """Copy a directory's files to `path` of the run's artifacts."""
        self._client.log_artifacts(mlflow_id, str(directory), path)

    def sizes(self, mlflow_id: str, path: str) -> dict[str, int | None]:
        """Return the artifacts at and below `path`: path -> bytes."""
        sizes: dict[str, int | None] = {}
        for file in self._client.list_artifacts(mlflow_id, path):
            if file.is_dir:
                sizes |= self.sizes(mlflow_id, file.path)
            else:
                sizes[file.path] = file.file_size
        return sizes

    def remove(self, mlflow_id: str, path: str) -> None:
        """Remove the artifacts at and below `path`."""
        run = self._client.get_run(mlflow_id)
        get_artifact_repository(run.info.artifact_uri).delete_artifacts(path)


def make_database(path: Path) -> None:
    """Make a database of MLflow's at `path`, whole or not at all; blocks for seconds.

    A kill in the middle of its dozens of migrations would leave one that MLflow can neither use nor
    mend, and so may two processes that make one at the same time: it is made under another name.

    Raises:
        Exception: one of `FAULTS`.
    """
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        made = MlflowClient(tracking_uri=f"sqlite:///{scratch}")
        made._tracking_client.store.engine.dispose()
        with contextlib.suppress(FileExistsError):  # another run's is as good
            os.link(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def batches(points: Sequence[Point]) -> Iterator[Sequence[Point]]:
    """Yield `points` in batches that a server takes."""
    first, size_bytes = 0, 0
    for place, point in enumerate(points):
        weight_bytes = 200 + 6 * len(point.name)  # a letter may be spelled \uXXXX
        if place - first == MOST_METRICS or size_bytes + weight_bytes > _MOST_BATCH_BYTES:
            yield points[first:place]
            first, size_bytes = place, 0
        size_bytes += weight_bytes
    if first < len(points):
        yield points[first:]


def _known(run: Any) -> KnownRun:
    return KnownRun(
        run_id=run.info.run_id,
        experiment_id=run.info.experiment_id,
        status=run.info.status,
        deleted=run.info.lifecycle_stage != "active",
        parameters=dict(run.data.params),
        tags=dict(run.data.tags),
        metrics=tuple(run.data.metrics),
    )
