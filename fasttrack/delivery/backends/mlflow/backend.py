"""MLflow: a run becomes a run of the experiment that its project names.

Where: MLFLOW_TRACKING_URI, a server, a database or files; without it `mlflow.db` beside `wandb/`.
What to know of it, each seen with MLflow 3.17:

* Values of metrics are only ever added. What a killed process had sent is found by reading all of
  the run back, value by value.
* Its runs have ids of its own. Ours is found by the tag `fasttrack.run_id`, so that a run resumed
  anywhere goes on as the same run of MLflow's.
* Names and numbers: see `names.py`; parameters, which never change: see `describing.py`.
* A run has no console, and its files have no versions: each artifact is a folder of its own.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from fasttrack.delivery.backends.base import Holding
from fasttrack.delivery.backends.mlflow import names
from fasttrack.delivery.backends.mlflow.finding import (
    find_run,
    note_run,
    read_points,
    refused_names,
)
from fasttrack.delivery.backends.mlflow.store import find_store, remember
from fasttrack.delivery.backends.numpy_door import let_numpy_in
from fasttrack.errors import BackendUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from fasttrack.delivery.backends.base import Place
    from fasttrack.delivery.backends.mlflow.session import MlflowSession
    from fasttrack.delivery.contents import Held
    from fasttrack.journal.entries import Header
    from fasttrack.journal.rows import Row

_SILENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
_ONCE = {  # a request that may have been taken is not made again, see `client.py`
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}


class MlflowBackend:
    """Open a run as one of MLflow's.

    Threads: one at a time.
    """

    has_offline = False
    takes_artifacts = True
    helper: str | None = None

    def __init__(self, place: Place) -> None:
        """Prepare; nothing is imported or opened yet."""
        self._place = place

    def open(self, header: Header, *, online: bool, timeout_s: float) -> MlflowSession:
        """Open the run, made where it is not there. See `Backend.open`.

        Args:
            header: the run's.
            online: makes no difference.
            timeout_s: a request that is not answered is given up after 30 s in any case.
        """
        store = find_store(self._place.run_dir, self._place.ledger)
        if store.is_remote and header.mode == "offline" and not self._place.by_hand:
            why = f"the run is in offline mode, and {store.shown} is not on this machine"
            raise BackendUnavailableError(why, final=True)
        client = self._import("client")
        session = self._import("session")
        try:
            if store.database is not None and not store.is_there:
                store.database.parent.mkdir(parents=True, exist_ok=True)
                client.make_database(store.database)
            opened: MlflowSession = session.open_session(
                client.Client(store.uri), store, header, self._place
            )
        except client.FAULTS as error:
            raise client.unavailable(error) from error
        remember(store, self._place.ledger)
        note_run(opened.mlflow_id, self._place.ledger)
        self._place.save()
        return opened

    def holdings(self, header: Header, segments: Sequence[Path]) -> list[Holding]:
        """Return MLflow's run. See `Backend.holdings`."""
        ledger = self._place.ledger
        store = find_store(self._place.run_dir, ledger)
        if not store.is_there:
            return [_nothing(f"no database {store.database}", segments)]
        module = self._import("client")
        try:
            client = module.Client(store.uri)
            found = find_run(client, header, ledger)
        except module.FAULTS as error:
            raise module.unavailable(error) from error
        if found is None:
            return [_nothing(f"no run of {store.shown}", segments)]
        refused = refused_names(ledger, segments)

        def rows() -> Iterator[Held]:
            try:
                yield from read_points(client, found.run_id)
            except module.FAULTS as error:
                raise module.lost(error) from error

        def kept(row: Row) -> Held:
            return names.kept(row, refused)

        place = f"run {found.run_id} of {store.shown}"
        return [Holding(place=place, segments=tuple(segments), rows=rows, kept=kept)]

    def abandon(self) -> None:
        """Nothing is held open between calls. See `Backend.abandon`."""

    def _import(self, name: str) -> Any:
        """Import a module of ours that needs MLflow.

        Raises:
            BackendUnavailableError: it is not installed, or does not work with what else is.
        """
        for variable, value in _SILENT.items():
            os.environ.setdefault(variable, value)
        if not self._place.in_trainer:
            let_numpy_in()
            for variable, value in _ONCE.items():
                os.environ.setdefault(variable, value)
        try:
            return importlib.import_module(f"fasttrack.delivery.backends.mlflow.{name}")
        except ImportError as error:
            why = f"MLflow cannot be imported ({error}): pip install 'fasttrack[mlflow]'"
            raise BackendUnavailableError(why, final=True) from error
        except Exception as error:  # what protobuf raises where versions clash has no common base
            raise BackendUnavailableError(f"MLflow does not work: {error}", final=True) from error


def _nothing(place: str, segments: Sequence[Path]) -> Holding:
    return Holding(place=place, segments=tuple(segments), rows=lambda: ())
