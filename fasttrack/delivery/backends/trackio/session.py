"""A run that is open in trackio's database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fasttrack.command import spell_tool
from fasttrack.delivery.backends.read_back import ReadBack
from fasttrack.delivery.backends.trackio import database as trackio
from fasttrack.errors import ArtifactRefusedError
from fasttrack.journal.media import MediaRow

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from fasttrack.delivery.backends.base import Place
    from fasttrack.delivery.backends.trackio.database import Database
    from fasttrack.journal.entries import Artifact, Header
    from fasttrack.journal.rows import Row

_MANY_ROWS = 5000  # more are not held back until the next check


class TrackioSession:
    """Add to a run's rows.

    Threads: one at a time.
    """

    url: str | None = None
    held_rows = False

    def __init__(self, database: Database, header: Header, place: Place) -> None:
        """Open the run in `database`.

        Raises:
            Exception: one of `database.FAULTS`.
        """
        database.prepare()
        self.directory: Path | None = database.path.parent
        self.look: str | None = spell_tool("trackio", "show", "--project", database.project)
        self._database = database
        # Rows of one run under two names would be shown as two.
        self._name = database.name() or header.name or header.run_id
        self._there = database.config()
        self._config = {**_about(header), **self._there, **header.config}
        self._back = ReadBack(place, database.rows, trackio.kept)
        self._rows: list[tuple[str, Row]] = []
        self._last: tuple[str, Row] | None = None

    def settle(self, segments: Sequence[Path], pending: Sequence[Path]) -> list[Path]:
        """Look for all rows of the run. See `Session.settle`."""
        try:
            self.held_rows = next(self._database.rows(), None) is not None
            return self._back.settle(segments, pending, empty=not self.held_rows)
        except trackio.FAULTS as error:
            raise trackio.lost(error) from error

    def begin_segment(self, path: Path) -> None:
        """Count its rows from the first. See `Session.begin_segment`."""
        self._back.begin_segment(path)

    def log(self, rows: Sequence[Row]) -> bool:
        """Hold rows back until the next `check`, if there are not too many. See `Session.log`."""
        before = len(self._rows)
        for row in rows:
            number = self._back.number
            lacking = self._back.lacking(row)
            if isinstance(row, MediaRow):
                continue
            self._last = (self._row_id(number, row, lacking), lacking or row)
            if lacking is not None:
                self._rows.append(self._last)
        added = len(self._rows) > before
        if len(self._rows) >= _MANY_ROWS:
            self._send()
        return added

    def _row_id(self, number: int, row: Row, lacking: Row | None) -> str:
        """Return an id that is the row's in every session, and no other run's or copy's."""
        assert self._back.segment is not None
        segment = self._back.segment
        name = f"fasttrack/{segment.parent.name}/{segment.stem}/{number}/{row.time_s!r}"
        part = lacking is not None and len(lacking.values) < len(row.values)
        return f"{name}/{','.join(lacking.values)}" if part and lacking is not None else name

    def console(self, stream: str, text: str) -> None:
        """Pass over: trackio has no place for it. See `Session.console`."""

    def configure(self, values: Mapping[str, Any]) -> None:
        """Change the configuration with the next `check`. See `Session.configure`."""
        self._config |= values

    def prepare_artifact(self, entry: Artifact, files: Path) -> Any:
        """Refuse: no files are taken. See `Session.prepare_artifact`."""
        raise ArtifactRefusedError("trackio is given no artifacts")

    def upload(self, artifact: Any, aliases: Sequence[str]) -> str | None:
        """Refuse: no files are taken. See `Session.upload`."""
        raise ArtifactRefusedError("trackio is given no artifacts")

    def withdraw(self, artifact: Any) -> None:
        """Do nothing: none was taken. See `Session.withdraw`."""

    def uploaded_bytes(self) -> int | None:
        """Return None: nothing is sent. See `Session.uploaded_bytes`."""
        return None

    def check(self) -> bool:
        """Write what was held back. See `Session.check`."""
        self._send()
        return False

    def finish(self, *, exit_code: int, preempting: bool) -> None:
        """Write what was held back; how a run ended is nothing to trackio. See `Session.finish`."""
        self._send()

    def prove(self, *, artifacts: int, timeout_s: float) -> str:
        """Read all of the run back. See `Session.prove`."""
        try:
            return self._back.prove(str(self._database.path))
        except trackio.FAULTS as error:
            raise trackio.lost(error) from error

    def _send(self) -> None:
        config = self._config if self._config != self._there else None
        try:
            rows = self._rows or (self._row_for_config() if config is not None else [])
            if not rows:
                return
            self._database.write(self._name, rows, config)
        except trackio.FAULTS as error:
            raise trackio.lost(error) from error
        self._rows = []
        if config is not None:
            self._there = dict(config)

    def _row_for_config(self) -> list[tuple[str, Row]]:
        """Return a row that is there: a configuration is written together with rows only."""
        there = self._last is not None and self._database.has(self._last[0])
        return [self._last] if there and self._last is not None else []


def _about(header: Header) -> dict[str, Any]:
    """Return what a run is as entries of its configuration; those with `_` are trackio's own."""
    about = {
        "_Created": trackio.spell_time(header.time_s),
        "_Group": header.group,
        "tags": list(header.tags or ()),
        "notes": header.notes,
    }
    return {name: value for name, value in about.items() if value}
