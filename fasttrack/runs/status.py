"""What became of a run: how its trainer fares, and what of it is proven to be delivered."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fasttrack.journal.cursor import Ledger, SegmentLedger, load_cursor, load_known
from fasttrack.journal.destinations import segments_by_backend
from fasttrack.journal.entries import DEFAULT_BACKENDS
from fasttrack.journal.follower import Follower
from fasttrack.journal.reader import count_rows, last_written_s, read_finish
from fasttrack.journal.rows import Row
from fasttrack.journal.run_directory import (
    attempt,
    base_directory,
    cursor_path,
    meanwhile_cursor_path,
)
from fasttrack.journal.trainer import trainer_runs

if TYPE_CHECKING:
    from fasttrack.journal.cursor import Cursor
    from fasttrack.runs.local import LocalRun

_RECENT_S = 300.0
_WORST_FIRST = ("no", "partly", "offline dir", "files", "server")
_ARRIVED = ("files", "server")
_NOWHERE = "journal"


@dataclass(frozen=True, slots=True)
class RunStatus:
    """How a run's newest attempt fares."""

    word: str
    """"finished", "failed" or "preempted": its last line says so. Without such a line: "running" or
    "crashed", if the trainer ran on this host; "running?", if it runs on another host and wrote
    within five minutes; else "unknown"."""
    exit_code: int | None
    """What the trainer left with; None where it has not said so."""
    ended_s: float | None
    """Unix time at which it said so."""


def find_status(run: LocalRun) -> RunStatus:
    """Return how the newest attempt of `run` fares.

    Raises:
        OSError: a segment cannot be read.
    """
    segment, header = run.segments[-1], run.headers[-1]
    finish = read_finish(segment)
    if finish is not None:
        code = finish.exit_code
        word = "preempted" if finish.preempting else "failed" if code else "finished"
        return RunStatus(word, code, finish.time_s)
    runs = None if header is None else trainer_runs(header)
    if runs is not None:
        return RunStatus("running" if runs else "crashed", None, None)
    recent = time.time() - last_written_s(segment) < _RECENT_S
    return RunStatus("running?" if recent else "unknown", None, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentDelivery:
    """What is proven of one attempt's rows."""

    attempt: int
    rows: int
    proof: str | None
    """What proves that the destination has every row; None: nothing does."""
    offline_proof: str | None
    """What proves that a local stand-in, for a later upload, holds every row; None: nothing
    does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendDelivery:
    """What is proven of a run's delivery to one backend."""

    backend: str
    segments: tuple[SegmentDelivery, ...]
    url: str | None
    """Where a person looks at the run."""
    directory: str | None
    """The local directory that it was last delivered into."""
    offline_directories: tuple[str, ...]
    """Names of the local stand-ins that hold rows of it."""
    artifacts: dict[tuple[int, str], str | None]
    """(attempt, number) -> what proves the artifact's delivery, or why it is off; None: pending."""

    @property
    def place(self) -> str:
        """What the destination is: "server", or "files" in a directory of this machine."""
        return "files" if self.url is None and self.directory is not None else "server"

    @property
    def word(self) -> str:
        """Where the run is.

        At its `place`; in an "offline dir", for a later upload; "partly": some of it is somewhere;
        or "no".
        """
        if all(segment.proof for segment in self.segments):
            if None in self.artifacts.values():
                return "partly"
            return self.place
        proven = [bool(segment.proof or segment.offline_proof) for segment in self.segments]
        return "offline dir" if all(proven) else "partly" if any(proven) else "no"

    @property
    def proofs(self) -> list[str]:
        """What proves the newest state of each delivered attempt, without repetition."""
        return list(dict.fromkeys(p for s in self.segments if (p := s.proof or s.offline_proof)))


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryStatus:
    """What is proven of a run's rows."""

    backends: tuple[BackendDelivery, ...]
    """In the order in which the run names them; empty: it is delivered nowhere."""
    segments: tuple[SegmentDelivery, ...]
    """Those of the first backend; without any proof where there is none."""

    @property
    def rows(self) -> int:
        """How many rows the run has."""
        return sum(segment.rows for segment in self.segments)

    @property
    def word(self) -> str:
        """The worst of the backends' words; "journal" where there are none."""
        words = [backend.word for backend in self.backends]
        return min(words, key=_worth, default=_NOWHERE)

    @property
    def is_complete(self) -> bool:
        """Whether every destination is proven to have all of the run."""
        return all(backend.word in _ARRIVED for backend in self.backends)

    @property
    def proofs(self) -> list[str]:
        """What proves the newest state of each delivered attempt, without repetition."""
        return list(dict.fromkeys(proof for one in self.backends for proof in one.proofs))

    @property
    def url(self) -> str | None:
        """Where a person looks at the run; of the first backend that has such a place."""
        return next((one.url for one in self.backends if one.url is not None), None)

    @property
    def offline_directories(self) -> list[str]:
        """Names of the local stand-ins that hold rows of it."""
        return [name for one in self.backends for name in one.offline_directories]

    def artifact(self, attempt: int, number: int) -> str | None:
        """Return what proves an artifact's delivery, or why it is off; None: it is pending."""
        key = (attempt, str(number))
        told = [one.artifacts[key] for one in self.backends if key in one.artifacts]
        known = [proof for proof in told if proof is not None]
        return "; ".join(dict.fromkeys(known)) if known and len(known) == len(told) else None


def _worth(word: str) -> int:
    # What has arrived has arrived, whatever the place is called: the first backend's word is told.
    return min(_WORST_FIRST.index(word), _WORST_FIRST.index("files"))


def find_delivery(run: LocalRun) -> DeliveryStatus:
    """Return what is proven of `run`. Counts its rows.

    Raises:
        OSError: a segment cannot be read.
    """
    cursor = load_known(run.directory)
    destinations = _destinations(run, cursor)
    ledgers = {name: cursor.backends.get(name, Ledger()) for name in destinations}
    counted = {path: count_rows(path) for path in run.segments}
    proven = [ledger for ledger in ledgers.values() if any(map(_proof, ledger.segments.values()))]
    grown = [
        path
        for path, rows in counted.items()
        if any(rows > ledger.segments.get(path.name, SegmentLedger()).rows for ledger in proven)
    ]
    counted |= _count_whole_rows(grown)  # the rest may be damaged lines, or new rows
    backends = tuple(
        _backend_delivery(name, ledgers[name], {path: counted[path] for path in paths})
        for name, paths in destinations.items()
    )
    nowhere = _backend_delivery("", Ledger(), counted)
    segments = (*backends, nowhere)[0].segments
    return DeliveryStatus(backends=backends, segments=segments)


def seems_delivered(run: LocalRun) -> bool:
    """Return whether every destination was proven to have all of `run`; reads no rows.

    What was written since then is not looked for, as `find_delivery` does.
    """
    cursor = load_known(run.directory)
    states = [
        cursor.backends.get(name, Ledger()).segments.get(path.name)
        for name, paths in _destinations(run, cursor).items()
        for path in paths
    ]
    return all(state is not None and state.proof for state in states)


def is_proven(run: LocalRun) -> bool:
    """Return whether every destination is proven to have all of `run`, as it is now.

    By the sizes of its segments: no row is read, and damaged lines need no explanation.

    Raises:
        OSError: a segment cannot be read.
    """
    if meanwhile_cursor_path(run.directory).exists():  # in pieces; never compared as a whole
        return False
    cursor = load_cursor(cursor_path(run.directory))
    for name, paths in _destinations(run, cursor).items():
        ledger = cursor.backends.get(name, Ledger())
        for path in paths:
            state = ledger.segments.get(path.name, SegmentLedger())
            if not state.proof or None in state.artifacts.values():
                return False
            if state.size_bytes != path.stat().st_size:
                return False
    return True


def _destinations(run: LocalRun, cursor: Cursor) -> dict[str, list[Path]]:
    """Return the segments that are for each backend."""
    if any(run.headers):
        headers = dict(zip(run.segments, run.headers, strict=False))
        return segments_by_backend(headers, cursor.added)
    return dict.fromkeys(tuple(cursor.backends) or DEFAULT_BACKENDS, run.segments)


def _proof(state: SegmentLedger) -> str | None:
    return state.proof or state.offline_proof


def _backend_delivery(name: str, ledger: Ledger, counted: dict[Path, int]) -> BackendDelivery:
    segments = []
    artifacts: dict[tuple[int, str], str | None] = {}
    for path, rows in counted.items():
        state = ledger.segments.get(path.name, SegmentLedger())
        holds = rows <= state.rows  # a proof is for the rows that were there when it was made
        segments.append(
            SegmentDelivery(
                attempt=attempt(path),
                rows=rows,
                proof=state.proof if holds else None,
                offline_proof=state.offline_proof if holds else None,
            )
        )
        artifacts.update({(attempt(path), n): proof for n, proof in state.artifacts.items()})
    return BackendDelivery(
        backend=name,
        segments=tuple(segments),
        url=ledger.url,
        directory=_directory(ledger, next(iter(counted)).parent),
        offline_directories=tuple(ledger.notes.get("offline_directories", ())),
        artifacts=artifacts,
    )


def _directory(ledger: Ledger, run_dir: Path) -> str | None:
    names = ledger.notes.get("offline_directories")
    if ledger.directory is not None or not names:
        return ledger.directory
    return str(base_directory(run_dir) / "wandb" / names[-1])  # version 1 of the cursor had names


def _count_whole_rows(paths: list[Path]) -> dict[Path, int]:
    counts: Counter[Path] = Counter(dict.fromkeys(paths, 0))
    with Follower.of_segments(paths) as follower:
        for path, entries in follower.batches():
            counts[path] += sum(isinstance(entry, Row) for entry in entries)
    return dict(counts)
