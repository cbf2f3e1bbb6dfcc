"""TensorBoard: a run becomes a folder of event files, {WANDB_DIR or .}/tensorboard/<run id>/.

`tensorboard --logdir tensorboard` shows them; each run is one of its runs. What to know of it, each
seen with TensorBoard 2.21:

* It shows numbers of 32 bits. Its default server (written in Rust) passes over a scalar of any
  other type without a word, so rows are written as 32-bit ones too, as its own `SummaryWriter`
  does: 0.1 is shown as 0.10000000149, integers are exact up to 2**24, and what exceeds 3.4e38 is
  infinite. The journal keeps every number whole.
* NaN and infinities are kept. So are negative steps, steps that go back and many rows of one step,
  in the files and for its readers in Python (`EventAccumulator`, `tensorboard --load_fast=false`).
  Its default server shows a metric's newest row for a step, and drops the later steps that stood
  before a step back.
* Rows are in the files about 0.1 s after they were logged; TensorBoard looks every 5 s.
* Its record writer needs numpy, which the delivery process otherwise keeps out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fasttrack.delivery.backends.base import Holding
from fasttrack.delivery.backends.numpy_door import let_numpy_in
from fasttrack.errors import BackendLostError, BackendUnavailableError
from fasttrack.journal.run_directory import base_directory

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from fasttrack.delivery.backends.base import Place
    from fasttrack.delivery.backends.tensorboard.session import TensorBoardSession
    from fasttrack.delivery.contents import Held
    from fasttrack.journal.entries import Header

_FOLDER = "tensorboard"


class TensorBoardBackend:
    """Open a run as event files.

    Threads: one at a time.
    """

    has_offline = False
    takes_artifacts = False
    helper: str | None = None

    def __init__(self, place: Place) -> None:
        """Prepare; nothing is imported or opened yet."""
        self._place = place
        # Not recorded but found: a run's directories may be moved, or copied to another machine.
        self._folder = base_directory(place.run_dir) / _FOLDER
        self._session: TensorBoardSession | None = None

    def open(self, header: Header, *, online: bool, timeout_s: float) -> TensorBoardSession:
        """Make the run's folder. See `Backend.open`.

        Args:
            header: the run's.
            online: makes no difference.
            timeout_s: nothing here takes long.
        """
        session_class = _import_session(in_trainer=self._place.in_trainer)
        directory = self._folder / header.run_id
        try:
            str(directory).encode()
        except UnicodeEncodeError as error:
            why = f"TensorBoard reads no path that is not UTF-8: {str(directory)!r}"
            raise BackendUnavailableError(why, final=True) from error
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._session = session_class(directory, header, self._place)
        except OSError as error:
            why = f"{directory} cannot be made or read ({error.strerror})"
            raise BackendUnavailableError(why) from error
        return self._session

    def holdings(self, header: Header, segments: Sequence[Path]) -> list[Holding]:
        """Return the run's event files. See `Backend.holdings`."""
        _import_session(in_trainer=self._place.in_trainer)
        from fasttrack.delivery.backends.tensorboard import event_files as files

        directory = self._folder / header.run_id
        names = {path.name for path in segments}

        def rows() -> Iterator[Held]:
            try:
                for path in files.event_files(directory):
                    if files.segment_of(path) in names:
                        yield from files.read_rows(path)
            except OSError as error:
                raise BackendLostError(f"{directory} cannot be read ({error.strerror})") from error

        place = f"{_FOLDER}/{header.run_id}"
        return [Holding(place=place, segments=tuple(segments), rows=rows, kept=files.as_shown)]

    def abandon(self) -> None:
        """Close the event file; what of it is whole counts. See `Backend.abandon`."""
        session, self._session = self._session, None
        if session is not None:
            session.abandon()


def _import_session(*, in_trainer: bool) -> type[TensorBoardSession]:
    """Import TensorBoard.

    Raises:
        BackendUnavailableError: it is not installed, or does not work with what else is.
    """
    if not in_trainer:
        let_numpy_in()
    try:
        from fasttrack.delivery.backends.tensorboard.session import TensorBoardSession
    except ImportError as error:
        why = f"TensorBoard cannot be imported ({error}): pip install 'fasttrack[tensorboard]'"
        raise BackendUnavailableError(why, final=True) from error
    except Exception as error:  # what protobuf raises where versions clash has no common base
        raise BackendUnavailableError(f"TensorBoard does not work: {error}", final=True) from error
    return TensorBoardSession
