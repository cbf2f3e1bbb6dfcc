"""Read the journal as it grows, watch the training process, and note what is worth an alert."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import orjson

from fasttrack.delivery.alerting.standing import Standing
from fasttrack.journal.alerts import replace_file
from fasttrack.journal.entries import Finish, Pausing
from fasttrack.journal.reader import SegmentReader, read_finish
from fasttrack.journal.rows import Row
from fasttrack.journal.run_directory import alerts_state_path, attempt
from fasttrack.journal.trouble import AskedAlert, BadLayers, RanksStanding

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from fasttrack.alerts.judge import Finding, Judge
    from fasttrack.journal.entries import Entry
    from fasttrack.journal.shared_reads import SharedReads

TICK_S = 0.25
_SAVE_EVERY_S = 10.0
_MOST_READS = 16  # in one round, each of about 256 KiB
_PATIENCE_S = 2.0  # for which it waits for a courier: one may read nothing, or elsewhere


class AlertWatch:
    """Follow a run's newest attempt, and what is left of those before it, to its end.

    It takes what couriers have read anyway, and reads by itself where none of them gets on: a
    destination that is away or slow holds it up no more than the others.

    Threads: `run`, or `run_once` by hand, on one; the others from any.
    """

    def __init__(
        self,
        segments: Sequence[Path],
        judge: Judge,
        *,
        trainer_alive: Callable[[], bool],
        found: Callable[[Finding, int], None],
        look: Callable[[], Standing] = Standing,
        reads: SharedReads | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Prepare; nothing is read yet.

        Args:
            segments: the run's, oldest first; the last one's trainer may still be writing it.
            judge: decides.
            trainer_alive: tells whether more rows may come.
            found: told of each finding, with the attempt's number.
            look: looks at the training process.
            reads: what couriers in this process have read of the segments.
            clock: unix time in seconds.
        """
        self._segments = list(segments)
        self._judge = judge
        self._trainer_alive = trainer_alive
        self._found = found
        self._look = look
        self._reads = reads
        self._clock = clock
        self._path = alerts_state_path(segments[0].parent)
        self._reader: SegmentReader | None = None
        self._place = 0  # of the segment that is read
        self._unsaved = False
        self._save_at_s = clock() + _SAVE_EVERY_S
        self._hurry = threading.Event()
        self._waited_for = False
        self._waited_s = 0.0  # for a courier, where the reader is now
        if reads is not None:
            reads.on_note = self._hurry.set
        self._over = threading.Event()

    # --- any thread -------------------------------------------------------------------------------

    def wait(self, timeout_s: float | None) -> bool:
        """Wait until the attempt has ended and all of it was looked at; return whether it is so."""
        self._waited_for = True
        self._hurry.set()
        return self._over.wait(timeout_s)

    # --- its own ----------------------------------------------------------------------------------

    def run(self) -> None:
        """Watch until the trainer has left."""
        try:
            self._open()
            last_s = time.monotonic()
            while True:
                now_s = time.monotonic()
                # More, and this process did not run, and who is watched may not have, either.
                passed_s, last_s = min(now_s - last_s, 2 * TICK_S), now_s
                if self.run_once(passed_s):
                    return
                self._hurry.wait(TICK_S)
                self._hurry.clear()
        finally:
            self._over.set()
            self.close()

    def close(self) -> None:
        """Let go of the segment that is read."""
        if self._reader is not None:
            self._reader.close()

    def run_once(self, passed_s: float) -> bool:
        """Look once; return whether the trainer has left and nothing more is to come.

        Args:
            passed_s: seconds since the last look, in which this process ran.
        """
        if self._reader is None:
            self._open()
        alive = self._trainer_alive()  # asked before the last look
        finish, behind = None, True
        assert self._reader is not None
        for _ in range(_MOST_READS):
            if self._courier_is_about_to_read():
                self._waited_s += passed_s
                return False
            self._waited_s = 0.0
            entries = self._reader.read()
            if not entries:
                behind = False
                break
            finish = self._take(entries) or finish
        if behind:  # the trainer is looked at when that is worked off
            self._hurry.set()
            return False
        if self._place < len(self._segments) - 1:
            self._end(read_finish(self._segments[self._place]))
            self._begin(self._place + 1, 0)
            return False
        if finish is None and not alive:
            finish = read_finish(self._segments[-1])
        if finish is not None or not alive:
            self._end(finish)
            self._save()
            self._over.set()
            return True
        standing = self._look()
        now_s = self._clock()
        for finding in self._judge.wait(
            passed_s, now_s, stopped=standing.stopped, still=standing.still
        ):
            self._tell(finding)
        if self._unsaved and now_s >= self._save_at_s:
            self._save()
        return False

    def _courier_is_about_to_read(self) -> bool:
        """Return whether what comes next will soon be here without being read twice."""
        reads, reader = self._reads, self._reader
        assert reader is not None
        if reads is None or self._waited_for or max(reads.idle_s(), self._waited_s) >= _PATIENCE_S:
            return False
        return reader.has_more and not reads.have_come_to(reader.path, reader.whole_bytes)

    def _take(self, entries: list[Entry]) -> Finish | None:
        """Take entries in, in order; return the attempt's last line, if it is there."""
        self._unsaved = True
        rows: list[Row] = []
        finish = None
        for entry in entries:
            if type(entry) is Row:
                rows.append(entry)
            elif isinstance(entry, Pausing):
                self._see(rows)
                rows = []
                self._judge.paused = entry.begins
            elif isinstance(entry, BadLayers):
                for finding in self._judge.see_layers(entry.step, entry.text, entry.time_s):
                    self._tell(finding)
            elif isinstance(entry, AskedAlert):
                self._see(rows)
                rows = []
                self._tell(self._judge.see_asked(entry))
            elif isinstance(entry, RanksStanding):
                self._see(rows)  # what is told of ranks names the last step
                rows = []
                for finding in self._judge.see_ranks(entry):
                    self._tell(finding)
            elif isinstance(entry, Finish):
                finish = entry
        self._see(rows)
        return finish

    def _see(self, rows: list[Row]) -> None:
        for finding in self._judge.see(rows):
            self._tell(finding)

    def _end(self, finish: Finish | None) -> None:
        code, at_s, preempting = None, self._clock(), False
        if finish is not None:
            code, at_s, preempting = finish.exit_code, finish.time_s or at_s, finish.preempting
        for finding in self._judge.end(code, at_s, preempting=preempting):
            self._tell(finding)

    def _tell(self, finding: Finding) -> None:
        self._found(finding, self._judge.attempt)
        self._save_at_s = 0.0

    # --- where it is ------------------------------------------------------------------------------

    def _open(self) -> None:
        """Go on where the last process was; with the newest attempt where none was."""
        names = [path.name for path in self._segments]
        try:
            saved: Any = orjson.loads(self._path.read_bytes())
            place, size_bytes = names.index(saved["segment"]), int(saved["bytes"])
            if not 0 <= size_bytes <= self._segments[place].stat().st_size:
                raise ValueError("another file")
            state: dict[str, Any] = dict(saved["judge"])
        except (OSError, ValueError, KeyError, TypeError):
            self._begin(len(names) - 1, 0)
            return
        self._judge.restore(state)
        self._begin(place, size_bytes)

    def _begin(self, place: int, size_bytes: int) -> None:
        if self._reader is not None:
            self._reader.close()
        self._place = place
        path = self._segments[place]
        self._reader = SegmentReader(path, size_bytes, self._reads, shares=False)
        if not size_bytes or self._judge.attempt != attempt(path):
            self._judge.begin(attempt(path))

    def _save(self) -> None:
        assert self._reader is not None
        self._unsaved, self._save_at_s = False, self._clock() + _SAVE_EVERY_S
        state = {
            "segment": self._reader.path.name,
            "bytes": self._reader.whole_bytes,
            "judge": self._judge.state(),
        }
        try:
            replace_file(self._path, state)
        except OSError:
            self._unsaved = True  # the disk is full: later
