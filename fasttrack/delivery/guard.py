"""Stand between delivery and a backend, so that no call into a client is unwatched."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from fasttrack.delivery.backends.base import Backend, Holding, Session
    from fasttrack.delivery.watchdog import Call, Watchdog
    from fasttrack.journal.entries import Header

Watch: TypeAlias = "Callable[[str, tuple[Any, ...]], AbstractContextManager[Call]]"
"""Method and arguments -> what watches the call."""

_READ_BACK_S = 600.0  # what a long run's history may take to be read
_SLOWEST_DISK_BYTES_PER_S = 2**20


class GuardedBackend:
    """A backend whose calls are watched.

    Threads: as `Backend`.
    """

    def __init__(self, backend: Backend, name: str, header: Header, watchdog: Watchdog) -> None:
        """Guard `backend`, called `name`, for a run with `header`."""
        self._backend = backend
        self._name = name
        self._header = header
        self._watchdog = watchdog
        self.helper: str | None = backend.helper
        self.has_offline = backend.has_offline
        self.takes_artifacts = backend.takes_artifacts

    def open(self, header: Header, *, online: bool, timeout_s: float) -> Session:
        """Open a session. See `Backend.open`."""
        budget_s = self._header.hang_timeout_s + 3 * timeout_s
        with self._watchdog.call(self._name, "opening the run", budget_s, self.helper):
            session = self._backend.open(header, online=online, timeout_s=timeout_s)
        return cast("Session", _GuardedSession(session, self._watch))

    def _watch(self, method: str, arguments: tuple[Any, ...]) -> AbstractContextManager[Call]:
        budget_s = self._header.hang_timeout_s
        if method in ("settle", "prove"):
            budget_s += _READ_BACK_S
        elif method == "finish":
            budget_s += self._header.finish_timeout_s
        elif method == "upload":
            budget_s += self._header.upload_timeout_s
        elif method == "prepare_artifact":
            budget_s += arguments[0].size_bytes / _SLOWEST_DISK_BYTES_PER_S
        return self._watchdog.call(self._name, f"its {method}", budget_s, self.helper)

    def abandon(self) -> None:
        """Let go of a lost session. See `Backend.abandon`."""
        budget_s = self._header.hang_timeout_s
        with self._watchdog.call(self._name, "letting go of it", budget_s, self.helper):
            self._backend.abandon()

    def holdings(self, header: Header, segments: Sequence[Path]) -> list[Holding]:
        """Return what can be read. See `Backend.holdings`."""
        return self._backend.holdings(header, segments)


class _GuardedSession:
    """A session, each of whose methods is watched; what is no method is the session's own.

    Threads: as `Session`.
    """

    def __init__(self, session: Session, watch: Watch) -> None:
        self._session = session
        self._watch = watch
        self._upload: Call | None = None
        self._sent: int | None = None

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._session, name)
        if not callable(found):
            return found

        def guarded(*arguments: Any, **named: Any) -> Any:
            with self._watch(name, arguments):
                return found(*arguments, **named)

        self.__dict__[name] = guarded  # made once: rows come by the hundred thousand
        return guarded

    def upload(self, artifact: Any, aliases: Any) -> str | None:
        """Upload; as long as something is sent, it may take any time. See `Session.upload`."""
        with self._watch("upload", ()) as self._upload:
            try:
                return self._session.upload(artifact, aliases)
            finally:
                self._upload = None

    def uploaded_bytes(self) -> int | None:
        """Return how much was sent, and note that something was. See `Session.uploaded_bytes`."""
        with self._watch("uploaded_bytes", ()):
            sent = self._session.uploaded_bytes()
        upload = self._upload  # which ends on another thread
        if sent != self._sent and upload is not None:
            upload.progress()
        self._sent = sent
        return sent
