"""What is proven of a run's delivery, kept on disk: rules for what `journal/cursor.py` holds."""

from __future__ import annotations

import contextlib
import copy
import shutil
from threading import Lock
from typing import TYPE_CHECKING

from fasttrack.errors import BackendLostError
from fasttrack.journal.cursor import Cursor, SegmentLedger, load_cursor, load_known
from fasttrack.journal.run_directory import (
    artifacts_directory,
    cursor_path,
    meanwhile_cursor_path,
    meanwhile_directory,
    staged_directory,
    staging_directory,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from fasttrack.journal.cursor import Ledger


class CursorFile:
    """The run's cursor and its file.

    Threads: each backend's ledger is one thread's; `save` and `saved` from any.
    """

    def __init__(self, run_dir: Path, *, meanwhile: bool = False) -> None:
        """Read what is known of the run in `run_dir`.

        Args:
            run_dir: the run's directory.
            meanwhile: whether this is for a delivery beside the run's own, which has a file of its
                own, and leaves artifacts alone.
        """
        self._path = meanwhile_cursor_path(run_dir) if meanwhile else cursor_path(run_dir)
        self._lock = Lock()
        self._cursor = load_known(run_dir) if meanwhile else load_cursor(self._path)
        if meanwhile:
            for state in _states(self._cursor):
                state.artifacts = {}
        self._saved = copy.deepcopy(self._cursor)  # one thread must not write another's halves

    def ledger(self, backend: str) -> Ledger:
        """Return the ledger of `backend`."""
        return self._cursor.ledger(backend)

    def save(self, backend: str) -> None:
        """Write what is known of `backend` by now; only the thread whose ledger it is may ask.

        Raises:
            BackendLostError: the disk took it not; a restart would not know what this session
                relies on.
        """
        ledger = copy.deepcopy(self._cursor.ledger(backend))
        with self._lock:
            cursor = Cursor(backends={**self._saved.backends, backend: ledger})
            try:
                cursor.save(self._path)
            except OSError as error:
                why = f"{self._path} cannot be written ({error.strerror})"
                raise BackendLostError(why) from error
            self._saved = cursor

    def saved(self) -> Cursor:
        """Return a copy of what is known of all backends, as it was last saved."""
        with self._lock:
            return copy.deepcopy(self._saved)


def take_over(run_dir: Path) -> None:
    """Have the next session look at all that was delivered beside the run's own delivery, once.

    It went in pieces, and each was proven; now all of it is compared with the destination by
    content, and only what is missing is sent. To be called with both of the run's locks held.
    """
    beside = load_cursor(meanwhile_cursor_path(run_dir))
    own, known = load_cursor(cursor_path(run_dir)), load_known(run_dir)
    for name, ledger in beside.backends.items():
        for segment, state in ledger.segments.items():
            before = own.ledger(name).segments.get(segment, SegmentLedger())
            if not before.proof or before.size_bytes < state.size_bytes:
                found = known.ledger(name).segment(segment)
                found.proof, found.arrived, found.recheck = None, 0, True
    with contextlib.suppress(OSError):  # a full disk: what is there is found out all the same
        if beside.backends:
            known.save(cursor_path(run_dir))
        meanwhile_cursor_path(run_dir).unlink(missing_ok=True)
    shutil.rmtree(meanwhile_directory(run_dir), ignore_errors=True)


def _states(cursor: Cursor) -> Iterator[SegmentLedger]:
    for ledger in cursor.backends.values():
        yield from ledger.segments.values()


class Proofs:
    """What is proven of a run's segments, for one backend.

    Threads: one at a time.
    """

    def __init__(self, ledger: Ledger, segments: Sequence[Path]) -> None:
        """Judge `segments`, oldest first, by `ledger`."""
        self._ledger = ledger
        self._segments = segments

    def is_proven(self, path: Path, *, offline_will_do: bool, as_read: bool = False) -> bool:
        """Return whether all of a segment, as it is now, is proven to have arrived.

        Args:
            path: the segment.
            offline_will_do: whether a local stand-in counts, and artifacts that wait in one.
            as_read: whether what was there when it was last read will do.
        """
        state = self._ledger.segments.get(path.name)
        if state is None or not (state.proof or state.offline_proof):
            return False
        if not as_read and path.stat().st_size != state.size_bytes:
            return False  # delivered by hand while its trainer, elsewhere, still wrote
        return offline_will_do or bool(state.proof and None not in state.artifacts.values())

    def pending(self, *, offline_will_do: bool, as_read: bool = False) -> list[Path]:
        """Return the segments that are not proven, oldest first; see `is_proven`."""
        return [
            path
            for path in self._segments
            if not self.is_proven(path, offline_will_do=offline_will_do, as_read=as_read)
        ]

    def note(
        self,
        proof: str,
        paths: Sequence[Path],
        artifacts: Mapping[tuple[str, str], str | None],
        *,
        online: bool,
    ) -> None:
        """Note what a session has proven: all rows of `paths`, and its artifacts if `online`."""
        for path in paths:
            state = self._ledger.segment(path.name)
            told = proof
            if state.refused:
                told += f"; left out: {_spell(state.refused)}"
            if online:
                state.proof, state.arrived, state.recheck = told, state.rows, False
            else:
                state.offline_proof = told
        if online:
            for (name, number), outcome in artifacts.items():
                self._ledger.segment(name).artifacts[number] = outcome

    def rows(self) -> int:
        """Return how many rows the segments held when they were last delivered."""
        return sum(self._ledger.segment(path.name).rows for path in self._segments)

    def words(self) -> str | None:
        """Return what proves the delivery, without repetition; None where nothing does."""
        states = [self._ledger.segment(path.name) for path in self._segments]
        found = [state.proof or state.offline_proof for state in states]
        return "; ".join(dict.fromkeys(filter(None, found))) or None


def _spell(refused: Mapping[str, str]) -> str:
    return "; ".join(f"{name!r} {why}" for name, why in refused.items())


class StagedFiles:
    """The run's staged artifacts: removed once every backend that takes them has them.

    Threads: any.
    """

    def __init__(self, run_dir: Path, segments: Sequence[Path], cursor: CursorFile) -> None:
        """Look after what the attempts that wrote `segments` have staged."""
        self._run_dir = run_dir
        self._segments = segments
        self._cursor = cursor
        self.takers: dict[str, Sequence[Path]] = {}
        """Backends that take artifacts -> the segments for them; what is for none stays."""

    def remove_settled(self) -> None:
        """Remove the artifacts that have arrived everywhere, or never will."""
        saved = self._cursor.saved()
        for path in self._segments:
            names = [name for name, paths in self.takers.items() if path in paths]
            known = [saved.ledger(name).segment(path.name).artifacts for name in names]
            for number in {number for artifacts in known for number in artifacts}:
                if number.isdecimal() and all(
                    artifacts.get(number) is not None for artifacts in known
                ):
                    shutil.rmtree(staged_directory(path, int(number)), ignore_errors=True)
        self._remove_empty()

    def remove_orphans(self) -> None:
        """Remove what a kill left of segments that have arrived whole: half copies, say."""
        saved = self._cursor.saved()
        for path in self._segments:
            names = [name for name, paths in self.takers.items() if path in paths]
            proofs = [Proofs(saved.ledger(name), [path]) for name in names]
            if proofs and not any(p.pending(offline_will_do=False) for p in proofs):
                shutil.rmtree(staging_directory(path), ignore_errors=True)
        self._remove_empty()

    def _remove_empty(self) -> None:
        for folder in (*map(staging_directory, self._segments), artifacts_directory(self._run_dir)):
            with contextlib.suppress(OSError):
                folder.rmdir()
