"""A run that is open as event files: what is there by name and by count, and what is added."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

from fasttrack.command import spell_tool
from fasttrack.delivery.backends.tensorboard.event_files import (
    EventFile,
    as_shown,
    event_files,
    read_rows,
    segment_of,
)
from fasttrack.delivery.backends.tensorboard.media import media_summary
from fasttrack.delivery.backends.tensorboard.texts import Texts
from fasttrack.delivery.contents import Known, compare, numbered_rows, watched
from fasttrack.errors import ArtifactRefusedError, BackendLostError
from fasttrack.journal.media import MediaRow

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from fasttrack.delivery.backends.base import Place
    from fasttrack.delivery.contents import Comparison
    from fasttrack.journal.entries import Artifact, Header
    from fasttrack.journal.rows import Row


class TensorBoardSession:
    """Add to a run's event files; the files themselves say which rows they hold.

    Each file holds rows of one segment, and every session writes files of its own.

    Threads: one at a time.
    """

    def __init__(self, directory: Path, header: Header, place: Place) -> None:
        """Open the run in `directory`, which is there; nothing is written yet.

        Raises:
            OSError: the directory cannot be read.
        """
        self.url: str | None = None
        self.directory: Path | None = directory
        self.look: str | None = spell_tool("tensorboard", "--logdir", str(directory))
        self.held_rows = False
        self._directory = directory
        self._place = place
        self._texts = Texts(place.ledger, header, written=bool(event_files(directory)))
        self._segment: Path | None = None
        self._file: EventFile | None = None
        self._pending: list[Path] = []
        self._known = Known()
        self._number = 0  # of the segment's next row

    def settle(self, segments: Sequence[Path], pending: Sequence[Path]) -> list[Path]:
        """Look for the rows in our files. See `Session.settle`.

        What the ledger says counts for nothing: files may have been deleted, or a cursor lost.
        """
        self._pending = list(pending)
        try:
            self.held_rows = bool(event_files(self._directory))
            found = self._compare()
        except OSError as error:
            why = f"{self._directory} cannot be read ({error.strerror})"
            raise BackendLostError(why) from error
        self._known = Known(found)
        for path in pending:
            gaps = (row.number for row in found.missing if row.segment == path.name)
            whole = found.counts.get(path.name, 0)
            self._place.ledger.segment(path.name).arrived = min(gaps, default=whole)
        return list(pending)

    def _compare(self) -> Comparison:
        names, moved = {path.name for path in self._pending}, self._place.progress
        files = [path for path in event_files(self._directory) if segment_of(path) in names]
        return compare(
            lambda: watched(numbered_rows(self._pending), moved),
            lambda: watched(chain.from_iterable(map(read_rows, files)), moved),
            kept=as_shown,
        )

    def begin_segment(self, path: Path) -> None:
        """Begin a file of its own with the next row. See `Session.begin_segment`."""
        self._close_file()
        self._segment, self._number = path, self._place.ledger.segment(path.name).arrived

    def log(self, rows: Sequence[Row]) -> bool:
        """Write rows. See `Session.log`."""
        return sum(map(self._log_one, rows)) > 0

    def _log_one(self, row: Row) -> bool:
        assert self._segment is not None
        number, self._number = self._number, self._number + 1
        lacking = self._known.lacking(self._segment.name, number, row)
        if lacking is None:
            return False
        try:
            if isinstance(lacking, MediaRow):
                value = media_summary(lacking, self._place.run_dir, self._place.leave_out)
                self._open_file().write_media(lacking, value)
            else:
                self._open_file().write_row(lacking)
        except OSError as error:
            raise self._lost(error) from error
        return True

    def console(self, stream: str, text: str) -> None:
        """Pass over: TensorBoard has no place for it. See `Session.console`."""

    def configure(self, values: Mapping[str, Any]) -> None:
        """Have the Text tab show `values` too, from the next `check` on."""
        self._texts.configure(values)

    def prepare_artifact(self, entry: Artifact, files: Path) -> Any:
        """Refuse: TensorBoard takes no files. See `Session.prepare_artifact`."""
        raise ArtifactRefusedError("TensorBoard takes no artifacts")

    def upload(self, artifact: Any, aliases: Sequence[str]) -> str | None:
        """Refuse: TensorBoard takes no files. See `Session.upload`."""
        raise ArtifactRefusedError("TensorBoard takes no artifacts")

    def withdraw(self, artifact: Any) -> None:
        """Do nothing: none was taken. See `Session.withdraw`."""

    def uploaded_bytes(self) -> int | None:
        """Return None: nothing is sent. See `Session.uploaded_bytes`."""
        return None

    def check(self) -> bool:
        """Write what was held back, for TensorBoard to see. See `Session.check`."""
        try:
            self._write_texts()
            if self._file is not None:
                self._file.flush()
        except OSError as error:
            raise self._lost(error) from error
        return False

    def finish(self, *, exit_code: int, preempting: bool) -> None:
        """Write what was held back to the disk itself. See `Session.finish`."""
        try:
            self._write_texts()
        except OSError as error:
            raise self._lost(error) from error
        self._close_file()

    def prove(self, *, artifacts: int, timeout_s: float) -> str:
        """Read the files back. See `Session.prove`; what it takes is `read_rows`'s."""
        try:
            found = self._compare()
        except OSError as error:
            raise self._lost(error) from error
        if found.missing:
            raise BackendLostError(found.gaps())
        folder = "/".join(self._directory.parts[-2:])
        return f"{found.rows:,} rows read back from {folder}" if found.rows else "no rows"

    def abandon(self) -> None:
        """Let go of the file. Never raises."""
        if self._file is not None:
            self._file.abandon()
            self._file = None

    def _open_file(self) -> EventFile:
        if self._file is None:
            assert self._segment is not None
            self._file = EventFile(self._directory, self._segment)
        return self._file

    def _close_file(self) -> None:
        if self._file is None:
            return
        try:
            self._file.close()
        except OSError as error:
            raise self._lost(error) from error
        self._file = None

    def _write_texts(self) -> None:
        if self._segment is None:
            return
        changed = list(self._texts.changed())
        for tag, text in changed:
            self._open_file().write_text(tag, text)
        if changed:
            self._open_file().flush()
            self._texts.note_written()
            self._place.save()

    def _lost(self, error: OSError) -> BackendLostError:
        return BackendLostError(f"{self._directory} cannot be written ({error.strerror})")
