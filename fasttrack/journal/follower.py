"""Read a run's segments one after the other, also while they are being written."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from fasttrack.journal.reader import MOST_NAMED, SegmentReader
from fasttrack.journal.run_directory import attempt, segments

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from fasttrack.journal.entries import Entry
    from fasttrack.journal.reader import Damage
    from fasttrack.journal.shared_reads import SharedReads


class Batch(NamedTuple):
    """Entries of one segment, in order."""

    segment: Path
    entries: list[Entry]


class Follower:
    """Follow segments: each to its end as it is now, then the next; the last one as it grows.

    Threads: one at a time. Use it as a context manager, or `close` it.
    """

    def __init__(
        self, list_segments: Callable[[], Sequence[Path]], shared: SharedReads | None = None
    ) -> None:
        """Begin with the first of the segments.

        Args:
            list_segments: returns the segments, oldest first; asked again whenever the current
                one has nothing new, so that one which has been begun meanwhile is found.
            shared: what others in this process have read of them.
        """
        self._list_segments = list_segments
        self._shared = shared
        self._reader: SegmentReader | None = None
        self._last = 0  # the attempt that was opened last
        self._bad_lines = 0  # of closed segments
        self._damage: list[Damage] = []  # of those, too
        self.sizes_bytes: dict[Path, int] = {}
        """How much was read of each segment so far, torn lines included."""

    @classmethod
    def of_run(cls, run_dir: Path) -> Follower:
        """Follow all segments of the run in `run_dir`, those to come included."""
        return cls(lambda: segments(run_dir))

    @classmethod
    def of_segments(cls, paths: Sequence[Path], shared: SharedReads | None = None) -> Follower:
        """Follow these segments and no others."""
        return cls(lambda: paths, shared)

    def read(self) -> Batch | None:
        """Return the next entries, at most about 256 KiB of them; None while nothing more is there.

        Raises:
            OSError: a segment cannot be read.
        """
        while True:
            following = self._following()  # asked before the last look at the current one
            if self._reader is not None:
                entries = self._reader.read()
                self.sizes_bytes[self._reader.path] = self._reader.size_bytes
                if entries:
                    return Batch(self._reader.path, entries)
            if following is None:
                return None
            self.close()
            self._reader = SegmentReader(following, shared=self._shared)
            self._last = attempt(following)

    def batches(self) -> Iterator[Batch]:
        """Yield what is written by now, to its end."""
        while (batch := self.read()) is not None:
            yield batch

    @property
    def bad_lines(self) -> int:
        """How many damaged lines were skipped so far."""
        return self._bad_lines + (0 if self._reader is None else self._reader.bad_lines)

    @property
    def damage(self) -> list[Damage]:
        """The first of them, by name."""
        return self._damage + ([] if self._reader is None else self._reader.damage)

    @property
    def may_have_more(self) -> bool:
        """Whether the last read took as much as one takes, so that more may be there already."""
        return self._reader is not None and self._reader.may_have_more

    def _following(self) -> Path | None:
        return next((path for path in self._list_segments() if attempt(path) > self._last), None)

    def close(self) -> None:
        """Close the open segment."""
        if self._reader is not None:
            self._reader.close()
            self._bad_lines += self._reader.bad_lines
            self._damage = (self._damage + self._reader.damage)[:MOST_NAMED]
            self._reader = None

    def __enter__(self) -> Follower:
        """Return the follower."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()
