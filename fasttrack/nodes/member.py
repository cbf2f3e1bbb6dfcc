"""The threads that sample nodes: one where the run is recorded, one on each other node."""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from fasttrack.context.places import fit_name
from fasttrack.journal.run_directory import node_path
from fasttrack.latch import Latch
from fasttrack.nodes.files import NodeFile
from fasttrack.nodes.meeting import has_ended, proof_of
from fasttrack.nodes.sampling import NodeSampler

if TYPE_CHECKING:
    from collections.abc import Callable

    from fasttrack.nodes.meeting import Announcement, Meeting
    from fasttrack.notices import Notices

_FIND_S = 600.0  # in which the run must begin that this process is to sample for
_PLACE_S = 30.0  # in which a shared file system shows what another node has written
_POLL_S = 1.0
_LAST_S = 2.0  # that `close` waits for the thread
_MOST_FAILURES = 3  # of the store, in a row


class Sink(Protocol):
    """Where a node's lines go."""

    def add(self, line: dict[str, Any]) -> None:
        """Take a line."""


class Member:
    """A thread beside training. What goes wrong in it is said, and ends it.

    Threads: `start` and `close` on any, the rest on its own.
    """

    def __init__(self, notices: Notices, clock: Callable[[], float] = time.monotonic) -> None:
        """Prepare; nothing runs before `start`."""
        self._notices = notices
        self._clock = clock
        self._over = Latch()
        self._thread: threading.Thread | None = None
        self._pid = os.getpid()

    def start(self) -> None:
        """Start the thread. Where the system has none left, that is said, and nothing sampled."""
        thread = threading.Thread(target=self._guarded, name="fasttrack-node", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            self._notices.warn("nodes", f"nodes: this node is not sampled: {error}")
            return
        self._thread = thread
        # A thread inside torch's store when the interpreter ends would abort the process.
        atexit.register(self.close)

    def close(self) -> None:
        """End the thread, within about two seconds. Idempotent; in a forked child it does nothing.

        One that hangs in a file system or a driver is left behind.
        """
        thread, self._thread = self._thread, None
        if thread is None or os.getpid() != self._pid:
            return
        self._over.open()
        thread.join(_LAST_S)
        atexit.unregister(self.close)

    def rest(self, seconds: float) -> bool:
        """Wait; return whether it is time to end."""
        return self._over.wait(max(0.0, seconds)) or self._over.is_open

    def run(self) -> None:
        """Do the work, until `rest` returns True."""
        raise NotImplementedError

    def _guarded(self) -> None:
        try:
            self.run()
        except Exception as error:  # the thread's boundary
            self._notices.warn("nodes", f"nodes: this node is sampled no more: {error!r}")


class Visitor(Member):
    """Sample this node for a run that is recorded by another process.

    Threads: as `Member`.
    """

    def __init__(
        self,
        meeting: Meeting,
        node: str,
        interval_s: float,
        notices: Notices,
        *,
        make_sampler: Callable[[str], NodeSampler] = NodeSampler,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare.

        Args:
            meeting: tells of the run.
            node: this node's name.
            interval_s: between samples, where it is not told.
            notices: told what goes wrong.
            make_sampler: makes what samples the node of a name.
            clock: in seconds.
        """
        super().__init__(notices, clock)
        self._meeting = meeting
        self._node = node
        self._interval_s = interval_s
        self._make_sampler = make_sampler

    def run(self) -> None:
        """Find the run, then sample until it or this tracker is over."""
        known: list[str] = []
        while (found := self._find(known)) is not None:
            known.append(found.segment)
            if not self._visit(found):
                return

    def _visit(self, found: Announcement) -> bool:
        """Sample for the run; return whether another attempt of it is to be looked for."""
        sampler = self._make_sampler(self._node)
        try:
            interval_s = found.interval_s or self._interval_s
            first = sampler.first_line(interval_s)
            try:
                segment, sink = self._open(found, first)
            except FileExistsError:  # by another process of this node
                return found.by_id
            if sink is None or not self._sample(sampler, sink, segment, interval_s):
                return False
            return found.by_id
        finally:
            sampler.close()

    def _find(self, known: list[str]) -> Announcement | None:
        deadline_s = self._clock() + _FIND_S
        why: object = f"no run has begun within {_FIND_S:g} s that it could be of"
        while self._clock() < deadline_s:
            try:
                found = self._meeting.find(known)
            except RuntimeError as error:  # the store's process is gone
                why = error
                break
            if found is not None:
                return found
            if self.rest(_POLL_S):
                return None
        if not known:  # else one was found, and it is over
            self._notices.warn("nodes", f"nodes: this node ({self._node}) is not sampled: {why}")
        return None

    def _open(self, found: Announcement, first: dict[str, Any]) -> tuple[Path | None, Sink | None]:
        """Return the run's segment, if it can be seen here, and where lines go.

        Raises:
            FileExistsError: another process samples this node.
        """
        told = Path(found.segment)
        here = self._meeting.runs_directory / told.parent.name / told.name
        why = f"{told} is not to be seen here, and"
        deadline_s = self._clock() + _PLACE_S
        while True:
            segment = next((each for each in (told, here) if proof_of(each) == found.proof), None)
            if segment is not None:
                try:
                    return segment, NodeFile(node_path(segment, self._node), first)
                except FileExistsError:
                    raise
                except OSError as error:  # it cannot be written from here
                    why = f"{error}, and"
                    break
            if self._clock() >= deadline_s:
                break
            if self.rest(_POLL_S):
                return None, None
        if self._meeting.has_store:
            return None, _StoreSink(self._meeting, first)
        self._notices.warn(
            "nodes",
            f"nodes: this node ({self._node}) is not sampled: {why} there is no process group",
        )
        return None, None

    def _sample(
        self, sampler: NodeSampler, sink: Sink, segment: Path | None, interval_s: float
    ) -> bool:
        """Sample until it is over; return whether it was the run that ended, or its attempt."""
        lost = failures = 0
        due_s = self._clock()
        over = False
        while not over:
            try:
                if lost:
                    sink.add({"kind": "lost", "time": time.time(), "samples": lost})
                    lost = 0
                sink.add(sampler.sample().as_line())
                failures = 0
            except OSError:  # a full disk; or the run's directory is gone
                lost += 1
            except RuntimeError:  # the store's
                lost, failures = lost + 1, failures + 1
                if failures >= _MOST_FAILURES:
                    return False
            due_s = max(due_s + interval_s, self._clock())
            if self.rest(due_s - self._clock()):
                break
            with contextlib.suppress(RuntimeError):
                over = self._meeting.over if segment is None else has_ended(segment)
        with contextlib.suppress(OSError, RuntimeError):
            why = "the run ended" if over else "closed"
            sink.add({"kind": "end", "time": time.time(), "why": why})
        return over


class _StoreSink:
    """Send lines through the store, the newest only."""

    def __init__(self, meeting: Meeting, first: dict[str, Any]) -> None:
        """Send nothing yet; `first` goes with each line."""
        self._meeting = meeting
        self._first = first
        self._number = 0

    def add(self, line: dict[str, Any]) -> None:
        """Send a line."""
        if line["kind"] == "sample":
            self._meeting.send({"first": self._first, "line": line}, self._number)
            self._number += 1


class Home(Member):
    """Where the run is recorded: tell the others of it, sample this node, write what they send.

    Threads: as `Member`.
    """

    def __init__(
        self,
        meeting: Meeting,
        told: Announcement,
        notices: Notices,
        gather: Callable[[bool], None],
        *,
        sampler: Callable[[], NodeSampler] | None,
        alone: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare.

        Args:
            meeting: where the others look.
            told: what they are told.
            notices: told what goes wrong.
            gather: called now and then, to have what nodes tell made rows of the run, and with
                True for the last time.
            sampler: makes what samples this node; None: another process does.
            alone: whether there are no others.
            clock: in seconds.
        """
        super().__init__(notices, clock)
        self._meeting = meeting
        self._told = told
        self._gather = gather
        self._make_sampler = sampler
        self._alone = alone
        self._segment = Path(told.segment)
        self._files: dict[str, NodeFile] = {}

    def run(self) -> None:
        """Work until the tracker is over."""
        sampler = None if self._make_sampler is None else self._make_sampler()
        try:
            file = None if sampler is None else self._begin(sampler)
            due_s, announced = self._clock(), self._alone
            while True:
                if not announced:
                    announced = self._with_store(lambda: self._meeting.announce(self._told))
                if self._clock() >= due_s:
                    due_s = max(due_s + self._told.interval_s, self._clock())
                    if file is not None and sampler is not None:
                        with contextlib.suppress(OSError):  # a full disk, which the worker tells of
                            file.add(sampler.sample().as_line())
                    if announced and not self._alone:
                        self._with_store(self._relay)
                self._gather(False)
                if self.rest(min(due_s - self._clock(), _POLL_S)):
                    break
            self._gather(True)
            if not self._alone:
                self._with_store(self._meeting.end)
        finally:
            if sampler is not None:
                sampler.close()

    def _begin(self, sampler: NodeSampler) -> NodeFile | None:
        first = sampler.first_line(self._told.interval_s)
        try:
            return NodeFile(node_path(self._segment, sampler.node), first)
        except OSError:  # another process of this node was quicker; or the disk takes nothing
            return None

    def _with_store(self, ask: Callable[[], object]) -> bool:
        try:
            return bool(ask())
        except RuntimeError as error:
            self._notices.warn(
                "nodes", f"nodes: torch.distributed's store does not answer: {error}"
            )
            return False

    def _relay(self) -> None:
        """Write what nodes have sent that do not see the run's directory."""
        for message, lost in self._meeting.receive():
            try:
                first, line = message["first"], message["line"]
                node = fit_name(str(first["node"]))
                file = self._files.get(node)
                if file is None:
                    file = self._files[node] = NodeFile(node_path(self._segment, node), first)
                if lost:
                    file.add({"kind": "lost", "time": time.time(), "samples": lost})
                file.add(line)
            except (OSError, KeyError, TypeError):  # a full disk; no message of ours
                continue
