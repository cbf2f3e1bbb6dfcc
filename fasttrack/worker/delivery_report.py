"""What the trainer has heard of delivery, and what of it the user is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fasttrack.notices import gb

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fasttrack.delivery.events import Done, Event, Upload

OFFLINE_MESSAGE = "Offline mode. Run 'wandb sync' to upload later."


@dataclass
class BackendReport:
    """What delivery last reported of one backend. Threads: written by one, read by any."""

    url: str | None = None
    directory: str | None = None
    look: str | None = None
    """The command by which a person looks at it, where there is no page."""
    offline: bool = False
    rows: int = 0
    uploading: dict[int, str] = field(default_factory=dict)
    """Artifacts that are on their way: number to what it is."""
    uploaded_bytes: int | None = None
    """How much of the run's files was sent, while artifacts are waited for."""
    trouble: str | None = None
    """What interrupted it last."""
    done: Done | None = None
    """The last word, once it was said."""


class DeliveryReport:
    """What delivery last reported, of all backends together.

    Threads: `apply` from one for each backend; the rest from any.
    """

    def __init__(self, backends: Sequence[str]) -> None:
        """Expect reports of `backends`; of none, all is done already."""
        self.backends = {name: BackendReport() for name in backends}
        self.stop_asked = False
        """Whether somebody at a destination asked the training to stop."""
        self.given_up: str | None = None
        """Why nothing delivers any more, where that is so."""

    def apply(self, event: Event, warn: Callable[[str, str], None]) -> None:
        """Take one report in, and tell the user, through `warn(key, text)`, what is news."""
        from fasttrack.delivery import events  # the constructor does not wait for it

        if isinstance(event, events.StopAsked):
            self.stop_asked = True
        if isinstance(event, events.Said):
            warn(event.key, event.text)
        if isinstance(event, (events.StopAsked, events.Beat, events.Said, events.Busy)):
            return
        known = self.backends.setdefault(event.backend, BackendReport())
        name = f"{event.backend}: " if len(self.backends) > 1 else ""
        if isinstance(event, events.Online):
            known.offline = False
            known.url, known.directory, known.look = event.url, event.directory, event.look
            if known.url is not None:
                warn(f"online:{event.backend}", f"View run at: {known.url}")
            elif known.directory is not None:
                look = f"; to look: {known.look}" if known.look else ""
                text = f"{event.backend}: rows go to {known.directory}{look}"
                warn(f"online:{event.backend}", text)
        elif isinstance(event, events.Offline):
            known.offline, known.directory = True, event.directory
            if event.reason:
                what = "Network unavailable" if event.network else "Not online"
                text = f"{name}{what}, logging offline: {event.reason}"
                warn(f"offline_reason:{event.backend}", text)
            warn("offline", OFFLINE_MESSAGE)
        elif isinstance(event, events.Trouble):
            known.rows, known.trouble = event.rows, event.reason
            warn(
                f"trouble:{event.backend}:{event.reason}",
                f"{name}delivery was interrupted ({event.reason}); "
                "all rows are safe in the journal; training goes on",
            )
        elif isinstance(event, events.Progress):
            known.rows, known.uploaded_bytes = event.rows, event.uploaded_bytes
        elif isinstance(event, events.LeftOut):
            text = f"{name}left out of delivery: {event.what}"
            warn(f"left_out:{event.backend}:{event.what}", text)
        elif isinstance(event, events.Upload):
            _note_upload(known, event, warn)
        else:
            known.done, known.rows = event, event.rows
            known.offline = event.offline if event.delivered else known.offline
            known.url = event.url or known.url
            known.directory = event.directory or known.directory

    @property
    def url(self) -> str | None:
        """Where a person looks at the run."""
        return next((known.url for known in self._all() if known.url is not None), None)

    @property
    def directory(self) -> str | None:
        """Where rows are delivered to on this machine."""
        return next((known.directory for known in self._all() if known.directory), None)

    @property
    def offline(self) -> bool:
        """Whether rows of a backend go to a local stand-in now."""
        return any(known.offline for known in self._all())

    @property
    def rows(self) -> int:
        """How many rows the slowest backend was handed."""
        return min((known.rows for known in self._all()), default=0)

    @property
    def uploading(self) -> list[str]:
        """The artifacts that are on their way."""
        return [what for known in self._all() for what in known.uploading.copy().values()]

    @property
    def uploaded_bytes(self) -> int:
        """How much of the run's files was sent, while artifacts are waited for."""
        return sum(known.uploaded_bytes or 0 for known in self._all())

    @property
    def done(self) -> bool:
        """Whether the last word of every backend was said."""
        return all(known.done is not None for known in self._all())

    @property
    def opened(self) -> bool:
        """Whether every backend has told where rows go to."""
        return all(known.url or known.directory for known in self._all())

    @property
    def delivered(self) -> bool:
        """Whether every backend has proven that it has all."""
        return all(known.done is not None and known.done.delivered for known in self._all())

    @property
    def reason(self) -> str | None:
        """Why not all is delivered, where that is known."""
        if self.given_up is not None:
            return self.given_up
        reasons = {
            name: reason
            for name, known in self.backends.copy().items()
            if (reason := known.trouble if known.done is None else known.done.reason)
        }
        several = len(self.backends) > 1
        told = [f"{name}: {reason}" if several else reason for name, reason in reasons.items()]
        return "; ".join(told) or None

    def _all(self) -> list[BackendReport]:
        return list(self.backends.copy().values())


def _note_upload(known: BackendReport, event: Upload, warn: Callable[[str, str], None]) -> None:
    if event.state in ("hashing", "uploading"):
        state = "kept offline" if known.offline and event.state == "uploading" else event.state
        known.uploading[event.number] = f"{event.name} ({gb(event.size_bytes)}, {state})"
        return
    known.uploading.pop(event.number, None)
    if event.state == "failed":
        key = f"upload:{event.backend}:{event.number}"
        warn(key, f"artifact {event.name} was not uploaded: {event.reason}")
