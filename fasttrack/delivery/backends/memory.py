"""A destination in this process's memory: for `fasttrack.testing`, and to test delivery itself.

It keeps every promise of a real one (rows once, by count; an offline stand-in; artifacts; proofs),
and can be told to fail where real ones do.
"""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fasttrack.delivery.backends.base import Holding
from fasttrack.delivery.contents import Known, as_it_is, compare, numbered_rows
from fasttrack.errors import BackendLostError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fasttrack.delivery.backends.base import Place
    from fasttrack.delivery.contents import Comparison
    from fasttrack.journal.entries import Artifact, Header
    from fasttrack.journal.rows import Row


@dataclass(frozen=True, slots=True)
class StoredArtifact:
    """An artifact that arrived."""

    type: str
    name: str
    aliases: tuple[str, ...]
    files: dict[str, bytes]
    """Path within the artifact -> contents."""


@dataclass
class Store:
    """What one run's rows became, at the destination or in a stand-in."""

    headers: list[Header] = field(default_factory=list)
    """One per session."""
    rows: list[Row] = field(default_factory=list)
    console: list[tuple[str, str]] = field(default_factory=list)
    """(stream, text)."""
    config: dict[str, Any] = field(default_factory=dict)
    """The user's, and the run's metadata under "metadata"."""
    artifacts: list[StoredArtifact] = field(default_factory=list)
    endings: list[tuple[int, bool]] = field(default_factory=list)
    """(exit code, preempting) of each session that was finished."""


class MemoryDestination:
    """One run's destination, which outlives sessions and backends as a server does.

    Threads: as a session's.
    """

    def __init__(self) -> None:
        """Hold nothing, and fail nowhere."""
        self.server = Store()
        self.offline: list[Store] = []
        """The stand-ins, one per offline session."""
        self.stop_asked = False
        """Whether the training is to stop: set it."""
        self.lost_steps: list[int] = []
        """Steps of rows that are taken and not kept, once each, as a full disk does it."""
        self._faults: defaultdict[str, deque[Exception | None]] = defaultdict(deque)

    def fail(self, method: str, error: Exception, *, after: int = 0, times: int = 1) -> None:
        """Have calls of a session's `method`, or of "open" or "open_offline", raise.

        Args:
            method: which.
            error: what to raise.
            after: how many calls go well before.
            times: how many calls fail.
        """
        self._faults[method].extend([*[None] * after, *[error] * times])

    def recover(self) -> None:
        """Fail no more."""
        self._faults.clear()

    def called(self, method: str) -> None:
        """Raise what was planned for this call of `method`, if anything."""
        if self._faults[method] and (error := self._faults[method].popleft()) is not None:
            raise error


_destinations: dict[str, MemoryDestination] = {}


def destination_of(run_id: str) -> MemoryDestination:
    """Return where the rows of a run arrive in this process. Threads: any."""
    return _destinations.setdefault(run_id, MemoryDestination())


def forget(run_id: str) -> None:
    """Let go of a run's destination; who holds it keeps it."""
    _destinations.pop(run_id, None)


class MemoryBackend:
    """Open sessions in memory.

    Threads: one at a time.
    """

    has_offline = True
    takes_artifacts = True
    helper: str | None = None

    def __init__(self, place: Place, destination: MemoryDestination | None = None) -> None:
        """Deliver to `destination`; None: to `destination_of` the run's id."""
        self._place = place
        self._destination = destination

    def open(self, header: Header, *, online: bool, timeout_s: float) -> MemorySession:
        """Open a session. See `Backend.open`."""
        destination = self._destination or destination_of(header.run_id)
        destination.called("open" if online else "open_offline")
        store = destination.server
        if not online:
            store = Store()
            destination.offline.append(store)
        store.headers.append(header)
        return MemorySession(destination, store, self._place, online=online)

    def abandon(self) -> None:
        """Nothing is held. See `Backend.abandon`."""

    def holdings(self, header: Header, segments: Sequence[Path]) -> list[Holding]:
        """Return the destination. See `Backend.holdings`."""
        store = (self._destination or destination_of(header.run_id)).server
        return [
            Holding(
                place="memory",
                segments=tuple(segments),
                rows=lambda: map(as_it_is, store.rows),
            )
        ]


class MemorySession:
    """Keep what is handed over.

    Threads: as `Session`.
    """

    def __init__(
        self, destination: MemoryDestination, store: Store, place: Place, *, online: bool
    ) -> None:
        """Write into `store`, which is the destination's own or a stand-in."""
        self._destination = destination
        self._store = store
        self._place = place
        self._online = online
        self._pending: list[Path] = []
        self._known = Known()
        self._ends: dict[Path, int] = {}  # rows of segments that were handed over; more may come
        self._segment, self._number = "", 0
        self._there = 0  # rows of the pending segments that an earlier session has handed over
        self.held_rows = False
        self.url = f"memory://{store.headers[-1].run_id}" if online else None
        self.directory = None if online else Path(f"offline-{len(destination.offline)}")

    def settle(self, segments: Sequence[Path], pending: Sequence[Path]) -> list[Path]:
        """Count what is there. See `Session.settle`."""
        self._destination.called("settle")
        self.held_rows = bool(self._store.rows)
        self._pending = list(pending)
        ledger = self._place.ledger
        if self._online and any(ledger.segment(path.name).recheck for path in pending):
            self._known = Known(self._compare())
        elif self._online:
            arrived = sum(ledger.segment(path.name).arrived for path in segments)
            self._there = len(self._store.rows) - arrived
        return list(pending)

    def begin_segment(self, path: Path) -> None:
        """Count its rows from the first that has not arrived. See `Session.begin_segment`."""
        self._segment = path.name
        self._number = self._place.ledger.segment(path.name).arrived if self._online else 0

    def log(self, rows: Sequence[Row]) -> bool:
        """Keep rows. See `Session.log`."""
        return sum(map(self._log_one, rows)) > 0

    def _log_one(self, row: Row) -> bool:
        number, self._number = self._number, self._number + 1
        lacking = self._known.lacking(self._segment, number, row)
        if lacking is None:
            return False
        if self._there > 0:
            self._there -= 1
            return False
        self._destination.called("log")
        if row.step in self._destination.lost_steps:
            self._destination.lost_steps.remove(row.step)
            return True
        self._store.rows.append(lacking.with_values({**lacking.values}))
        return True

    def _compare(self) -> Comparison:
        ledger = self._place.ledger

        def first(path: Path) -> int:
            return ledger.segment(path.name).arrived if self._online else 0

        return compare(
            lambda: numbered_rows(self._pending, first, self._ends.get),
            lambda: map(as_it_is, self._store.rows),
        )

    def console(self, stream: str, text: str) -> None:
        """Keep text. See `Session.console`."""
        self._store.console.append((stream, text))

    def configure(self, values: Mapping[str, Any]) -> None:
        """Keep configuration. See `Session.configure`."""
        self._destination.called("configure")
        self._store.config.update(values)

    def prepare_artifact(self, entry: Artifact, files: Path) -> StoredArtifact:
        """Read the files. See `Session.prepare_artifact`."""
        self._destination.called("prepare_artifact")
        contents = {
            str(path.relative_to(files)): path.read_bytes()
            for path in sorted(files.rglob("*"))
            if path.is_file()
        }
        return StoredArtifact(entry.type, entry.name, entry.aliases, contents)

    def upload(self, artifact: StoredArtifact, aliases: Sequence[str]) -> str | None:
        """Keep an artifact. See `Session.upload`."""
        self._destination.called("upload")
        self._store.artifacts.append(artifact)
        return f"{artifact.name} is in memory" if self._online else None

    def withdraw(self, artifact: StoredArtifact) -> None:
        """Forget an artifact. See `Session.withdraw`."""
        self._destination.called("withdraw")
        self._store.artifacts.remove(artifact)

    def uploaded_bytes(self) -> int | None:
        """Return the size of the artifacts. See `Session.uploaded_bytes`."""
        kept = self._store.artifacts
        return sum(len(data) for artifact in kept for data in artifact.files.values())

    def check(self) -> bool:
        """Fail if told to. See `Session.check`."""
        self._destination.called("check")
        return self._destination.stop_asked

    def finish(self, *, exit_code: int, preempting: bool) -> None:
        """Keep how the run ended. See `Session.finish`."""
        self._destination.called("finish")
        self._store.endings.append((exit_code, preempting))

    def prove(self, *, artifacts: int, timeout_s: float) -> str:
        """Compare. See `Session.prove`."""
        self._destination.called("prove")
        ledger = self._place.ledger
        self._ends = {path: ledger.segment(path.name).rows for path in self._pending}
        found = self._compare()
        if found.missing:
            for path in self._pending:
                self._place.ledger.segment(path.name).recheck = self._online
            raise BackendLostError(found.gaps())
        return f"{len(self._store.rows)} rows in memory"
