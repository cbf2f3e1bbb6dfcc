"""Deliver runs again and again while they are written: what `fasttrack sync --watch` does.

An offline run's own delivery, on a node without network, fills a local stand-in; here what its
journal has by now is sent beside it. Once the run is over, all of it is delivered as by
`fasttrack sync`, and compared. Runs that deliver themselves are left alone until they are over.

The journals may lie on a file system that other machines write to. So no times of files are
compared, whose clocks may differ, only sizes; and a size is asked of an opened file, which a
network file system looks up anew.
"""

from __future__ import annotations

import enum
import math
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fasttrack.delivery.backends.registry import BACKENDS
from fasttrack.delivery.spawn import delivery_command, meanwhile_command
from fasttrack.journal.reader import read_finish
from fasttrack.journal.run_directory import segments
from fasttrack.journal.trainer import trainer_runs
from fasttrack.runs.local import LocalRun
from fasttrack.runs.status import is_proven
from fasttrack.runs.sync import SyncResult, deliver_run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from concurrent.futures import Future
    from pathlib import Path

    from fasttrack.journal.entries import Header

LATE_S = 60.0
"""Rows of a run that is written shall be at its destination after so long."""

_LOOK_AGAIN_S = 30.0  # at a run that was over and delivered: it may be resumed
_TRY_AGAIN_S = 2.0  # after a failure, or where somebody else delivers; doubled each time
_LONGEST_PACE_S = 30.0  # where one takes long: its journal is read from the beginning each time
_LONGEST_PAUSE_S = 300.0
_QUIET_S = 600.0  # so long without a row, and a trainer on another machine may be dead


class Due(enum.Enum):
    """What is to be done about a run."""

    NOTHING = enum.auto()
    ROWS = enum.auto()
    """It goes on, offline: what it has by now is sent beside its own delivery."""
    ALL = enum.auto()
    """It is over: it is delivered whole, and proven."""


@dataclass(slots=True, eq=False)
class WatchedRun:
    """One run, as far as it is known between two looks. Times are the watch's clock's."""

    directory: Path
    run: LocalRun | None = None
    """Its headers, read anew with every attempt."""
    sizes: tuple[int, ...] = ()
    """Of its segments, in bytes, at the last look."""
    sent: tuple[int, ...] = ()
    """What they were when its rows were last delivered."""
    whole: tuple[int, ...] = ()
    """What they were when it was last delivered whole."""
    due: Due = Due.NOTHING
    look_at_s: float = 0.0
    grew_at_s: float = 0.0
    due_since_s: float | None = None
    not_before_s: float = 0.0
    failures: int = 0
    """How many deliveries have delivered nothing since the last that did."""
    reason: str | None = None
    """Why the last one failed, or did not begin."""
    under_way: Future[SyncResult] | None = None
    began_s: float = 0.0

    @property
    def run_id(self) -> str:
        """The run's id, or what its directory is called where that is not known."""
        return self.directory.name if self.run is None else self.run.run_id


@dataclass(frozen=True, slots=True)
class Told:
    """What became of one delivery."""

    watched: WatchedRun
    result: SyncResult
    all_of_it: bool
    """Whether the run was to be delivered whole, as one that is over."""
    again_in_s: float | None
    """When it is tried again; None: it is delivered."""


@dataclass(slots=True)
class Watch:
    """Deliver many runs, at most `jobs` at a time; those that have waited longest come first.

    Threads: one, on which everything is said; each delivery has one of its own, and a process.
    """

    directories: Callable[[], Iterable[Path]]
    """Returns the directories to look into; asked at every look."""
    jobs: int
    on_delivery: Callable[[Told], object]
    """Told of every delivery that has ended, where it has done something."""
    on_trouble: Callable[[str], object]
    """Told in words what else is wrong."""
    stopped: threading.Event = field(default_factory=threading.Event)
    """Set it to end the watch: what is under way is broken off."""
    deliver: Callable[[WatchedRun, Due, Callable[[], bool]], SyncResult] | None = None
    """Delivers a run, until the function that it is given says that nobody wants that; None: by a
    process."""
    look_every_s: float = 2.0
    pace_s: float = 10.0
    """How long a run has peace after a delivery; more where that took long."""
    clock: Callable[[], float] = time.monotonic
    runs: dict[Path, WatchedRun] = field(default_factory=dict)
    _unreadable: set[Path | None] = field(default_factory=set)
    _said_late_s: float = -math.inf
    _begun_last: Due = Due.ALL

    def watch(self) -> None:
        """Watch until `stopped`; returns when all that was begun has ended."""
        with ThreadPoolExecutor(self.jobs, thread_name_prefix="delivery") as pool:
            try:
                while not self.stopped.is_set():
                    self.look(pool)
                    self.stopped.wait(self.look_every_s)
            finally:
                self.stopped.set()  # also where Ctrl-C comes a second time
        self.collect()

    def look(self, pool: ThreadPoolExecutor) -> None:
        """Look once at all runs, and begin what is due."""
        self.collect()
        now_s = self.clock()
        directories = self._directories()
        for gone in self.runs.keys() - set(directories):
            if self.runs[gone].under_way is None:  # deleted, or moved away
                del self.runs[gone]
        for directory in directories:
            watched = self.runs.get(directory)
            if watched is None:
                if not segments(directory):
                    continue
                watched = self.runs[directory] = WatchedRun(directory, grew_at_s=now_s)
            if watched.under_way is None and now_s >= watched.look_at_s:
                self._look_at(watched, now_s)
        self._say_if_late(now_s)
        waiting = [one for one in self.runs.values() if one.due_since_s is not None]
        ready = [one for one in waiting if one.under_way is None and now_s >= one.not_before_s]
        ready.sort(key=_waiting_since)
        busy = sum(one.under_way is not None for one in self.runs.values())
        for _ in range(min(self.jobs - busy, len(ready))):
            # In turn: neither waits behind all of a hundred of the other kind.
            watched = next((one for one in ready if one.due is not self._begun_last), ready[0])
            ready.remove(watched)
            self._begun_last = watched.due
            self._begin(watched, pool, now_s)

    def _directories(self) -> list[Path]:
        try:
            return list(self.directories())
        except OSError as error:
            self._say_unreadable(None, f"runs cannot be looked for: {error}")
            return list(self.runs)

    def _say_unreadable(self, path: Path | None, why: str) -> None:
        if path not in self._unreadable:  # each once
            self._unreadable.add(path)
            self.on_trouble(why)

    def _look_at(self, watched: WatchedRun, now_s: float) -> None:
        try:
            self._measure(watched, now_s)
            watched.due = self._what_is_due(watched, now_s)
            self._unreadable.discard(watched.directory)
        except OSError as error:
            watched.due = Due.NOTHING
            self._say_unreadable(watched.directory, f"{watched.directory} cannot be read: {error}")
        if watched.due is Due.NOTHING:
            watched.due_since_s = None
        elif watched.due_since_s is None:
            watched.due_since_s = now_s
        settled = watched.due is Due.NOTHING and watched.whole == watched.sizes
        watched.look_at_s = now_s + (_LOOK_AGAIN_S if settled else 0.0)

    def _measure(self, watched: WatchedRun, now_s: float) -> None:
        paths = segments(watched.directory)
        run = watched.run
        if run is None or len(paths) != len(watched.sizes) or None in run.headers:
            run = watched.run = LocalRun(watched.directory)
        sizes = tuple(map(_size_of, paths))
        if sizes != watched.sizes:
            if not watched.sizes and _is_over(run, paths) and is_proven(run):
                watched.whole = sizes  # long ago
            watched.sizes, watched.grew_at_s = sizes, now_s

    def _what_is_due(self, watched: WatchedRun, now_s: float) -> Due:
        run, sizes = watched.run, watched.sizes
        if run is None or not sizes or run.journal_only:
            return Due.NOTHING
        quiet = now_s - watched.grew_at_s >= _QUIET_S
        if quiet or _is_over(run, segments(watched.directory)):
            return Due.NOTHING if watched.whole == sizes else Due.ALL
        if _sends_nothing_itself(run.headers[-1]) and watched.sent != sizes:
            return Due.ROWS
        return Due.NOTHING

    # --- deliveries -----------------------------------------------------------------------------

    def _begin(self, watched: WatchedRun, pool: ThreadPoolExecutor, now_s: float) -> None:
        watched.began_s, watched.due_since_s = now_s, now_s
        deliver = self.deliver or _deliver
        watched.under_way = pool.submit(deliver, watched, watched.due, self.stopped.is_set)

    def collect(self) -> None:
        """Take in the deliveries that have ended."""
        now_s = self.clock()
        for watched in self.runs.values():
            if watched.under_way is not None and watched.under_way.done():
                result = _result_of(watched, watched.under_way)
                watched.under_way = None
                if not (self.stopped.is_set() and not result.delivered):  # broken off, by us
                    self._take_in(watched, result, now_s)

    def _take_in(self, watched: WatchedRun, result: SyncResult, now_s: float) -> None:
        all_of_it = watched.due is Due.ALL
        if result.delivered:
            watched.sent = watched.sizes
            watched.failures = 0
            if all_of_it:
                watched.whole = watched.sizes
            pause_s = min(max(self.pace_s, 2 * (now_s - watched.began_s)), _LONGEST_PACE_S)
            said = not result.already
        else:
            pause_s = min(_TRY_AGAIN_S * 2 ** min(watched.failures, 10), _LONGEST_PAUSE_S)
            watched.failures += 1
            said = result.reason != watched.reason and not (result.busy and all_of_it)
        again_in_s = None if result.delivered else pause_s
        watched.not_before_s = now_s + pause_s
        if said:
            self.on_delivery(Told(watched, result, all_of_it, again_in_s))
        watched.reason = result.reason

    def _say_if_late(self, now_s: float) -> None:
        late = [
            one
            for one in self.runs.values()
            if one.due is Due.ROWS
            and one.due_since_s is not None
            and not one.failures
            and now_s - one.due_since_s > LATE_S
        ]
        if late and now_s - self._said_late_s > _LONGEST_PAUSE_S:
            self._said_late_s = now_s
            longest_s = max(now_s - _waiting_since(one) for one in late)
            self.on_trouble(
                f"rows of {len(late)} runs have waited for up to {longest_s:.0f} s: "
                f"more than {self.jobs} at a time (--jobs) may be quicker"
            )


def _waiting_since(watched: WatchedRun) -> float:
    return watched.due_since_s or 0.0


def _deliver(watched: WatchedRun, due: Due, unwanted: Callable[[], bool]) -> SyncResult:
    command = meanwhile_command if due is Due.ROWS else delivery_command
    return deliver_run(LocalRun(watched.directory), command=command, unwanted=unwanted)


def _result_of(watched: WatchedRun, ended: Future[SyncResult]) -> SyncResult:
    try:
        return ended.result()
    except OSError as error:
        directory = str(watched.directory.absolute())
        return SyncResult(run_id=watched.run_id, directory=directory, reason=str(error))


def _size_of(path: Path) -> int:
    """Return a file's size as it is now, also where another machine writes it."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.fstat(fd).st_size
    finally:
        os.close(fd)


def _is_over(run: LocalRun, paths: list[Path]) -> bool:
    """Return whether the newest attempt, of the last of `paths`, is known to have ended."""
    if not paths or read_finish(paths[-1]) is not None:
        return True
    header = run.headers[-1]
    return header is not None and trainer_runs(header) is False


def _sends_nothing_itself(header: Header | None) -> bool:
    """Return whether an attempt was told to be offline, and has a destination to be sent to."""
    if header is None or header.mode != "offline":
        return False
    return any(name in BACKENDS and BACKENDS[name].has_offline for name in header.backends)
