"""Find a run at MLflow, and read what it holds. Does not import mlflow by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fasttrack.delivery.backends.mlflow.names import number_for
from fasttrack.errors import BackendUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from fasttrack.delivery.backends.mlflow.client import Client, KnownRun
    from fasttrack.delivery.contents import Held
    from fasttrack.journal.cursor import Ledger
    from fasttrack.journal.entries import Header

_NOTE = "run_id"


def find_run(client: Client, header: Header, ledger: Ledger) -> KnownRun | None:
    """Return MLflow's run of the run that `header` describes; None where there is none.

    Args:
        client: the store's.
        header: the run's.
        ledger: may know MLflow's id of it.

    Raises:
        BackendUnavailableError: it was deleted.
        Exception: one of `client.FAULTS`.
    """
    noted: str | None = ledger.notes.get(_NOTE)
    found = None if noted is None else client.run(noted)
    if found is None:  # never known, or of another store
        experiment_id = client.known_experiment(header.project)
        if experiment_id is not None:
            found = client.find_run(experiment_id, header.run_id)
    if found is not None and found.deleted:
        why = f"MLflow's run {found.run_id} was deleted"
        fix = f"mlflow runs restore --run-id {found.run_id}"
        raise BackendUnavailableError(f"{why}; '{fix}' brings it back", final=True)
    return found


def note_run(mlflow_id: str, ledger: Ledger) -> None:
    """Remember MLflow's id of a run."""
    ledger.notes[_NOTE] = mlflow_id


def read_points(client: Client, mlflow_id: str) -> Iterator[Held]:
    """Yield all values that a run of MLflow's holds, each as (step, name -> number).

    Raises:
        Exception: one of `client.FAULTS`.
    """
    known = client.run(mlflow_id)
    for name in () if known is None else known.metrics:
        for step, value in client.points(mlflow_id, name):
            yield step, {name: number_for(value)}


def refused_names(ledger: Ledger, segments: Sequence[Path]) -> frozenset[str]:
    """Return the metrics, as MLflow spells them, that it is known never to take."""
    return frozenset(name for path in segments for name in ledger.segment(path.name).refused)
