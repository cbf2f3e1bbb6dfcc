"""The worker's thread: drain the rings, append to the journal, and look after delivery."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Protocol

from fasttrack.handler_errors import is_handlers
from fasttrack.hotpath.records import MEDIA_FIELDS
from fasttrack.journal.entries import encode
from fasttrack.latch import Latch
from fasttrack.notices import spell
from fasttrack.options import Options
from fasttrack.worker.bursts import Bursts
from fasttrack.worker.console import ConsoleEncoder
from fasttrack.worker.gpu import GpuSampler
from fasttrack.worker.media import MediaFiles
from fasttrack.worker.pauses import PauseNotes
from fasttrack.worker.rows import RowEncoder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fasttrack.hotpath.records import Console, MediaRecord, RawRecord, Scalar
    from fasttrack.hotpath.ring import Ring
    from fasttrack.journal.entries import Finish, Recorded
    from fasttrack.journal.writer import SegmentWriter
    from fasttrack.notices import Notices
    from fasttrack.worker.meters import StepMeter
    from fasttrack.worker.overhead import Overhead
    from fasttrack.worker.resolve import Resolver
    from fasttrack.worker.step_watch import StepWatch
    from fasttrack.worker.supervisor import Delivery

_CHUNK = 64  # records that are written together
_LAST_WORDS_S = 1.0  # that the thread may take to end once it does nothing more
_POLL_S = 0.6
_MOST_BESIDE = 1024  # rows of no logged call that wait for the first one of a call
_BACKLOG = 4096  # records of one round from which catching up matters more than short bursts


class Listener(Protocol):
    """Somebody who sums up what was logged. Threads: worker only."""

    @property
    def meter(self) -> StepMeter:
        """To be used for the steps."""

    def take(self, records: Sequence[RawRecord], /) -> None:
        """Take in records that have become rows, their tensors numbers."""


class Worker:
    """Carry records from the rings to the journal.

    Threads: `run_once` on one thread at a time; `start`, `wake`, `flush` and `stop` from any.
    """

    def __init__(
        self,
        ring: Ring[RawRecord],
        console: Ring[Console],
        resolver: Resolver,
        writer: SegmentWriter,
        notices: Notices,
        *,
        delivery: Delivery,
        overhead: Overhead,
        flush_interval_s: float,
        gpu_stats_interval: int,
        options: Options | None = None,
        gpu: GpuSampler | None = None,
        media: MediaFiles | None = None,
        bursts: Bursts | None = None,
        watch: StepWatch | None = None,
        every_interval: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare; nothing runs before `start` (or `run_once`, by hand).

        `options` say what is metered. `every_interval` is called on the thread now and then, as
        often as delivery is looked after: after three flush intervals or 0.6 s, whichever is less,
        at the soonest after one.
        """
        self._every_interval = every_interval
        self._ring = ring
        self._console = console
        self._writer = writer
        self._notices = notices
        self._delivery = delivery
        self._overhead = overhead
        self._flush_interval_s = flush_interval_s
        self._poll_interval_s = max(flush_interval_s, min(3 * flush_interval_s, _POLL_S))
        self._gpu = gpu or GpuSampler(lambda text: notices.warn(f"gpu:{text}", text))
        self._bursts = bursts or Bursts()
        self._rows = RowEncoder(
            resolver,
            notices,
            overhead,
            self._gpu,
            self._bursts,
            media or MediaFiles(writer.path.parent, notices),
            gpu_stats_interval=gpu_stats_interval,
            options=options or Options(),
            own_metrics=self._own_metrics,
            watch=watch,
        )
        self._watch = watch
        # any thread
        self._wake = threading.Lock()  # a binary semaphore: held = nothing to do yet
        self._wake.acquire()
        # Of each `flush`: held until it is done. No Condition: what a signal handler raises in its
        # Python code would leave its lock held, and the worker waiting for ever.
        self._flushes: deque[threading.Lock] = deque()
        self._end = Latch()
        self._lines: deque[bytes] = deque()  # that are no rows
        self._stopping = False
        self._gave_up = False
        self._thread: threading.Thread | None = None
        self.open_pauses: list[float] = []
        """When those of `tracker.pause()` began that have not ended, on `perf_counter`'s clock."""
        self.beside: deque[dict[str, Scalar]] = deque()
        """Rows of no logged call, to be written under the newest step. Any thread adds to them."""
        # worker thread
        self.resolver = resolver
        self._listener: Listener | None = None
        self._pauses = PauseNotes(self.open_pauses, self.write)
        self._printed = ConsoleEncoder()
        self._rows_lost = 0
        self._in_hand = 0  # records that are no longer in the ring and not yet rows
        self.ring_high_water = 0

    # --- any thread ---------------------------------------------------------------------------

    def listen(self, listener: Listener) -> None:
        """Have `listener` hear of all rows of calls; before there is anything to hear."""
        self._listener = listener
        self._rows.use_meter(listener.meter)

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._run, name="fasttrack-worker", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Make the worker look at the ring now. Never waits."""
        if self._wake.locked():
            try:
                self._wake.release()
            except RuntimeError as error:  # another thread was quicker
                if is_handlers(error):
                    raise

    def write(self, entry: Recorded) -> None:
        """Have an entry that is no row written to the journal, soon. Never waits.

        Raises:
            TypeError: the entry is not representable in JSON.
        """
        self._lines.append(encode(entry))
        self.wake()

    @property
    def rows_written(self) -> int:
        """Rows on disk so far."""
        return self._rows.rows - self._rows_lost - self._writer.held_rows

    @property
    def training_steps(self) -> int:
        """Calls of `log_training_step` so far that were not left out for the interval."""
        return self._rows.training_steps

    @property
    def left_behind(self) -> int:
        """Records that have not come to the disk since `stop` gave up, or after the last round."""
        if not (self._gave_up or self._end.is_open):
            return 0
        return self._ring.count() + self._in_hand + self._writer.held_rows

    @property
    def delivery_lag_rows(self) -> int:
        """Rows on disk that delivery has not handed on, as far as it told."""
        report = self._delivery.report
        return 0 if report.delivered else max(0, self.rows_written - report.rows)

    def flush(self, timeout_s: float) -> bool:
        """Wait until all that was logged before this call is in the journal; return whether it is.

        Blocks up to `timeout_s` seconds, on the device and the disk.
        """
        deadline = time.monotonic() + timeout_s
        done = threading.Lock()
        done.acquire()
        self._flushes.append(done)
        while True:
            self.wake()
            alive = self._thread is not None and not self._end.is_open
            left_s = deadline - time.monotonic() if alive else 0.0
            if done.acquire(timeout=min(max(left_s, 0.0), 1.0)):
                return True
            if left_s <= 0:
                return False

    def stop(self, timeout_s: float) -> bool:
        """End the thread after a last round; return whether it ended within `timeout_s`."""
        self._stopping = True
        self.wake()
        if self._thread is None:
            return True
        self._gave_up = not self._end.wait(max(0.0, timeout_s))
        if not self._gave_up:
            self._thread.join(_LAST_WORDS_S)
        return not self._gave_up

    def end_segment(self, finish: Finish) -> None:
        """Write the last line and close the segment and the GPU library; after `stop`."""
        told = self._rows.end(self.open_pauses)
        self._append([*self._printed.end(), *told, encode(finish)])
        self._count_lost(self._writer.trim_held(to_nothing=True))
        self._writer.close()
        self._gpu.close()

    # --- worker thread ------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._loop_twice()
        finally:
            self._end.open()

    def _loop_twice(self) -> None:
        try:
            self._loop()
        except BaseException as error:
            self._notices.count("worker_errors")
            self._notices.warn("worker_died", f"the worker died of {error!r} and is started again")
            self._loop()

    def _loop(self) -> None:
        handled, poll_at_s = 0, 0.0
        while True:
            backlog = handled >= self._ring.capacity
            self._wake.acquire(timeout=0 if backlog else self._flush_interval_s)
            stopping = self._stopping
            flushes = len(self._flushes)
            try:
                handled = self.run_once()
                if time.monotonic() >= poll_at_s:  # not at every wake: it asks the system
                    poll_at_s = time.monotonic() + self._poll_interval_s
                    self._every_interval()
                    self._pauses.look()
                    self._delivery.poll()
                    self._overhead.note_cpu()
            except Exception as error:  # the worker's boundary: nothing may stop it
                handled = 0
                self._notices.count("worker_errors")
                self._notices.warn(f"worker:{error!r}", f"the worker met {error!r} and goes on")
            if not self._writer.held_lines:
                for _ in range(flushes):
                    self._flushes.popleft().release()
            if stopping:
                return

    def run_once(self) -> int:
        """Drain the rings as they are now; return the number of records handled.

        Handles at most as many as the ring holds, so that it ends under any load, and yet all
        that was pushed before it began.
        """
        handled, last = 0, self._stopping
        if self._console.items or self._printed.holds:
            printed = self._printed.encode(self._console.pop(self._console.capacity))
            if printed:
                self._append(printed)
        if self._lines:
            self._append([self._lines.popleft() for _ in range(len(self._lines))])
        bursts = self._bursts
        bursts.begin(hurried=bool(self._flushes) or self._stopping)
        while handled < self._ring.capacity and (records := self._ring.pop(_CHUNK)):
            handled += len(records)
            if handled >= _BACKLOG:
                bursts.lengthen()
            self._handle(records)
            records.clear()  # what freeing them costs belongs to this burst, not to the next
            bursts.rest_if_due()
        self.ring_high_water = max(self.ring_high_water, handled)
        if self.beside:
            self._write_beside()
        if self._watch is not None:
            self._look_at_steps(self._watch, last=last)
        if not handled and self._writer.held_lines:
            self._append([])
        return handled

    def _write_beside(self) -> None:
        count = len(self.beside)
        if not self._rows.rows:
            count -= _MOST_BESIDE
        rows = [self.beside.popleft() for _ in range(count)]
        if self._rows.rows:
            self._append(self._rows.encode_beside(rows))
        elif rows:
            self._notices.warn(
                "beside",
                "rows of nodes and ranks have no step to stand at while nothing is logged here; "
                "the oldest are dropped",
            )

    def _look_at_steps(self, watch: StepWatch, *, last: bool) -> None:
        # What is noted later may come behind records that are not in the ring yet.
        until_s = time.perf_counter()
        if not self._ring.items:
            for found in watch.rest(until_s):
                self._bursts.begin_next()  # what they were read from freed the GIL
                self._write_rows(found)
        if entries := watch.entries(last=last):
            self._append(list(map(encode, entries)))

    def _handle(self, records: list[RawRecord]) -> None:
        self._in_hand = len(records)
        try:
            if self._watch is None:
                self._write_records(records)
            else:
                for piece in self._watch.in_order(records):
                    self._bursts.begin_next()  # as above
                    self._write_records(piece)
        finally:
            self._in_hand = 0

    def _write_records(self, records: list[RawRecord]) -> None:
        if max(map(len, records)) < MEDIA_FIELDS:
            self._write_rows(records)
            return
        for record in records:  # in their order, each alone
            if len(record) == MEDIA_FIELDS:
                self._write_media(record)
            else:
                self._write_rows([record])

    def _write_rows(self, records: list[RawRecord]) -> None:
        try:
            lines = self._rows.encode(records)
        except Exception as error:  # the worker's boundary: nothing may stop it
            if len(records) > 1:  # one record's trouble is no other's
                for record in records:
                    self._write_rows([record])
                return
            self._met(error)
            return
        self._append(lines)
        if self._listener is not None:
            try:
                self._listener.take(records)
            except Exception as error:  # the rows are written
                self._met(error)

    def _write_media(self, record: MediaRecord) -> None:
        try:
            lines = self._rows.encode_media(record)
        except Exception as error:  # the worker's boundary: nothing may stop it
            self._met(error)
            return
        self._append(lines)

    def _met(self, error: Exception) -> None:
        self._notices.count("worker_errors")
        met = spell(error)  # its own text may raise
        self._notices.warn(f"worker:{met}", f"the worker met {met} and goes on")

    def _own_metrics(self) -> dict[str, float]:
        return {
            **self._overhead.metrics(),
            "fasttrack/ring_high_water": self.ring_high_water,
            "fasttrack/dropped": self._ring.dropped,
            "fasttrack/stale": self._notices.counts().get("stale", 0),
            "fasttrack/delivery_lag_rows": self.delivery_lag_rows,
        }

    def _append(self, lines: list[bytes]) -> None:
        error = self._writer.append(lines)
        if error is not None:
            self._notices.warn(
                "disk", f"the journal cannot be written ({error}); training goes on, rows are held"
            )
            self._count_lost(self._writer.trim_held())

    def _count_lost(self, rows: int) -> None:
        if rows:
            self._rows_lost += rows
            self._notices.count("journal_error", rows)
            self._notices.warn("disk_lost", "the journal could not be written; rows were lost")
