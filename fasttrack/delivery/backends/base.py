"""What the courier needs from a backend."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from pathlib import Path


class Unavailable(Exception):
    """The backend could not be opened. `final`: trying again will not help."""

    def __init__(self, reason: str, *, final: bool = False) -> None:
        """Say why, in words for the user."""
        super().__init__(reason)
        self.final = final


class Lost(Exception):
    """An open backend takes no more rows; what it has not proven must be replayed."""


class Refused(Exception):
    """The backend did not take an artifact, and says why."""


class Backend(Protocol):
    """A place that rows are delivered to.

    Threads: one at a time; `prepare_artifact` and `upload` on a second one beside it.
    """

    starting_step: int
    """The first `_step` that the backend does not have yet, known after `open`."""
    url: str | None
    """Where a person looks at the run, known after `open` online."""
    directory_name: str
    """The local run directory's name under `wandb/`, known after `open`."""

    def open(self, header: dict[str, Any], *, online: bool, timeout_s: float) -> None:
        """Open the run that `header` (a segment's first line) describes.

        Raises:
            Unavailable: it did not open within about `timeout_s`; nothing is left behind.
        """

    def log(self, values: dict[str, Any], step: int) -> None:
        """Hand over one row; it may be held back until the next `check` or `finish`.

        Raises:
            Lost: the backend is gone.
        """

    def console(self, stream: str, text: str) -> None:
        """Hand over text of the trainer's stdout or stderr."""

    def configure(self, values: dict[str, Any]) -> None:
        """Add to the run's configuration; what it has under the same names is replaced.

        Raises:
            Lost: the backend is gone.
        """

    def prepare_artifact(self, entry: dict[str, Any], files: Path) -> Any:
        """Return the artifact of a journal entry, its files hashed. Blocks on the disk."""

    def upload(self, artifact: Any, aliases: list[str]) -> str | None:
        """Upload what `prepare_artifact` returned; blocks until the server has all of it.

        Returns:
            What proves that it has; None offline, where it lies ready for a later upload.

        Raises:
            Refused: the backend does not take it.
            Lost: the backend is gone.
        """

    def uploaded_bytes(self) -> int | None:
        """Return how much of the session's files was sent; None where that is not known."""

    def read_rows(self, first: int, end: int) -> dict[int, dict[str, Any]]:
        """Return the rows that the server has from `_step` `first` up to, not including, `end`.

        Raises:
            Lost: the server does not tell.
        """

    def check(self) -> None:
        """Hand on the rows that were held back, and look whether the backend still takes rows.

        Raises:
            Lost: it does not.
        """

    def finish(self, *, exit_code: int, preempting: bool) -> None:
        """End the run and flush it. Blocks up to the header's finish timeout.

        Raises:
            Lost: the backend is gone, or not all could be flushed in time.
        """

    def prove(self, *, last_step: int, rows: int, artifacts: int, timeout_s: float) -> str | None:
        """Return in words what proves that all rows have arrived, or None.

        Args:
            last_step: the highest `_step` that was handed over, ever.
            rows: how many distinct `_step`s this session handed over.
            artifacts: how many artifacts it handed over; `upload` proves those online.
            timeout_s: how long the backend may be asked.
        """

    def abandon(self) -> None:
        """Let go of a run that was lost, so that it can be opened again. Never raises."""
