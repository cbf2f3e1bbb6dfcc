"""From records to the journal's lines: what the worker makes of each logged call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fasttrack.context.distributed import get_world_size
from fasttrack.journal.entries import encode_row
from fasttrack.notices import spell
from fasttrack.worker.meters import StepMeter

if TYPE_CHECKING:
    from collections.abc import Callable

    from fasttrack.hotpath.records import RawRecord, Scalar, Ticks
    from fasttrack.notices import Notices
    from fasttrack.worker.bursts import Bursts
    from fasttrack.worker.gpu import GpuSampler
    from fasttrack.worker.overhead import Overhead
    from fasttrack.worker.resolve import Resolver

_LARGEST_STEP = 2**53  # W&B's page is JavaScript, and the courier needs room above for its steps
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
        *,
        gpu_stats_interval: int,
        find_pauses: bool,
        own_metrics: Callable[[], dict[str, float]],
    ) -> None:
        """Number rows from 0.

        Args:
            resolver: reads the tensors.
            notices: told what is refused and what comes out of order.
            overhead: told of the calls and steps that the records tell of.
            gpu: sampled once in `gpu_stats_interval` training steps.
            bursts: rested between rows.
            gpu_stats_interval: also how often `own_metrics` join a row.
            find_pauses: see `StepMeter`.
            own_metrics: what fasttrack itself costs and has lost.
        """
        self._resolver = resolver
        self._notices = notices
        self._overhead = overhead
        self._gpu = gpu
        self._bursts = bursts
        self._gpu_stats_interval = gpu_stats_interval
        self._own_metrics = own_metrics
        self._meter = StepMeter(get_world_size, notices.refuse, find_pauses=find_pauses)
        self._last_step = -_LARGEST_STEP
        self._gpu_period: int | None = None
        self.rows = 0
        """How many were made; the number of the next one."""
        self.training_steps = 0
        """How many of the records were training steps."""

    def encode(self, records: list[RawRecord]) -> list[bytes]:
        """Return the lines of `records`: at most one each. Waits for the device.

        Where anything is raised, which is while they are resolved, none has become a row.
        """
        lines: list[bytes] = []
        seq = self.rows
        metrics_calls = 0
        bursts = self._bursts
        clock = bursts.clock
        for step, time_s, values, _, ticks, _, _ in self._resolver.resolve(records):
            try:
                if ticks is None:
                    metrics_calls += 1
                else:
                    self.training_steps += 1
                    self._add_training_metrics(step, values, ticks)
                usual = self._last_step <= step <= _LARGEST_STEP and _NAMES.isdisjoint(values)
                if values and (usual or self._check(step, values)):
                    self._last_step = step
                    try:
                        line = encode_row(seq, step, time_s, values)
                    except TypeError:
                        line = encode_row(seq, step, time_s, self._representable(values))
                    lines.append(line)
                    seq += 1
            except Exception as error:  # one record's trouble is no other's
                self._notices.count("worker_errors")
                met = spell(error)
                self._notices.warn(f"worker:{met}", f"the worker met {met} and goes on")
            if clock() >= bursts.end_s:
                bursts.rest()
        self._overhead.add_metrics_calls(metrics_calls)
        self.rows = seq
        return lines

    def _add_training_metrics(self, step: int, values: dict[str, Scalar], ticks: Ticks) -> None:
        meter = self._meter
        _add(values, meter.measure(ticks))
        if meter.steps:  # else another thread's call took this one's
            self._overhead.add_steps(
                step, ticks[0][0], ticks[-1][0], meter.steps, paused_s=meter.paused_s
            )
        period = step // self._gpu_stats_interval
        if period != self._gpu_period:  # the first logged step of each interval
            if self._gpu_period is not None:  # at first there is nothing to tell
                _add(values, self._own_metrics())
                self._bursts.rest_if_due()
            self._gpu_period = period
            _add(values, self._gpu.sample(self._resolver.cuda_index))

    def _check(self, step: int, values: dict[str, Scalar]) -> bool:
        """Return whether there is a row to write, and say what is odd about it."""
        if not -_LARGEST_STEP <= step <= _LARGEST_STEP:
            self._notices.refuse("step", f"{step} is too large for W&B; the row is dropped")
            return False
        for name in _NAMES & values.keys():
            del values[name]
            self._notices.refuse(name or repr(name), _RESERVED[name])
        if step < self._last_step:
            self._notices.count("out_of_order")
            self._notices.warn(
                "order", f"step {step} was logged after step {self._last_step}; both are kept"
            )
        return bool(values)

    def _representable(self, values: dict[Any, Scalar]) -> dict[str, Scalar]:
        kept: dict[str, Scalar] = {}
        for name, value in values.items():
            plain = str.__str__(name) if isinstance(name, str) else name  # an enum's, NumPy's
            try:
                encode_row(0, 0, 0.0, {plain: value})
            except TypeError as error:
                why = f"{error} (names are strings, integers have 64 bits)"
                self._notices.refuse(spell(name), why)
            else:
                kept[plain] = value
        return kept


def _add(values: dict[str, Scalar], ours: dict[str, float]) -> None:
    """Add metrics of ours; what the user logs under such a name stays."""
    for name, value in ours.items():
        values.setdefault(name, value)
