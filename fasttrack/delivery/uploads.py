"""Upload artifacts on a thread of their own, so that rows go on being delivered meanwhile."""

from __future__ import annotations

import queue
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from fasttrack.artifacts.snapshot import changed_files
from fasttrack.delivery.events import LeftOut, Upload
from fasttrack.errors import ArtifactRefusedError, BackendLostError
from fasttrack.journal.run_directory import files_directory

if TYPE_CHECKING:
    from collections.abc import Callable

    from fasttrack.delivery.backends.base import Session
    from fasttrack.journal.entries import Artifact

Key: TypeAlias = "tuple[str, str]"
"""Segment name, artifact number."""

_MOST_NAMED = 3
_LOOK_EVERY_S = 2.0
_GRACE_S = 15.0  # in which the upload of files that have changed may come to an end by itself


class Uploads:
    """The artifacts of one session.

    Threads: one submits and asks; the uploads run on another, which `report` is called on too. It
    starts with the first artifact: most runs have none.
    """

    def __init__(
        self,
        run_dir: Path,
        backend: str,
        session: Session,
        report: Callable[[Upload | LeftOut], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare for artifacts that are staged below `run_dir`."""
        self._run_dir = run_dir
        self._backend = backend
        self._session = session
        self._report = report
        self._clock = clock
        self._queue: queue.SimpleQueue[tuple[Key, Artifact] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._submitted: dict[Key, Artifact] = {}
        self._under_way: Path | None = None  # where what is being sent is staged
        self._look_at_s = 0.0
        self._changed_at_s: float | None = None
        self._closed = False
        self.outcomes: dict[Key, str | None] = {}
        """What became of each: its proof or why it never will arrive; None: it may, later."""
        self.failures: list[str] = []
        self.taken = 0
        """How many the session took."""

    def submit(self, key: Key, entry: Artifact) -> None:
        """Upload the artifact of a journal entry. Never waits.

        A second one of the same number, which no tracker writes, is left out, and said.
        """
        if self._submitted.setdefault(key, entry) is not entry:
            if self._submitted[key] != entry:
                what = f"{key[0]}: a second artifact of number {key[1]}, {entry.name}"
                self._report(LeftOut(backend=self._backend, what=what))
            return
        self._queue.put((key, entry))
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="uploads", daemon=True)
            self._thread.start()

    def check(self) -> None:
        """Look now and then whether what is being sent is still what was logged.

        Raises:
            BackendLostError: it is not, and the upload does not end: that of a file that became
                shorter never does. The next session finds it changed, and does not begin.
        """
        now_s, directory = self._clock(), self._under_way
        if directory is None:
            self._changed_at_s = None
        elif now_s >= self._look_at_s:
            self._look_at_s = now_s + _LOOK_EVERY_S
            changed = changed_files(directory)
            if not changed:
                self._changed_at_s = None
            elif self._changed_at_s is None:
                self._changed_at_s = now_s
            elif now_s - self._changed_at_s >= _GRACE_S:
                names = ", ".join(changed[:_MOST_NAMED])
                raise BackendLostError(f"{names} changed while an upload of it was under way")

    def close(self) -> None:
        """Begin no further upload, and end the thread: the session is over."""
        self._closed = True
        self._queue.put(None)

    @property
    def pending(self) -> bool:
        """Whether something is still to be uploaded."""
        return len(self.outcomes) < len(self._submitted)

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
        self._under_way = directory
        try:
            proof = self._session.upload(artifact, entry.aliases)
        except (BackendLostError, ArtifactRefusedError) as error:
            if changed := changed_files(directory):
                return self._given_up(entry, changed)
            self._failed(entry, str(error))
            return None
        finally:
            self._under_way = None
        if proof is not None and (changed := self._overwritten(directory)):
            return self._withdrawn(entry, artifact, changed)
        self.taken += 1
        self._tell(entry, "done")
        return proof

    def _overwritten(self, directory: Path) -> list[str]:
        """Return the changed files that are still there: what was sent may be what they are now."""
        folder = files_directory(directory)
        return [name for name in changed_files(directory) if (folder / name).exists()]

    def _withdrawn(self, entry: Artifact, artifact: object, changed: list[str]) -> str:
        """Remove a version that may not be what was logged; return why."""
        why = f"{', '.join(changed[:_MOST_NAMED])} changed, in place, while it was uploaded"
        try:
            self._session.withdraw(artifact)
        except BackendLostError as error:
            reason = f"{why}; the version could not be removed, and is not what was logged: {error}"
        else:
            reason = f"{why}; the version was removed"
        self._failed(entry, reason)
        return reason

    def _given_up(self, entry: Artifact, changed: list[str]) -> str:
        names = ", ".join(changed[:_MOST_NAMED])
        reason = f"not uploaded: {names} changed after the call, in place"
        self._failed(entry, reason)
        return reason

    def _failed(self, entry: Artifact, reason: str) -> None:
        if self._closed:  # the session's end broke it off; the next one tries again
            return
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
