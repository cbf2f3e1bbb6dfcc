"""Which of MLflow's stores a run goes to."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote, urlsplit

from fasttrack.command import spell_tool
from fasttrack.journal.run_directory import base_directory
from fasttrack.redaction import redact_text

if TYPE_CHECKING:
    from fasttrack.journal.cursor import Ledger

_NOTE = "store"
_SQLITE = "sqlite:///"
_HERE = ("", "file", "sqlite")  # schemes of stores on this machine's disks


class Store(NamedTuple):
    """A place where MLflow keeps runs."""

    uri: str
    """As its client takes it; may hold a password."""
    shown: str
    """The same without."""
    database: Path | None
    """The file, where it is a database of SQLite's."""
    is_remote: bool
    """Whether it lies beyond this machine."""

    @property
    def directory(self) -> Path | None:
        """Where it lies on this machine."""
        if self.database is not None:
            return self.database.parent
        if self.is_remote:
            return None
        return Path(unquote(urlsplit(self.uri).path))

    @property
    def look(self) -> str | None:
        """The command that shows it; None where a server does, or a password would stand in it."""
        if self.is_remote:
            return None
        return spell_tool("mlflow", "server", "--backend-store-uri", self.uri)

    @property
    def artifacts(self) -> str | None:
        """Where a new experiment keeps files; None: where the store does by default.

        A database's are beside it, whatever directory delivery runs in.
        """
        return None if self.database is None else (self.database.parent / "mlruns").as_uri()

    @property
    def is_there(self) -> bool:
        """Whether it may hold something: a database that is no file yet would be made."""
        return self.database is None or self.database.exists()

    def page(self, experiment_id: str, mlflow_id: str) -> str | None:
        """Return where a person looks at a run; None where nothing serves pages."""
        if not self.uri.startswith(("http://", "https://")):
            return None
        return f"{self.shown.rstrip('/')}/#/experiments/{experiment_id}/runs/{mlflow_id}"


def find_store(run_dir: Path, ledger: Ledger) -> Store:
    """Return the store for a run.

    MLFLOW_TRACKING_URI > where the run went before > `mlflow.db` beside `wandb/`, which is what
    `mlflow server`, started there, shows.

    Args:
        run_dir: the run's directory.
        ledger: what is known of its delivery to MLflow.
    """
    given = os.environ.get("MLFLOW_TRACKING_URI") or ledger.notes.get(_NOTE)
    uri = given or f"{_SQLITE}{base_directory(run_dir).absolute() / 'mlflow.db'}"
    scheme = uri.partition(":")[0] if ":" in uri else ""
    database = None
    if uri.startswith(_SQLITE):
        database = Path(unquote(uri.removeprefix(_SQLITE))).absolute()
        uri = f"{_SQLITE}{database}"
    return Store(
        uri=uri,
        shown=redact_text(uri),
        database=database,
        is_remote=scheme not in _HERE,
    )


def remember(store: Store, ledger: Ledger) -> None:
    """Have the run go to this store from now on, where nothing else is said.

    One whose address holds a password is not written down.
    """
    if store.shown == store.uri:
        ledger.notes[_NOTE] = store.uri
    else:
        ledger.notes.pop(_NOTE, None)
