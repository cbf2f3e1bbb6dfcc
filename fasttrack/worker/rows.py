"""From records to the journal's lines: what the worker makes of each logged call."""

from __future__ import annotations

import math
from time import perf_counter, time
from typing import TYPE_CHECKING, Any

from fasttrack.context.distributed import get_world_size
from fasttrack.hotpath.records import EVENTS, LARGEST_STEP, LEARNING_RATE, LOSS, MEDIA, STEP
from fasttrack.journal.entries import encode
from fasttrack.journal.media import MediaRow, encode_media
from fasttrack.journal.rows import encode_row, encode_rows
from fasttrack.notices import spell
from fasttrack.worker.meters import StepMeter
from fasttrack.worker.resolve import METRICS_FIELDS, STEP_FIELDS, clock_offset_s
from fasttrack.worker.unlogged import after_last, before_first
from fasttrack.worker.utilization import Utilization, find_device_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from fasttrack.hotpath.records import MediaRecord, RawRecord, Scalar, Ticks
    from fasttrack.notices import Notices
    from fasttrack.options import Options
    from fasttrack.worker.bursts import Bursts
    from fasttrack.worker.gpu import GpuSampler
    from fasttrack.worker.media import MediaFiles
    from fasttrack.worker.overhead import Overhead
    from fasttrack.worker.resolve import Resolver
    from fasttrack.worker.step_watch import StepWatch

    _Row = tuple[int, float, dict[str, Scalar]]  # step, unix time, values

_SAME_SAMPLE_S = 0.05  # for which a sample is used again: a round may hold many intervals
_MOST_NUMBERS = 160  # that are encoded in one go, for which the GIL is kept
_FEW_NAMES = 16
_KEPT = "W&B keeps this name for itself; choose another"
_RESERVED = {
    "": "a metric without a name, which W&B drops; give it one",
    "step": "every row has its step under this name, as it is passed; choose another",
    **dict.fromkeys(("_step", "_runtime", "_timestamp", "_wandb"), _KEPT),
}
"""Names that W&B drops, or has a value of its own for in every row; and why they are refused."""
_NAMES = frozenset(_RESERVED)


class RowEncoder:
    """Turn records into rows, and rows into the journal's lines.

    Threads: worker only; `rows` and `training_steps` are read by any.
    """

    def __init__(
        self,
        resolver: Resolver,
        notices: Notices,
        overhead: Overhead,
        gpu: GpuSampler,
        bursts: Bursts,
        media: MediaFiles,
        *,
        gpu_stats_interval: int,
        options: Options,
        own_metrics: Callable[[], dict[str, float]],
        watch: StepWatch | None = None,
    ) -> None:
        """Number rows from 0.

        Args:
            resolver: reads the tensors.
            notices: told what is refused and what comes out of order.
            overhead: told of the calls and steps that the records tell of.
            gpu: sampled once in `gpu_stats_interval` training steps.
            bursts: rested between rows.
            media: keeps what is no number.
            gpu_stats_interval: also how often `own_metrics` join a row.
            options: say what the training steps are metered for.
            own_metrics: what fasttrack itself costs and has lost.
            watch: told of losses that are no finite numbers, and of all rows where it keeps them.
        """
        self._watch = watch
        self._flight = None if watch is None else watch.flight
        self._resolver = resolver
        self._notices = notices
        self._overhead = overhead
        self._gpu = gpu
        self._bursts = bursts
        self._media = media
        self._gpu_stats_interval = gpu_stats_interval
        self._own_metrics = own_metrics
        self._meter = StepMeter(
            get_world_size,
            notices.refuse,
            find_pauses=options.find_pauses,
            utilization=Utilization(
                options, lambda: find_device_name(resolver.cuda_index), notices.warn
            ),
        )
        self._last_step = self._row_step = -LARGEST_STEP  # of the last record; of the last row
        self._some_behind = False  # whether a step lay behind the one before, since the last row
        self._said: list[bytes] = []  # of steps in front of the first row
        self._gpu_period: int | None = None
        self._sample: dict[str, float] = {}
        self._sampled_s = -math.inf
        self._seq = 0  # of the next row
        self.rows = 0
        """How many were made."""
        self.training_steps = 0
        """How many of the records were training steps."""

    def use_meter(self, meter: StepMeter) -> None:
        """Have `meter` measure the steps; before there are any."""
        meter.utilization = self._meter.utilization
        self._meter = meter

    def encode(self, records: list[RawRecord]) -> list[bytes]:
        """Return the lines of `records`, at most one each, some in one piece. Waits for the device.

        Where anything is raised, which is while they are resolved, none has become a row.
        """
        if max(map(len, records)) <= STEP_FIELDS:
            return self._encode_short(records)
        lines: list[bytes] = []
        rows: list[_Row] = []  # that are to be encoded together
        numbers = 0  # in them
        training_steps = 0
        bursts = self._bursts
        clock = bursts.clock
        for record in self._resolver.resolve(records):
            step, _, values, ticks = record
            try:
                if ticks is not None:
                    training_steps += 1
                    self._add_training_metrics(step, values, ticks)
                if values and (
                    (self._last_step <= step <= LARGEST_STEP and values.keys().isdisjoint(_NAMES))
                    or self._check(step, values)
                ):
                    self._last_step = step
                    rows.append(record[:3])
                    numbers += len(values)
            except Exception as error:  # one record's trouble is no other's
                self._go_on_after(error)
            if clock() >= bursts.end_s or numbers >= _MOST_NUMBERS:
                self._encode(rows, lines)
                numbers = 0
                bursts.rest_if_due()
        self._encode(rows, lines)
        self._overhead.add_metrics_calls(len(records) - training_steps)
        self.training_steps += training_steps
        self.rows = self._seq
        return lines

    def _encode_short(self, records: list[Any]) -> list[bytes]:
        """Do what `encode` does, for short records alone: as most loops log, in one pass."""
        lines: list[bytes] = []
        rows: list[_Row] = []
        numbers = training_steps = 0
        meter, bursts, resolver = self._meter, self._bursts, self._resolver
        watches, none_is_in = self._overhead.watches, _NAMES.isdisjoint
        started_s = clock_offset_s()
        values: dict[str, Scalar]
        for record in records:
            try:
                if len(record) == METRICS_FIELDS:
                    step, at_s, values = record
                    # Of few names it is cheaper to look for each among the reserved ones.
                    few = len(values) < _FEW_NAMES
                    fit = none_is_in(values) if few else values.keys().isdisjoint(_NAMES)
                else:
                    step, at_s, loss, rate, batch_size = record
                    training_steps += 1
                    values = {LOSS: loss} if rate is None else {LOSS: loss, LEARNING_RATE: rate}
                    fit = True
                    if watches or resolver.ticks or not meter.add_usual(values, at_s, batch_size):
                        ticks = resolver.with_earlier(((at_s, batch_size),))
                        self._add_training_metrics(step, values, ticks)
                        bursts.rest_if_due()  # there may be thousands of ticks
                    elif step // self._gpu_stats_interval != self._gpu_period:
                        self._add_samples(step, values)
                if (fit and self._last_step <= step <= LARGEST_STEP and values) or (
                    values and self._check(step, values)
                ):
                    self._last_step = step
                    rows.append((step, started_s + at_s, values))
                    numbers += len(values)
            except Exception as error:  # one record's trouble is no other's
                self._go_on_after(error)
            if numbers >= _MOST_NUMBERS:
                self._encode(rows, lines)
                numbers = 0
                bursts.rest_if_due()
        self._encode(rows, lines)
        self._overhead.add_metrics_calls(len(records) - training_steps)
        self.training_steps += training_steps
        self.rows = self._seq
        return lines

    def encode_media(self, record: MediaRecord) -> list[bytes]:
        """Return the line of a record of media, whose files are on disk then; [] where it is lost.

        Waits for the device and the disk.
        """
        step, time_s, events, job = record[STEP], record[1], record[EVENTS], record[MEDIA]
        kept = self._media.keep(job, events)
        if kept is None:
            return []
        files, about = kept
        row = MediaRow(
            self._seq, step, time_s, name=job.name, type=job.type, files=files, about=about
        )
        line = encode_media(row)
        self._seq += 1
        self.rows = self._seq
        return [line]

    def encode_beside(self, rows: list[dict[str, Scalar]]) -> list[bytes]:
        """Return the lines of rows that no call has logged; they get the newest row's step."""
        time_s = time()
        lines: list[bytes] = []
        for values in rows:
            lines.append(encode_row(self._seq, self._row_step, time_s, values))
            self._seq += 1
        self.rows = self._seq
        return lines

    def end(self, open_pauses: list[float]) -> list[bytes]:
        """Return the last lines before the attempt's `finish`: of steps and pauses since its rows.

        Args:
            open_pauses: when those of `tracker.pause()` began that have not ended.
        """
        try:
            ticks = list(self._resolver.ticks)
            told = after_last(ticks, self._meter.last_s, list(open_pauses), perf_counter())
            return [] if told is None else [encode(told)]
        except Exception as error:  # the last line is to be written all the same
            self._go_on_after(error)
            return []

    def _encode(self, rows: list[_Row], lines: list[bytes]) -> None:
        """Move `rows` to `lines`, except those of which nothing can be written."""
        if not rows:
            return
        if self._said:
            lines += self._said
            self._said.clear()
        if self._flight is not None:
            self._flight.rows.extend(rows)
        try:
            together = encode_rows(self._seq, rows)
        except TypeError:
            together = None
        if together is not None:
            lines.append(together)
            self._seq += len(rows)
            if self._some_behind:
                for row in rows:
                    self._look_at_order(row[0])
        else:
            for step, time_s, values in rows:
                try:
                    self._look_at_loss(step, values)
                    line = self._encode_alone(step, time_s, values)
                    if line is not None:
                        lines.append(line)
                        self._seq += 1
                        self._look_at_order(step)
                except Exception as error:  # one record's trouble is no other's
                    self._go_on_after(error)
            self._last_step = self._row_step
        self._row_step = self._last_step
        self._some_behind = False
        rows.clear()

    def _look_at_order(self, step: int) -> None:
        """Count a row that was written behind one of a later step."""
        if step < self._row_step:
            self._notices.count("out_of_order")
            self._notices.warn(
                "order", f"step {step} was logged after step {self._row_step}; both are kept"
            )
        self._row_step = step

    def _look_at_loss(self, step: int, values: dict[str, Scalar]) -> None:
        loss = values.get(LOSS)
        if loss is not None and loss - loss != 0:  # NaN or infinite
            if self._watch is not None:
                self._watch.note_logged(step, values)
            self._notices.warn("loss", f"the loss became {loss} at step {step}")

    def _encode_alone(self, step: int, time_s: float, values: dict[str, Scalar]) -> bytes | None:
        try:
            return encode_row(self._seq, step, time_s, values)
        except TypeError:
            kept = self._representable(values)
            return encode_row(self._seq, step, time_s, kept) if kept else None

    def _go_on_after(self, error: Exception) -> None:
        self._notices.count("worker_errors")
        met = spell(error)
        self._notices.warn(f"worker:{met}", f"the worker met {met} and goes on")

    def _add_training_metrics(self, step: int, values: dict[str, Scalar], ticks: Ticks) -> None:
        meter = self._meter
        _add(values, meter.measure(ticks))
        if meter.before_first:
            self._said.append(encode(before_first(meter.before_first)))
            meter.before_first = []
        if self._overhead.watches and meter.steps:  # else another thread's call took this one's
            self._overhead.add_steps(
                step, ticks[0][0], ticks[-1][0], meter.steps, paused_s=meter.paused_s
            )
        if step // self._gpu_stats_interval != self._gpu_period:
            self._add_samples(step, values)

    def _add_samples(self, step: int, values: dict[str, Scalar]) -> None:
        """Add what is sampled at the first logged step of each interval."""
        _add(values, self._samples(first=self._gpu_period is None))
        self._gpu_period = step // self._gpu_stats_interval

    def _samples(self, *, first: bool) -> dict[str, float]:
        """Return the GPU's statistics and, but for the first time, what fasttrack costs."""
        if first:
            return self._gpu.sample(self._resolver.cuda_index)
        now_s = self._bursts.clock()
        if now_s - self._sampled_s > _SAME_SAMPLE_S:
            own = self._own_metrics()
            self._bursts.rest_if_due()
            self._sample = {**own, **self._gpu.sample(self._resolver.cuda_index)}
            self._sampled_s = now_s
        return self._sample

    def _check(self, step: int, values: dict[str, Scalar]) -> bool:
        """Return whether there may be a row to write, and say what of it is refused."""
        if not -LARGEST_STEP <= step <= LARGEST_STEP:
            self._notices.refuse("step", f"{step} is too large for W&B; the row is dropped")
            return False
        for name in _NAMES & values.keys():
            del values[name]
            self._notices.refuse(name, _RESERVED[name])
        if values and step < self._last_step:
            self._some_behind = True  # it is counted once it is a row
        return bool(values)

    def _representable(self, values: dict[Any, Scalar]) -> dict[str, Scalar]:
        kept: dict[str, Scalar] = {}
        for name, value in values.items():
            plain = str.__str__(name) if isinstance(name, str) else name  # an enum's, NumPy's
            try:
                encode_row(0, 0, 0.0, {plain: value})
            except TypeError as error:
                why = f"{error} (names are strings, integers have 64 bits)"
                self._notices.refuse(plain, why)
            else:
                kept[plain] = value
        return kept


def _add(values: dict[str, Scalar], ours: dict[str, float]) -> None:
    """Add metrics of ours; what the user logs under such a name stays."""
    if values.keys().isdisjoint(ours):
        values.update(ours)
        return
    for name, value in ours.items():
        values.setdefault(name, value)
