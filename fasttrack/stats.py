"""What `ExperimentTracker.stats()` returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

_SHOWN = 6  # reasons in the closing line


@dataclass(frozen=True, kw_only=True, slots=True)
class Stats:
    """Counts since the tracker was made, and what it costs.

    Threads: a value, made anew at every call.
    """

    rows_written: int
    """Rows in the journal."""
    rows_delivered: int
    """Rows that delivery has handed to W&B so far; proven only once the run is finished."""
    dropped: int
    """Records lost because the ring stayed full for `Options.full_wait_s`."""
    refused: int
    """Values that are not one real number, or whose name W&B keeps for itself."""
    stale: int
    """Values dropped because they were changed in place before the worker had read them."""
    out_of_order: int
    """Rows whose step lay behind the row before; they are kept."""
    journal_errors: int
    """Rows lost because the disk took none for too long."""
    worker_errors: int
    """Records lost to an unexpected error in the worker."""
    cut_off: int
    """Records that `finish()` left behind, because within `Options.finish_timeout_s` the device did
    not compute them, or the disk not take them. Those that come after all are counted no more."""
    failed_calls: int
    """Calls to log_* that had to be given up as a whole (a step that is no integer, say)."""
    late_calls: int
    """Calls to log_* after `finish()`, or where the run is not recorded: in a forked child, or a
    process that unpickled the tracker. Each process counts its own."""
    media_dropped: int
    """Pictures and other media lost because too many bytes waited for the disk
    (`Options.media_limit_mb`), or it took none."""
    ring_high_water: int
    """The most records that the worker found waiting in one round."""
    delivery_lag_rows: int
    """Rows in the journal that delivery had not handed to W&B when it last said so (about once a
    second)."""
    call_us_p50: float
    """Median of the recent calls to log_training_step and log_metrics, in microseconds, those that
    log nothing included; from a sample (`hotpath/call_meter.py`)."""
    call_us_p99: float
    """Their 99th percentile, in microseconds."""
    worker_cpu_pct: float
    """CPU time of the worker thread since the start, in percent of one core."""
    effective_interval: int
    """Steps between logged steps now: `log_interval`, or more where `Options.overhead_budget` asks
    for it."""
    reasons: Mapping[str, int] = field(default_factory=dict)
    """`refused`, `failed_calls` and `media_dropped` by reason: how many, by `metric: what was
    wrong` or `call: what was wrong`, the most frequent first."""

    @classmethod
    def of_nothing(cls) -> Stats:
        """Return those of a tracker that does not record."""
        zeros: dict[str, Any] = {f.name: 0 for f in fields(cls) if f.name != "reasons"}
        return cls(**zeros)

    def describe_losses(self) -> list[str]:
        """Return lines that say what was lost, by reason; none where nothing was."""
        rows = {
            "the ring was full": self.dropped,
            "the disk took none": self.journal_errors,
            "unexpected errors": self.worker_errors,
            "the device or the disk did not come back before finish() had to end": self.cut_off,
        }
        lines = []
        lost = {reason: number for reason, number in rows.items() if number}
        if lost:
            lines.append(f"{sum(lost.values())} rows were lost ({_listed(lost)}); see stats()")
        if self.reasons:
            number = sum(self.reasons.values())
            lines.append(f"not logged, {number} in all: {_listed(self.reasons)}")
        return lines


def _listed(reasons: Mapping[str, int]) -> str:
    shown = [f"{number} x {reason}" for reason, number in list(reasons.items())[:_SHOWN]]
    if len(reasons) > _SHOWN:
        shown.append(f"{len(reasons) - _SHOWN} further reasons: see stats().reasons")
    return "; ".join(shown)
