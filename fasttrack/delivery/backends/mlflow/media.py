"""Media as MLflow has them: files among the run's artifacts, each under its name and step.

A path holds the step and the hash of the contents, so that a file that is sent again is the same
one, whoever was killed when.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from typing import TYPE_CHECKING

import orjson

from fasttrack.delivery.backends.mlflow import client as mlflow
from fasttrack.delivery.backends.mlflow import names
from fasttrack.delivery.media_files import files_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fasttrack.delivery.backends.base import Place
    from fasttrack.delivery.backends.mlflow.client import Client
    from fasttrack.journal.media import MediaRow

FOLDER = "media"
_SCRATCH = ".mlflow-media"
_MOST_WAITING = 100  # rows; more are not held back until the next check
_MOST_NAMED = 3
_LONGEST_FAULT = 200
# The client of a bucket that the server keeps files in may not be installed.
_NOT_SENT: tuple[type[Exception], ...] = (*mlflow.FAULTS, ImportError)


class MediaFiles:
    """The files of a run's media, on their way to a run of MLflow's.

    Threads: one at a time.
    """

    def __init__(self, client: Client, mlflow_id: str, place: Place) -> None:
        """Take those of one session; nothing is asked or sent yet."""
        self._client = client
        self._mlflow_id = mlflow_id
        self._place = place
        self._rows: list[MediaRow] = []
        self._there: dict[str, int | None] | None = None  # as the store lists them
        self._sent: dict[str, int] = {}  # path -> bytes

    def take(self, row: MediaRow) -> bool:
        """Hold a row back until the next `send`; return whether that should be now."""
        self._rows.append(row)
        return len(self._rows) >= _MOST_WAITING

    def send(self) -> None:
        """Upload what is not there yet. Blocks on the disk and the store.

        Raises:
            Exception: one of `client.FAULTS`.
        """
        if not self._rows:
            return
        if self._there is None:
            self._there = self._client.sizes(self._mlflow_id, FOLDER)
        # Beside the files, which need not be copied then; one that was killed may have left it.
        scratch = self._place.run_dir / _SCRATCH
        shutil.rmtree(scratch, ignore_errors=True)
        try:
            staged = {
                path: size_bytes
                for row in self._rows
                for path, size_bytes in self._stage(row, scratch)
            }
            if staged:
                self._upload(scratch, staged)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        self._rows = []

    def _stage(self, row: MediaRow, scratch: Path) -> Iterator[tuple[str, int]]:
        """Put the files of a row that are not there where they are uploaded from; yield them."""
        folder = names.name_for(row.name)
        try:
            for name, source in self._contents(row):
                path = f"{folder}/{row.step:08d}-{name}"
                target = scratch / path
                target.parent.mkdir(parents=True, exist_ok=True)
                if isinstance(source, bytes):
                    target.write_bytes(source)
                else:
                    _link(source, target)
                size_bytes = target.stat().st_size
                self._sent[path] = size_bytes
                assert self._there is not None
                if self._there.get(f"{FOLDER}/{path}") == size_bytes:
                    target.unlink()
                else:
                    yield path, size_bytes
        except OSError as error:  # of this row's: all else is delivered
            why = error.strerror or error
            self._place.leave_out(f"{row.type} {row.name!r} of step {row.step} ({why})")

    def _contents(self, row: MediaRow) -> Iterator[tuple[str, Path | bytes]]:
        """Yield the names of a row's files, and where they are or what they hold.

        Raises:
            OSError: one is not there, or damaged.
        """
        if row.type == "histogram":
            told = {key: row.about.get(key, ()) for key in ("counts", "bins")}
            yield f"{row.identity.removeprefix('media ')}.json", orjson.dumps(told)
        for path in files_of(row, self._place.run_dir):
            yield path.name, path

    def _upload(self, scratch: Path, staged: dict[str, int]) -> None:
        try:
            self._client.upload(self._mlflow_id, scratch, FOLDER)
        except _NOT_SENT as error:
            if not (isinstance(error, ImportError) or mlflow.refused(error)):
                raise
            for path in staged:
                self._sent.pop(path, None)
            told = str(mlflow.lost(error))[:_LONGEST_FAULT]
            self._place.leave_out(f"{len(staged)} files of media ({told})")

    def proof(self) -> list[str]:
        """Return in words what proves that what was sent is there; say what is not.

        What shows no number holds up no rows.

        Raises:
            Exception: one of `client.FAULTS`.
        """
        if not self._sent:
            return []
        found = self._client.sizes(self._mlflow_id, FOLDER)
        absent = [
            path for path, size in self._sent.items() if found.get(f"{FOLDER}/{path}") != size
        ]
        count = len(self._sent)
        if absent:
            more = ", ..." if absent[_MOST_NAMED:] else ""
            shown = f"{', '.join(absent[:_MOST_NAMED])}{more}"
            self._place.leave_out(f"{len(absent):,} of {count:,} files of media ({shown})")
        return [f"{count - len(absent):,} of {count:,} files of media listed with their sizes"]


def _link(source: Path, target: Path) -> None:
    """Have the file at `source` at `target`, too; what is there is replaced."""
    target.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        os.link(source, target)
        return
    shutil.copyfile(source, target)
