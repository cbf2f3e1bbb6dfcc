"""What delivery needs of a backend: it opens sessions, and a session takes rows and proves them.

A backend is one folder here and one line in `registry.py`. What only one destination knows (W&B's
steps, its offline directories) stays inside its folder; what it must remember beyond the process's
end goes into its ledger's `notes`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from fasttrack.delivery.contents import as_it_is

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from fasttrack.delivery.contents import Held
    from fasttrack.journal.cursor import Ledger
    from fasttrack.journal.entries import Artifact, Header, Page
    from fasttrack.journal.rows import Row


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a backend works: one run's delivery."""

    run_dir: Path
    """The run's journal directory."""
    ledger: Ledger
    """What is known of the run's delivery to this backend."""
    save: Callable[[], None]
    """Writes the ledger to disk now. Raises BackendLostError where the disk does not take it."""
    in_trainer: bool
    """Whether this process is the training process (`Options.delivery="thread"`)."""
    by_hand: bool = False
    """Whether somebody asks for the delivery now, in whatever mode the run was recorded."""
    tells_the_end: Callable[[], bool] = lambda: True
    """Whether the session may say how the run ended: False where that is not known, and the run may
    well go on elsewhere."""
    leave_out: Callable[[str], None] = lambda what: None
    """Told what of the run the destination never takes, and why; all the rest is delivered."""
    progress: Callable[[], None] = lambda: None
    """Called with everything that is read, so that a long reading is not taken for a hang."""
    folder: Path | None = None
    """Where all that a client needs on disk has to go, which is removed afterwards: somebody else
    delivers the run to a stand-in at the same time. None: where it goes by itself."""
    clock: Callable[[], float] = time.time
    """Unix time in seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """Rows of a run that lie in one place."""

    place: str
    """Which, in words."""
    segments: tuple[Path, ...]
    """Whose rows are to be there."""
    rows: Callable[[], Iterable[Held]]
    """Reads them; raises BackendLostError where that fails."""
    kept: Callable[[Row], Held] = as_it_is
    """Returns of a row what the place can be expected to hold."""


class Backend(Protocol):
    """A kind of destination, for one run.

    Threads: one at a time.
    """

    has_offline: bool
    """Whether the destination may be out of reach, and a local stand-in can take its place."""
    takes_artifacts: bool
    """Whether sessions take files; where not, the run's artifacts are not for this backend."""

    helper: str | None
    """Name of the program that the client starts and does its work in; None: it has none."""

    def open(self, header: Header, *, online: bool, timeout_s: float) -> Session:
        """Open the run that `header` describes, at its destination or in a local stand-in.

        Raises:
            BackendUnavailableError: it did not open within about `timeout_s`; nothing is left
                behind.
            BackendLostError: the ledger could not be saved.
        """

    def abandon(self) -> None:
        """Let go of a session that was lost, so that the run can be opened again. Never raises."""

    def holdings(self, header: Header, segments: Sequence[Path]) -> list[Holding]:
        """Return where rows of the run lie, for `fasttrack verify`; opens no session.

        Args:
            header: the run's.
            segments: those that are for this backend, oldest first.

        Raises:
            BackendUnavailableError: the destination cannot be read from here.
        """


class Session(Protocol):
    """An open run at one destination.

    Threads: one at a time; `prepare_artifact`, `upload` and `withdraw` on a second one
    beside it.
    """

    url: str | None
    """Where a person looks at the run."""
    directory: Path | None
    """Where it lies on this machine."""
    held_rows: bool
    """Whether the destination held rows of the run before this session, known after `settle`."""

    def settle(self, segments: Sequence[Path], pending: Sequence[Path]) -> list[Path]:
        """Find out what of `pending` the destination holds already; return what is still to do.

        What is found is noted in the ledger: `arrived` rows are never handed over again. Where
        `recheck` is set, all rows are looked for, not only the newest. Called once, before the
        first row.

        Args:
            segments: all segments of the run, oldest first.
            pending: those of them that are not proven.

        Raises:
            BackendLostError: the destination does not tell.
        """

    def begin_segment(self, path: Path) -> None:
        """Note that what follows is of another segment."""

    def log(self, rows: Sequence[Row]) -> bool:
        """Hand over the next rows; they may be held back until the next `check` or `finish`.

        Every row of a pending segment that has not `arrived` comes, in order.

        Returns:
            False where the destination has all of them already, from a session that was lost.

        Raises:
            BackendLostError: the destination takes no more rows.
        """

    def console(self, stream: str, text: str) -> None:
        """Hand over text of the trainer's stdout or stderr."""

    def configure(self, values: Mapping[str, Any]) -> None:
        """Add to the run's configuration; what it has under the same names is replaced.

        Raises:
            BackendLostError: the destination is gone.
        """

    def prepare_artifact(self, entry: Artifact, files: Path) -> Any:
        """Return what `upload` takes for a journal entry, its files hashed. Blocks on the disk."""

    def upload(self, artifact: Any, aliases: Sequence[str]) -> str | None:
        """Upload what `prepare_artifact` returned; blocks until the destination has all of it.

        Returns:
            What proves that it has; None offline, where it lies ready for a later upload.

        Raises:
            ArtifactRefusedError: the destination does not take it.
            BackendLostError: it is gone.
        """

    def withdraw(self, artifact: Any) -> None:
        """Remove the version that `upload` has just made of `artifact`, with its aliases.

        Raises:
            BackendLostError: the destination does not, or went away.
        """

    def uploaded_bytes(self) -> int | None:
        """Return how much of the session's files was sent; None where that is not known."""

    def check(self) -> bool:
        """Hand on the rows that were held back, and look whether more are taken.

        Returns:
            Whether somebody at the destination asked the training to stop.

        Raises:
            BackendLostError: none are.
        """

    def finish(self, *, exit_code: int, preempting: bool) -> None:
        """End the run and flush it. Blocks up to the header's finish timeout.

        Raises:
            BackendLostError: the destination is gone, or not all could be flushed in time.
        """

    def prove(self, *, artifacts: int, timeout_s: float) -> str:
        """Return in words what proves that all rows have arrived; after `finish`.

        The rows are proven by what the destination itself shows, never by the client's word: their
        number, and their values. They are those that were handed over, as many of each segment as
        the ledger says (`rows`): more may have been written since.

        Args:
            artifacts: how many artifacts were handed over; `upload` proves those online.
            timeout_s: how long the destination may take until it shows all of them.

        Raises:
            BackendLostError: rows are missing; another session hands them over again.
            UnprovenError: the destination does not show what it holds, or holds other rows in the
                place of ours.
        """


@runtime_checkable
class Viewable(Protocol):
    """What a session has whose destination is looked at by a program of its own."""

    look: str | None
    """The command that shows it; None where `url` is a page."""


@runtime_checkable
class Describable(Protocol):
    """What a session can do whose destination shows a run as its trainer wants it."""

    def describe(self, page: Page) -> None:
        """Show the run as `page` says from now on; its summary until rows say otherwise.

        Raises:
            BackendLostError: the destination is gone.
        """

    def summarize(self, summary: Mapping[str, object]) -> None:
        """Have this stand in the run's summary when it has ended; called before `finish`."""
