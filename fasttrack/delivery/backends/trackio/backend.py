"""trackio: a run becomes rows of its project's database, in TRACKIO_DIR.

`trackio show` shows them. Neither its dashboard nor a Space of Hugging Face's is ever started from
here, and nothing is sent: `trackio sync` does that. What to know of it, each seen with
trackio 0.43:

* `trackio.log` writes on a thread of its own, twice a second: rows bear the time of their batch,
  and a kill loses those of half a second. Rows are written by the storage class under it, which its
  own importers use, too: each with its own time, many in one transaction.
* Each row may have an id, and one whose id is there already is passed over: nothing is there twice,
  whoever was killed when.
* Without TRACKIO_DIR it keeps everything in Hugging Face's cache, which people empty.
* A run is known by its rows: one without any is not shown, nor is its configuration.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from fasttrack.delivery.backends.base import Holding
from fasttrack.delivery.backends.numpy_door import let_numpy_in
from fasttrack.errors import BackendUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from fasttrack.delivery.backends.base import Place
    from fasttrack.delivery.backends.trackio.session import TrackioSession
    from fasttrack.delivery.contents import Held
    from fasttrack.journal.entries import Header

# Where these are set, the storage class fetches what a Space has kept, before anything else.
_OF_A_SPACE = ("TRACKIO_BUCKET_ID", "TRACKIO_DATASET_ID")


class TrackioBackend:
    """Open a run in its project's database.

    Threads: one at a time.
    """

    has_offline = False
    takes_artifacts = False
    helper: str | None = None

    def __init__(self, place: Place) -> None:
        """Prepare; nothing is imported or opened yet."""
        self._place = place

    def open(self, header: Header, *, online: bool, timeout_s: float) -> TrackioSession:
        """Set the database up where it is not there. See `Backend.open`.

        Args:
            header: the run's.
            online: makes no difference.
            timeout_s: a database that others write is waited for, up to 10 s.
        """
        database = _import("database", in_trainer=self._place.in_trainer)
        session = _import("session", in_trainer=self._place.in_trainer)
        try:
            opened: TrackioSession = session.TrackioSession(
                database.Database(header.project, header.run_id), header, self._place
            )
        except ValueError as error:
            raise BackendUnavailableError(f"trackio: {error}", final=True) from error
        except database.FAULTS as error:
            raise BackendUnavailableError(f"trackio: {error}") from error
        return opened

    def holdings(self, header: Header, segments: Sequence[Path]) -> list[Holding]:
        """Return the run's rows in the database. See `Backend.holdings`."""
        module = _import("database", in_trainer=self._place.in_trainer)
        try:
            database = module.Database(header.project, header.run_id)
        except ValueError as error:
            raise BackendUnavailableError(f"trackio: {error}", final=True) from error

        def rows() -> Iterator[Held]:
            try:
                yield from database.rows()
            except module.FAULTS as error:
                raise module.lost(error) from error

        place = str(database.path)
        return [Holding(place=place, segments=tuple(segments), rows=rows, kept=module.kept)]

    def abandon(self) -> None:
        """Nothing is held open between calls. See `Backend.abandon`."""


def _import(name: str, *, in_trainer: bool) -> Any:
    """Import a module of ours that needs trackio.

    Raises:
        BackendUnavailableError: it is not installed, or does not work with what else is.
    """
    if not in_trainer:
        let_numpy_in()
        for variable in _OF_A_SPACE:
            os.environ.pop(variable, None)
    try:
        return importlib.import_module(f"fasttrack.delivery.backends.trackio.{name}")
    except ImportError as error:
        why = f"trackio cannot be imported ({error}): pip install 'fasttrack[trackio]'"
        raise BackendUnavailableError(why, final=True) from error
    except Exception as error:  # what a version that clashes raises has no common base
        raise BackendUnavailableError(f"trackio does not work: {error}", final=True) from error
