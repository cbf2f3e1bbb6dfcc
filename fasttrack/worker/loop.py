"""The worker: drain the rings, resolve, meter, append to the journal, and look after delivery.

What it does under the GIL is what training pays for, so it works in short bursts: after `_BURST_S`
it sleeps for no time at all, which takes long enough that a thread that waits for the GIL gets it.
Releasing the GIL alone, as `write` does, is over before that thread has woken up.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from time import perf_counter
from typing import TYPE_CHECKING, Any

import orjson

from fasttrack.context.distributed import get_world_size
from fasttrack.journal.entries import encode, encode_row
from fasttrack.worker.gpu import GpuSampler
from fasttrack.worker.meters import StepMeter

if TYPE_CHECKING:
    from fasttrack.hotpath.records import Console, RawRecord
    from fasttrack.hotpath.ring import Ring
    from fasttrack.journal.writer import SegmentWriter
    from fasttrack.notices import Notices
    from fasttrack.worker.overhead import Overhead
    from fasttrack.worker.resolve import Resolver
    from fasttrack.worker.supervisor import Delivery

_CHUNK = 32  # records that are written together
_BURST_S = 100e-6
_BACKLOG = 4096  # records of one round from which catching up matters more than short bursts
_BACKLOG_BURST_S = 1e-3
_LARGEST_STEP = 2**53  # W&B's page is JavaScript, and the courier needs room above for its steps
_RESERVED = frozenset(("step", "_step", "_runtime", "_timestamp", "_wandb"))


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
    ) -> None:
        """Prepare; nothing runs before `start` (or `run_once`, by hand)."""
        self._ring = ring
        self._console = console
        self._resolver = resolver
        self._writer = writer
        self._notices = notices
        self._delivery = delivery
        self._overhead = overhead
        self._flush_interval_s = flush_interval_s
        self._gpu_stats_interval = gpu_stats_interval
        self._meter = StepMeter(get_world_size)
        self._gpu = GpuSampler(lambda text: notices.warn(f"gpu:{text}", text))
        # any thread
        self._wake = threading.Lock()  # a binary semaphore: held = nothing to do yet
        self._wake.acquire()
        self._flushed = threading.Condition()  # on an RLock: a signal handler may flush too
        self._flush_asked = 0
        self._flush_done = 0
        self._entries: deque[bytes] = deque()
        self._stopping = False
        self._thread: threading.Thread | None = None
        # worker thread
        self._seq = 0
        self._rows_lost = 0
        self._burst_s = _BURST_S
        self._burst_end_s = 0.0
        self._last_step: int | None = None
        self._gpu_period: int | None = None
        self.ring_high_water = 0

    # --- any thread ---------------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._run, name="fasttrack-worker", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Make the worker look at the ring now. Never waits."""
        if self._wake.locked():
            try:
                self._wake.release()
            except RuntimeError:  # another thread was quicker
                return

    def write(self, entry: dict[str, Any]) -> None:
        """Have a line that is no row written to the journal, soon. Never waits.

        Raises:
            TypeError: the entry is not representable in JSON.
        """
        self._entries.append(encode(entry))
        self.wake()

    @property
    def rows_written(self) -> int:
        """Rows on disk so far."""
        return self._seq - self._rows_lost - self._writer.held_rows

    @property
    def delivery_lag_rows(self) -> int:
        """Rows on disk that delivery has not handed on, as far as it told."""
        return max(0, self.rows_written - self._delivery.state.rows)

    def flush(self, timeout_s: float) -> bool:
        """Wait until all that was logged before this call is in the journal; return whether it is.

        Blocks up to `timeout_s` seconds, on the device and the disk.
        """
        deadline = time.monotonic() + timeout_s
        with self._flushed:
            self._flush_asked += 1
            number = self._flush_asked
            while self._flush_done < number:
                self.wake()
                left_s = deadline - time.monotonic()
                if left_s <= 0 or self._thread is None or not self._thread.is_alive():
                    return False
                self._flushed.wait(min(left_s, 1.0))
        return True

    def stop(self, timeout_s: float) -> bool:
        """End the thread after a last round; return whether it ended within `timeout_s`."""
        self._stopping = True
        self.wake()
        if self._thread is not None:
            self._thread.join(timeout_s)
            return not self._thread.is_alive()
        return True

    def end_segment(self, finish: dict[str, Any]) -> None:
        """Write the `finish` line and close the segment and the GPU library; after `stop`."""
        self._append([encode({"kind": "finish", **finish})])
        self._count_lost(self._writer.trim_held(to_nothing=True))
        self._writer.close()
        self._gpu.close()

    # --- worker thread ------------------------------------------------------------------------

    def _run(self) -> None:
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
            with self._flushed:
                asked = self._flush_asked
            try:
                handled = self.run_once()
                if time.monotonic() >= poll_at_s:  # not at every wake: it asks the system
                    poll_at_s = time.monotonic() + self._flush_interval_s
                    self._delivery.poll()
                    self._overhead.note_cpu()
            except Exception as error:  # the worker's boundary: nothing may stop it
                handled = 0
                self._notices.count("worker_errors")
                self._notices.warn(f"worker:{error!r}", f"the worker met {error!r} and goes on")
            with self._flushed:
                if not self._writer.held_lines:
                    self._flush_done = asked
                self._flushed.notify_all()
            if stopping:
                return

    def run_once(self) -> int:
        """Drain the rings as they are now; return the number of records handled.

        Handles at most as many as the ring holds, so that it ends under any load, and yet all
        that was pushed before it began.
        """
        handled = 0
        self._drain_console()
        if self._entries:
            self._append([self._entries.popleft() for _ in range(len(self._entries))])
        self._burst_s = _BURST_S
        self._burst_end_s = perf_counter() + self._burst_s
        while handled < self._ring.capacity and (records := self._ring.pop(_CHUNK)):
            handled += len(records)
            if handled >= _BACKLOG:
                self._burst_s = _BACKLOG_BURST_S
            self._handle(records)
            records.clear()  # what freeing them costs belongs to this burst, not to the next
            if perf_counter() >= self._burst_end_s:
                self._end_burst()
        self.ring_high_water = max(self.ring_high_water, handled)
        if not handled and self._writer.held_lines:
            self._append([])
        return handled

    def _end_burst(self) -> None:
        time.sleep(0)
        self._burst_end_s = perf_counter() + self._burst_s

    def _handle(self, records: list[RawRecord]) -> None:
        first_seq = self._seq
        lines = []
        metrics_calls = 0
        try:
            for step, time_s, values, _, ticks, _, _ in self._resolver.resolve(records):
                if ticks is None:
                    metrics_calls += 1
                else:
                    self._add_training_metrics(step, values, ticks)
                line = self._encode(step, time_s, values)
                if line is not None:
                    lines.append(line)
                if perf_counter() >= self._burst_end_s:
                    self._end_burst()
        except Exception as error:  # the worker's boundary: nothing may stop it
            self._seq = first_seq
            self._notices.count("worker_errors", len(records))
            self._notices.warn(f"worker:{error!r}", f"the worker met {error!r} and goes on")
            return
        self._overhead.add_metrics_calls(metrics_calls)
        self._append(lines)

    def _add_training_metrics(
        self, step: int, values: dict[str, Any], ticks: tuple[tuple[float, Any], ...]
    ) -> None:
        values.update(self._meter.measure(ticks))
        if ticks:  # else another thread's call took this one's
            self._overhead.add_steps(step, ticks[0][0], ticks[-1][0], len(ticks))
        period = step // self._gpu_stats_interval
        if period != self._gpu_period:  # the first logged step of each interval
            if self._gpu_period is not None:  # at first there is nothing to tell
                values.update(self._own_metrics())
                if perf_counter() >= self._burst_end_s:
                    self._end_burst()
            self._gpu_period = period
            values.update(self._gpu.sample(self._resolver.cuda_index))

    def _own_metrics(self) -> dict[str, float]:
        return {
            **self._overhead.metrics(),
            "fasttrack/ring_high_water": self.ring_high_water,
            "fasttrack/dropped": self._ring.dropped,
            "fasttrack/stale": self._notices.counts().get("stale", 0),
            "fasttrack/delivery_lag_rows": self.delivery_lag_rows,
        }

    def _encode(self, step: int, time_s: float, values: dict[str, Any]) -> bytes | None:
        if not _RESERVED.isdisjoint(values):
            for name in _RESERVED & values.keys():
                del values[name]
                self._notices.refuse(name, "W&B keeps this name for itself; choose another")
        last_step = self._last_step
        if last_step is not None and step < last_step:
            self._notices.count("out_of_order")
            self._notices.warn(
                "order", f"step {step} was logged after step {last_step}; both are kept"
            )
        self._last_step = step
        if not -_LARGEST_STEP <= step <= _LARGEST_STEP:
            self._notices.refuse("step", f"{step} is too large for W&B; the row is dropped")
            return None
        if not values:
            return None
        try:
            line = encode_row(self._seq, step, time_s, values)
        except orjson.JSONEncodeError:
            line = encode_row(self._seq, step, time_s, self._representable(values))
        self._seq += 1
        return line

    def _representable(self, values: dict[Any, Any]) -> dict[str, Any]:
        kept = {}
        for name, value in values.items():
            plain = str.__str__(name) if isinstance(name, str) else name  # an enum's, NumPy's
            try:
                encode({plain: value})
            except orjson.JSONEncodeError as error:
                why = f"{error} (names are strings, integers have 64 bits)"
                self._notices.refuse(repr(name), why)
            else:
                kept[plain] = value
        return kept

    def _drain_console(self) -> None:
        written = self._console.pop(self._console.capacity)
        if written:
            runs = itertools.groupby(written, key=lambda piece: piece.stream)
            self._append([_console_line(stream, list(pieces)) for stream, pieces in runs])

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


def _console_line(stream: str, pieces: list[Console]) -> bytes:
    text = "".join([piece.text for piece in pieces])
    clean = text.encode("utf-8", "replace").decode()  # lone surrogates cannot be written
    return encode({"kind": "console", "stream": stream, "text": clean, "time": pieces[0].time_s})
