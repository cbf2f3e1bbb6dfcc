"""What the courier needs from a backend."""

from __future__ import annotations

from typing import Any, Protocol


class Unavailable(Exception):
    """The backend could not be opened. `final`: trying again will not help."""

    def __init__(self, reason: str, *, final: bool = False) -> None:
        """Say why, in words for the user."""
        super().__init__(reason)
        self.final = final


class Lost(Exception):
    """An open backend takes no more rows; what it has not proven must be replayed."""


class Backend(Protocol):
    """A place that rows are delivered to.

    Threads: one at a time.
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
        """Hand over one row.

        Raises:
            Lost: the backend is gone.
        """

    def console(self, stream: str, text: str) -> None:
        """Hand over text of the trainer's stdout or stderr."""

    def check(self) -> None:
        """Look whether the backend still takes rows.

        Raises:
            Lost: it does not.
        """

    def finish(self, *, exit_code: int, preempting: bool) -> None:
        """End the run and flush it. Blocks up to the header's finish timeout.

        Raises:
            Lost: the backend is gone, or not all could be flushed in time.
        """

    def prove(self, *, last_step: int, rows: int, timeout_s: float) -> str | None:
        """Return in words what proves that all rows have arrived, or None.

        Args:
            last_step: the highest `_step` that was handed over, ever.
            rows: how many distinct `_step`s this session handed over.
            timeout_s: how long the backend may be asked.
        """

    def abandon(self) -> None:
        """Let go of a run that was lost, so that it can be opened again. Never raises."""
