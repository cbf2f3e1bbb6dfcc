"""What a destination has of a run that keeps all attempts' rows in one heap, as it shows them.

MLflow and trackio know a run, and no segments: whether a row is there is only known by comparing
all of the journal with all that is there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fasttrack.delivery.contents import Known, compare, numbered_rows, watched
from fasttrack.errors import BackendLostError
from fasttrack.journal.media import MediaRow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from fasttrack.delivery.backends.base import Place
    from fasttrack.delivery.contents import Comparison, Held
    from fasttrack.journal.rows import Row


class ReadBack:
    """Know which rows of a run are there, and which come next.

    Threads: one at a time.
    """

    def __init__(
        self,
        place: Place,
        read: Callable[[], Iterable[Held]],
        kept: Callable[[Row], Held],
        *,
        takes_media: bool = False,
    ) -> None:
        """Know nothing before `settle`.

        Args:
            place: the run's delivery.
            read: reads what is there.
            kept: returns of a row what the destination can be expected to hold.
            takes_media: whether the session looks after media, beside the rows.
        """
        self._place = place
        self._read = read
        self._kept = kept
        self._segments: list[Path] = []
        self._known = Known()
        self._media_said = takes_media
        self.segment: Path | None = None
        """Whose rows come now."""
        self.number = 0
        """Of that segment's next row, from 0."""

    def settle(
        self, segments: Sequence[Path], pending: Sequence[Path], *, empty: bool
    ) -> list[Path]:
        """Look for all rows of the run; return the segments that have to be handed over.

        Those of `pending`, and others whose rows are there no more: their proofs are withdrawn.
        All rows of them come by again, so that each gets the same identity every time.

        Args:
            segments: all segments of the run, oldest first.
            pending: those of them that are not proven.
            empty: whether the destination is known to hold nothing.

        Raises:
            Exception: whatever `read` raises.
        """
        self._segments = list(segments)
        if empty:
            self._known = Known()
            lost = {path.name for path in segments}
        else:
            found = self._compare()
            self._known = Known(found)
            lost = {row.segment for row in found.missing}
        todo = [path for path in segments if path in pending or path.name in lost]
        for path in todo:
            state = self._place.ledger.segment(path.name)
            state.arrived = 0
            if path not in pending:
                state.proof = None
        return todo

    def begin_segment(self, path: Path) -> None:
        """Note that what follows is of another segment."""
        self.segment, self.number = path, 0

    def lacking(self, row: Row) -> Row | None:
        """Count the segment's next row; return what the destination lacks of it, None: nothing.

        What is returned has the names and numbers that the destination keeps.
        """
        assert self.segment is not None
        number, self.number = self.number, self.number + 1
        if isinstance(row, MediaRow):
            if not self._media_said:
                self._media_said = True
                self._place.leave_out(f"media, such as {row.name!r}: it is given none")
            return None
        kept = row.with_values(dict(self._kept(row)[1]))  # type: ignore[arg-type]
        return self._known.lacking(self.segment.name, number, kept)

    def prove(self, where: str) -> str:
        """Compare everything once more; return in words what proves that all rows are there.

        Args:
            where: the destination, in words.

        Raises:
            BackendLostError: rows are missing.
            Exception: whatever `read` raises.
        """
        found = self._compare()
        if found.missing:
            raise BackendLostError(found.gaps())
        if not found.rows:
            return "no rows"
        told = f"{found.rows:,} rows read back from {where}"
        return f"{told}; {found.surplus()}" if found.doubled else told

    def _compare(self) -> Comparison:
        moved = self._place.progress
        return compare(
            lambda: watched(numbered_rows(self._segments), moved),
            lambda: watched(self._read(), moved),
            kept=self._kept,
        )
