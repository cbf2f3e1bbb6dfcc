"""One session: hand over what is not proven, follow the journal to its end, finish, and prove.

A session that breaks is simply begun anew: its backend knows, by the ledger and by what the
destination holds, which rows are there. No session needs the memory of another.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from fasttrack.delivery.backends.base import Describable
from fasttrack.delivery.ending import POLL_S
from fasttrack.delivery.events import LeftOut, Progress, StopAsked
from fasttrack.delivery.goodput_summary import goodput_summary
from fasttrack.delivery.shown import Shown
from fasttrack.delivery.uploads import Uploads
from fasttrack.errors import BackendLostError
from fasttrack.journal.entries import Artifact, Config, Console, Finish, Metadata, Page
from fasttrack.journal.follower import Follower
from fasttrack.journal.reader import ends_with_finish
from fasttrack.journal.rows import Row
from fasttrack.journal.trouble import AskedAlert

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from fasttrack.delivery.alerting.handover import Handover
    from fasttrack.delivery.backends.base import Session
    from fasttrack.delivery.ending import EndingWatch
    from fasttrack.delivery.events import Event
    from fasttrack.delivery.ledger import Proofs
    from fasttrack.journal.cursor import Ledger, SegmentLedger
    from fasttrack.journal.entries import Entry
    from fasttrack.journal.shared_reads import SharedReads

_REPORT_EVERY_S = 1.0
_PACE_S = 0.5  # between two looks at the journal while the trainer is there
_PROOF_S = 10.0
_GONE = "its files were removed from the staging directory once they had arrived elsewhere"


class Replay:
    """Carry the journal into one open session.

    Threads: one; `report` is called on it and on that of the uploads.
    """

    def __init__(
        self,
        backend: str,
        session: Session,
        *,
        online: bool,
        takes_artifacts: bool,
        segments: Sequence[Path],
        ledger: Ledger,
        ending: EndingWatch,
        upload_timeout_s: float,
        report: Callable[[Event], None],
        handover: Handover | None = None,
        reads: SharedReads | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; nothing is handed over yet.

        Args:
            backend: the name under which to report.
            session: where to.
            online: whether that is the destination itself, not a local stand-in.
            takes_artifacts: whether the session takes files.
            segments: all segments of the run, oldest first.
            ledger: what is known of them; changed here, and saved by the caller.
            ending: knows when the last segment's trainer leaves.
            upload_timeout_s: how long artifacts may take beyond the run's deadline.
            report: told what happens.
            handover: has the alerts that the destination is to be told of; None: of none.
            reads: what others in this process have read of the segments.
            clock: seconds, for the pace of reports.
        """
        self._backend = backend
        self._session = session
        self._online = online
        self._takes_artifacts = takes_artifacts
        self._segments = segments
        self._ledger = ledger
        self._ending = ending
        self._upload_timeout_s = upload_timeout_s
        self._report = report
        self._handover = handover if online else None  # offline they wait
        self._reads = reads
        self._clock = clock
        self._reported_at_s = -_REPORT_EVERY_S
        self._handed_over = False
        self._stop_asked = False
        self._read_at_s = 0.0
        self._shown = Shown()
        self._is_behind = False  # and has more to read at once
        self.rows = 0
        """Rows that came by so far, there already or handed over."""
        self.reason: str | None = None
        """Why, although all rows are proven, not all artifacts have arrived."""

    def run(self, proofs: Proofs, save: Callable[[], None]) -> None:
        """Deliver to the end of the run, finish the session, and note what proves it.

        Blocks until the trainer has left.

        Args:
            proofs: judges what is pending, and takes what is proven.
            save: writes the ledger.

        Raises:
            BackendLostError: the destination went away, or the proof failed; what this session
                handed over may or may not be there. Or it lacks what was proven earlier.
        """
        run_dir = self._segments[-1].parent
        offline = not self._online
        uploads = Uploads(run_dir, self._backend, self._session, self._report)
        if self._handover is not None:
            self._handover.begin()
        with contextlib.closing(uploads):
            pending = proofs.pending(offline_will_do=offline)
            newest = self._segments[-1]
            if newest not in pending and self._ending.find() is None:
                pending.append(newest)  # proven as it was by hand; its trainer goes on
            pending = self._session.settle(self._segments, pending)
            save()
            for path in pending:
                self._hand_over(path, uploads)
            self._wait_for(uploads)
            if self._handover is not None:
                self._handover.send_last(self._session)
            ending = self._ending.find_or_vanished()
            self._summarize()
            self._session.finish(exit_code=ending.exit_code or 0, preempting=ending.preempting)
            if self._handover is not None:
                self._handover.finished()
            proof = self._session.prove(artifacts=uploads.taken, timeout_s=_PROOF_S)
            for path in pending:
                for name, why in self._ledger.segment(path.name).refused.items():
                    self._report(LeftOut(backend=self._backend, what=f"metric {name!r} {why}"))
            proofs.note(proof, pending, dict(uploads.outcomes), online=self._online)
            if uploads.pending:
                self.reason = "an artifact was not uploaded in time"
            elif uploads.failures:
                self.reason = "; ".join(uploads.failures)
            self._ledger.directory = str(self._session.directory or "") or None
            if self._online:
                self._ledger.url = self._session.url
            save()
        if doubted := [p for p in proofs.pending(offline_will_do=offline) if p not in pending]:
            names = ", ".join(path.name for path in doubted)
            raise BackendLostError(f"rows of {names}, which were there, are there no more")

    def _summarize(self) -> None:
        if isinstance(self._session, Describable):
            summary = {**goodput_summary(self._segments), **self._shown.summary()}
            if summary:
                self._session.summarize(summary)

    def _hand_over(self, path: Path, uploads: Uploads) -> None:
        """Hand over one segment to its end; of the last one, until its trainer has left."""
        state = self._ledger.segment(path.name)
        state.rows = 0
        self._session.begin_segment(path)
        with Follower.of_segments([path], self._reads) as follower:
            last, finished = path == self._segments[-1], False
            while True:
                alive = last and self._ending.trainer_alive()  # asked before the last look
                if alive and not finished and self._is_early(path):
                    self._ending.pause(POLL_S)
                    continue
                batch = follower.read()
                self._read_at_s = self._ending.clock()
                self._is_behind = follower.may_have_more
                self._check()
                uploads.check()
                if batch is not None:
                    self._take_all(batch.entries, state, path, uploads)
                    finished = finished or isinstance(batch.entries[-1], Finish)
                elif alive and not finished:
                    self._ending.pause(POLL_S)
                else:
                    break
                self._report_progress(uploading=uploads.pending)
            self._report_damage(follower)
            size_bytes = follower.sizes_bytes.get(path, 0)
            if size_bytes != state.size_bytes:  # what was proven before was less
                state.proof = state.offline_proof = None
            state.size_bytes = size_bytes

    def _is_early(self, path: Path) -> bool:
        """Return whether to wait a little, so that rows come together: the trainer needs the cores.

        A read that took as much as one takes says that more waits (a row may have thousands of
        metrics, so their number says nothing), and the trainer's last line ends it.
        """
        since_s = self._ending.clock() - self._read_at_s
        return 0 <= since_s < _PACE_S and not self._is_behind and not ends_with_finish(path)

    def _report_damage(self, follower: Follower) -> None:
        for damage in follower.damage:
            self._report(LeftOut(backend=self._backend, what=str(damage)))
        if more := follower.bad_lines - len(follower.damage):
            self._report(LeftOut(backend=self._backend, what=f"{more} more damaged lines"))

    def _take_all(
        self, entries: list[Entry], state: SegmentLedger, path: Path, uploads: Uploads
    ) -> None:
        """Take entries in, in order; rows that follow one another together."""
        rows: list[Row] = []
        for entry in entries:
            if isinstance(entry, Row):
                rows.append(entry)
                continue
            self._take_rows(rows, state)
            rows = []
            self._take(entry, state, path, uploads)
        self._take_rows(rows, state)

    def _take_rows(self, rows: list[Row], state: SegmentLedger) -> None:
        fresh = rows[max(0, state.arrived - state.rows) :] if self._online else rows
        state.rows += len(rows)
        self.rows += len(rows)
        self._shown.see(rows)
        if fresh:
            self._handed_over = self._session.log(fresh) or self._handed_over

    def _take(self, entry: Entry, state: SegmentLedger, path: Path, uploads: Uploads) -> None:
        if isinstance(entry, Console):
            # What was printed before rows that are there already was most likely taken, too.
            if self._handed_over or not self._session.held_rows:
                self._session.console(entry.stream, entry.text)
        elif isinstance(entry, Artifact):
            number = str(entry.number)
            if self._takes_artifacts and state.artifacts.setdefault(number, None) is None:
                if self._ledger.added and not (path.parent / entry.directory).is_dir():
                    state.artifacts[number] = _GONE
                    self._report(LeftOut(backend=self._backend, what=f"{entry.name}: {_GONE}"))
                else:
                    uploads.submit((path.name, number), entry)
        elif isinstance(entry, Config):
            self._session.configure(entry.values)
        elif isinstance(entry, Page):
            self._shown.take(entry)
            if isinstance(self._session, Describable):
                self._session.describe(entry)
        elif isinstance(entry, AskedAlert):
            if self._handover is not None:
                self._handover.expect()
        elif isinstance(entry, Metadata):
            self._session.configure({"metadata": entry.values})

    def _wait_for(self, uploads: Uploads) -> None:
        """Wait until all artifacts are uploaded, or have had their time."""
        while uploads.pending and self._ending.seconds_left() + self._upload_timeout_s > 0:
            self._check()
            uploads.check()
            self._report_progress(uploading=True)
            self._ending.pause(POLL_S)

    def _check(self) -> None:
        if self._session.check() and not self._stop_asked:
            self._stop_asked = True
            self._report(StopAsked(backend=self._backend))
        if self._handover is not None:
            self._handover.send(self._session)

    def _report_progress(self, *, uploading: bool = False) -> None:
        now_s = self._clock()
        if now_s - self._reported_at_s >= _REPORT_EVERY_S:
            self._reported_at_s = now_s
            sent = self._session.uploaded_bytes() if uploading else None
            self._report(Progress(backend=self._backend, rows=self.rows, uploaded_bytes=sent))
