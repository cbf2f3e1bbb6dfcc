"""Upload artifacts on a thread of their own, so that rows go on being delivered meanwhile."""

from __future__ import annotations

import queue
import threading
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from fasttrack.artifacts.snapshot import changed_files
from fasttrack.delivery.events import Upload
from fasttrack.errors import ArtifactRefusedError, BackendLostError
from fasttrack.journal.run_directory import files_directory

if TYPE_CHECKING:
    from collections.abc import Callable

    from fasttrack.delivery.backends.base import Session
    from fasttrack.journal.entries import Artifact

Key: TypeAlias = "tuple[str, str]"
"""Segment name, artifact number."""


class Uploads:
    """The artifacts of one session.

    Threads: one submits and asks; the uploads run on another, which `report` is called on too. It
    starts with the first artifact: most runs have none.
    """

    def __init__(
        self, run_dir: Path, backend: str, session: Session, report: Callable[[Upload], None]
    ) -> None:
        """Prepare for artifacts that are staged below `run_dir`."""
        self._run_dir = run_dir
        self._backend = backend
        self._session = session
        self._report = report
        self._queue: queue.SimpleQueue[tuple[Key, Artifact] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._submitted = 0
        self._closed = False
        self.outcomes: dict[Key, str | None] = {}
        """What became of each: its proof or why it never will arrive; None: it may, later."""
        self.failures: list[str] = []
        self.taken = 0
        """How many the session took."""

    def submit(self, key: Key, entry: Artifact) -> None:
        """Upload the artifact of a journal entry. Never waits."""
        self._submitted += 1
        self._queue.put((key, entry))
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="uploads", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Begin no further upload, and end the thread: the session is over."""
        self._closed = True
        self._queue.put(None)

    @property
    def pending(self) -> bool:
        """Whether something is still to be uploaded."""
        return len(self.outcomes) < self._submitted

    def _run(self) -> None:
        while True:
            item = self._queue.get()
            if item is None or self._closed:
                return
            key, entry = item
            try:
                self.outcomes[key] = self._upload(entry)
            except Exception as error:  # the thread's boundary: whoever waits must hear of it
                self._failed(entry, repr(error))
                self.outcomes[key] = None

    def _upload(self, entry: Artifact) -> str | None:
        directory = (self._run_dir / entry.directory).resolve()
        if self._run_dir.resolve() not in directory.parents or not directory.is_dir():
            self._failed(entry, f"its staged files are not in {directory}")
            return None
        self._tell(entry, "hashing")
        if changed := changed_files(directory):
            return self._given_up(entry, changed)
        artifact = self._session.prepare_artifact(entry, files_directory(directory))
        if changed := changed_files(directory):
            return self._given_up(entry, changed)
        self._tell(entry, "uploading")
        try:
            proof = self._session.upload(artifact, entry.aliases)
        except (BackendLostError, ArtifactRefusedError) as error:
            if changed := changed_files(directory):
                return self._given_up(entry, changed)
            self._failed(entry, str(error))
            return None
        self.taken += 1
        self._tell(entry, "done")
        return proof

    def _given_up(self, entry: Artifact, changed: list[str]) -> str:
        names = ", ".join(changed[:3])
        reason = f"not uploaded: {names} changed after the call, in place"
        self._failed(entry, reason)
        return reason

    def _failed(self, entry: Artifact, reason: str) -> None:
        self.failures.append(f"{entry.name}: {reason}")
        self._tell(entry, "failed", reason)

    def _tell(self, entry: Artifact, state: str, reason: str | None = None) -> None:
        self._report(
            Upload(
                backend=self._backend,
                number=entry.number,
                name=entry.name,
                aliases=entry.aliases,
                size_bytes=entry.size_bytes,
                state=state,
                reason=reason,
            )
        )
