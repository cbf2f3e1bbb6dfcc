"""A project's database in trackio. The only module that imports trackio.

On a network file system trackio itself writes lines to files, to be gathered later, because its
database keeps a log beside it that machines cannot share. Ours is written there without that log.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import orjson
from trackio import utils
from trackio.sqlite_storage import SQLiteStorage

from fasttrack.errors import BackendLostError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from fasttrack.delivery.contents import Held
    from fasttrack.journal.rows import Row

FAULTS = (sqlite3.Error, OSError)
_LAST_STEP = 2**63 - 1
_JOURNAL_MODE = "TRACKIO_SQLITE_JOURNAL_MODE"


def lost(error: Exception) -> BackendLostError:
    """Return what delivery is told of a fault in an open session."""
    return BackendLostError(f"trackio: {error}")


def name_for(name: str) -> str:
    """Return the name under which trackio keeps a metric: it has some of its own."""
    return f"__{name}" if name in utils.RESERVED_KEYS or name.startswith("__") else name


def kept(row: Row) -> Held:
    """Return of a row what trackio can be expected to hold."""
    values = {name_for(name): value for name, value in row.values.items()}
    return min(row.step, _LAST_STEP), values


class Database:
    """One run's rows in its project's database.

    Threads: any.
    """

    def __init__(self, project: str, run_id: str) -> None:
        """Find the database; nothing is opened yet.

        Raises:
            ValueError: trackio takes no project of that name.
        """
        SQLiteStorage.validate_project_name(project)
        self.project = project
        self._run_id = run_id
        self.path: Path = SQLiteStorage.get_project_db_path(project)

    def prepare(self) -> None:
        """Set the database up where it is not there.

        Raises:
            OSError: the disk does not take it, or somebody holds its lock.
            sqlite3.Error: it is none, or is damaged.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if utils.is_network_filesystem(self.path.parent):
            os.environ.setdefault(_JOURNAL_MODE, "delete")
        SQLiteStorage.init_db(self.project)

    def config(self) -> dict[str, Any]:
        """Return the run's configuration as it is there. Raises one of `FAULTS`."""
        found = SQLiteStorage.get_run_config(self.project, run_id=self._run_id)
        return dict(found or {})

    def rows(self) -> Iterator[Held]:
        """Yield the run's rows, as many as there are. Raises one of `FAULTS`."""
        found = self._query("SELECT step, metrics FROM metrics WHERE run_id = ?", self._run_id)
        for step, metrics in found:
            yield step, orjson.loads(metrics)

    def name(self) -> str | None:
        """Return the name that the run's rows bear; None where there are none."""
        found = self._query("SELECT run_name FROM metrics WHERE run_id = ? LIMIT 1", self._run_id)
        return next((name for (name,) in found), None)

    def has(self, row_id: str) -> bool:
        """Return whether there is a row of that id. Raises one of `FAULTS`."""
        return next(self._query("SELECT 1 FROM metrics WHERE log_id = ?", row_id), None) is not None

    def _query(self, query: str, value: str) -> Iterator[tuple[Any, ...]]:
        if not self.path.exists():
            return
        with closing(sqlite3.connect(f"{self.path.as_uri()}?mode=ro", uri=True)) as connection:
            yield from connection.execute(query, (value,))

    def write(
        self, name: str, rows: Sequence[tuple[str, Row]], config: Mapping[str, Any] | None
    ) -> None:
        """Add rows, in one transaction; those whose ids are there are passed over.

        Args:
            name: the run's.
            rows: (id, row) each.
            config: the run's configuration from now on; None: it stays.

        Raises:
            Exception: one of `FAULTS`.
        """
        SQLiteStorage.bulk_log(
            self.project,
            name,
            [row.values for _, row in rows],
            steps=[min(row.step, _LAST_STEP) for _, row in rows],
            timestamps=[spell_time(row.time_s) for _, row in rows],
            config=None if config is None else dict(config),
            log_ids=[row_id for row_id, _ in rows],
            run_id=self._run_id,
        )


def spell_time(time_s: float) -> str:
    """Return a time as trackio spells it."""
    try:
        return datetime.fromtimestamp(time_s, timezone.utc).isoformat()
    except (OverflowError, ValueError, OSError):  # a damaged line's
        return datetime.fromtimestamp(0, timezone.utc).isoformat()
