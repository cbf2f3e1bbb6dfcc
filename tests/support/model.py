"""What a run must hold, written down as simply as it can be said: no rings, threads or batches.

The docstrings of `ExperimentTracker`, docs/logging.md and README.md are the words; this is the same
in Python. It is told each call (`model_calls.py`) and keeps the rows and the counts that must come.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from support.model_calls import Config, Metrics, Mixed, TrainingStep

Number = int | float

LARGEST_STEP = 2**53
RESERVED = {
    "": "without a name",
    "step": "every row has its step",
    **dict.fromkeys(("_step", "_runtime", "_timestamp", "_wandb"), "keeps this name"),
}
"""Names that no metric can have, and a piece of the reason."""
PAUSE = "a pause"
STEP_TIMES = ("perf/step_time_ms/p50", "perf/step_time_ms/p99", "perf/step_time_ms/max")
OWN = tuple(
    f"fasttrack/{name}"
    for name in (
        *("call_us_p50", "call_us_p99", "worker_cpu_pct"),
        *("ring_high_water", "delivery_lag_rows", "dropped", "stale"),
    )
)


@dataclass(frozen=True)
class Refused:
    """A value that is not logged; `why` is a piece of the reason that is told."""

    why: str


@dataclass
class ExpectedRow:
    """A row that must come."""

    step: int
    values: dict[str, Number]
    """What the caller logged, exactly."""
    ours: set[str] = field(default_factory=set)
    """Names of ours that must be there, too, with whatever value."""
    ours_perhaps: set[str] = field(default_factory=set)
    """Names that may be there."""
    norm: bool = False
    """Whether `train/grad_norm` is among the values because it was computed from gradients."""
    samples_per_step: float | None = None
    """The ratio of `perf/samples_per_sec` to `perf/steps_per_sec`."""
    steps: int = 0
    """That ended in the row's interval."""
    called: int = -1
    """Number of the call that made it, among all of the script's."""


class Model:
    """The rows and counts that a sequence of calls must leave.

    Args:
        log_interval: as the tracker's.
        gpu_stats_interval: as the tracker's.
        norms: whether gradient norms are computed.
        gpu: the metrics that this machine has for `gpu/`.
        alone: whether one thread makes all calls. Where others log, too, nobody can say whose row
            will tell of a step's time: all names of ours may be in any row, and none must.
    """

    def __init__(
        self,
        log_interval: int,
        gpu_stats_interval: int,
        *,
        norms: bool = True,
        gpu: frozenset[str] = frozenset(),
        alone: bool = True,
    ) -> None:
        self.rows: list[ExpectedRow] = []
        self.configs: list[dict[str, Any]] = []
        self.refused: Counter[tuple[str, str]] = Counter()
        """By metric and a piece of the reason."""
        self.failed: Counter[tuple[str, str]] = Counter()
        """By call and a piece of the reason."""
        self.late = 0
        self.out_of_order = 0
        self.finished = False
        self.call = -1
        self._log_interval = log_interval
        self._gpu_stats_interval = gpu_stats_interval
        self._norms = norms
        self._gpu = gpu
        self._alone = alone
        self._last_step = 0  # of the last call that had one
        self._ticks: list[Any] = []  # batch sizes, and pauses, since the last logged step
        self._began = False  # whether a logged step has ended an interval
        self._gpu_period: int | None = None

    # --- the calls --------------------------------------------------------------------------------

    def training_step(self, call: TrainingStep) -> None:
        """Expect what `log_training_step` leaves."""
        if self.finished:
            self.late += 1
            return
        step = call.step.number
        if step is None:
            self.failed["log_training_step", "step"] += 1
            return
        self._last_step = step
        self._ticks.append(call.batch_size)
        if step % self._log_interval:
            return
        told: dict[Any, Number | Refused] = {}
        for name, value in (
            ("loss/total", call.loss),
            ("loss/ar", call.loss_ar),
            ("loss/fm", call.loss_fm),
        ):
            if value is not None and value.made is not None:
                told[name] = value.outcome
        if call.optimizer is not None:
            told.update(call.optimizer.tells)
        if call.scaler is not None:
            told.update(call.scaler.tells)
        elif call.optimizer is not None:
            told.update(call.optimizer.tells_of_scale)
        if call.grad_norm is not None and call.grad_norm.made is not None:
            told["train/grad_norm"] = call.grad_norm.outcome
        elif call.model is not None and self._norms:
            told.update(call.model.tells)
        norm = told.get("train/grad_norm") if call.grad_norm is None else None
        if call.extra is not None:
            self._read(call.extra, told, "extra")
        row = self._expect_row(step, told, training=True)
        if row is not None and told.get("train/grad_norm") is norm:
            row.norm = isinstance(norm, float)

    def metrics(self, call: Metrics) -> None:
        """Expect what `log_metrics` leaves."""
        if self.finished:
            self.late += 1
            return
        step = self._last_step if call.step is None else call.step.number
        if step is None:
            self.failed["log_metrics", "step"] += 1
            return
        self._last_step = step
        if call.metrics.items is None:
            self.failed["log_metrics", "must be a mapping"] += 1
            return
        told: dict[Any, Number | Refused] = {}
        self._read(call.metrics, told, "log_metrics")
        self._expect_row(step, told)

    def pause(self) -> None:
        """Expect what one `pause()` leaves."""
        if not self.finished:
            self._ticks.append(PAUSE)

    def update_config(self, call: Config) -> None:
        """Expect what `update_config` leaves."""
        if self.finished:
            self.late += 1
        elif isinstance(call.config, dict):
            self.configs.append(call.config)
        else:
            self.failed["update_config", ""] += 1

    # --- what they have in common -----------------------------------------------------------------

    def _read(self, mapping: Mixed, told: dict[Any, Number | Refused], call: str) -> None:
        """Add what a mapping holds to `told`, nested ones last, under dotted names."""
        if mapping.items is None:
            self.refused[call, "mapping"] += 1
            return
        if mapping.breaks:
            self.refused[call, "broke"] += 1
        nested: dict[Any, Mixed] = {}
        for name, value in mapping.items:
            told.pop(name, None)
            if hasattr(value, "outcome"):
                told[name] = value.outcome
            else:
                nested[name] = value
        taken = {name for name, outcome in told.items() if not isinstance(outcome, Refused)}
        for name, inner in nested.items():
            if isinstance(name, str):
                self._flatten(str(name), inner, told, taken)
            else:
                self.refused[repr(name), "names are strings"] += 1

    def _flatten(
        self, prefix: str, mapping: Mixed, told: dict[Any, Number | Refused], taken: set[str]
    ) -> None:
        if mapping.breaks:
            self.refused[_shown(prefix), "what it holds"] += 1
            return
        for key, value in mapping.items or ():
            name = f"{prefix}.{key}"
            if not isinstance(key, (str, int)):
                self.refused[f"{prefix}.{key!r}", "is no name"] += 1
            elif not hasattr(value, "outcome"):
                self._flatten(name, value, told, taken)
            elif name in taken:
                self.refused[_shown(name), "stands twice"] += 1
            else:
                taken.add(name)
                if name in told:  # one that was refused
                    self.refused[_shown(name), told[name].why] += 1  # type: ignore[union-attr]
                told[name] = value.outcome

    def _expect_row(
        self, step: int, told: dict[Any, Number | Refused], *, training: bool = False
    ) -> ExpectedRow | None:
        row = ExpectedRow(step, {}, called=self.call)
        if training:
            self._expect_perf(row)
            self._expect_own(row)
        known: dict[Any, Number] = {}
        for name, outcome in told.items():
            if isinstance(outcome, Refused):
                self.refused[_shown(name), outcome.why] += 1
            else:
                known[name] = outcome
        row.ours -= known.keys()
        if not known and not row.ours:
            return None
        if abs(step) > LARGEST_STEP:
            self.refused["step", "too large"] += 1
            return None
        for name, number in known.items():
            if not isinstance(name, str):
                self.refused[_shown(name), "names are strings"] += 1
            elif name in RESERVED:
                self.refused[_shown(name), RESERVED[name]] += 1
            elif isinstance(number, int) and not -(2**63) <= number < 2**64:
                self.refused[_shown(name), "64 bits"] += 1
            else:
                row.values[str(name)] = number
        if not row.values and not row.ours:
            return None
        if self.rows and step < self.rows[-1].step:
            self.out_of_order += 1
        self.rows.append(row)
        return row

    def _expect_perf(self, row: ExpectedRow) -> None:
        ticks, self._ticks = self._ticks, []
        began, self._began = self._began, True
        if not self._alone:
            row.ours_perhaps |= {"perf/steps_per_sec", "perf/samples_per_sec", *STEP_TIMES}
            row.ours_perhaps.add("perf/pause_s")
            return
        if not began:  # nobody knows when the first step began
            first = next(place for place, tick in enumerate(ticks) if tick is not PAUSE)
            if PAUSE in ticks[:first]:
                row.ours_perhaps.add("perf/pause_s")  # a rounding error's worth
            ticks = ticks[first + 1 :]
        sizes = [tick for tick in ticks if tick is not PAUSE]
        if not sizes:
            return
        row.steps = len(sizes)
        row.ours |= {"perf/steps_per_sec", *STEP_TIMES}
        if PAUSE in ticks:
            row.ours.add("perf/pause_s")
        if all(size is not None for size in sizes):
            if all(size.number is not None for size in sizes):
                row.ours.add("perf/samples_per_sec")
                row.samples_per_step = sum(size.number for size in sizes) / len(sizes)
            else:
                self.refused["perf/samples_per_sec", "batch_size"] += 1

    def _expect_own(self, row: ExpectedRow) -> None:
        before, self._gpu_period = self._gpu_period, row.step // self._gpu_stats_interval
        if not self._alone:
            row.ours_perhaps |= {*OWN, *self._gpu}
        elif before != self._gpu_period:
            row.ours |= self._gpu
            if before is not None:
                row.ours |= set(OWN)


def _shown(name: Any) -> str:
    return str(name) if isinstance(name, str) and name else repr(name)  # all can be printed
