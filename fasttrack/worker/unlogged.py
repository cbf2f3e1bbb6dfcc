"""What the journal is told of training steps that are in no row, for the run's goodput."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from fasttrack.hotpath.records import FellOut, PausedSince, PhaseMark
from fasttrack.journal.entries import Unlogged
from fasttrack.worker.intervals import gaps
from fasttrack.worker.resolve import clock_offset_s

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fasttrack.hotpath.records import Ticks


def before_first(times: list[float]) -> Unlogged:
    """Return what is said of the steps that ended at `times`, in front of the first row's."""
    offset_s = clock_offset_s()
    return Unlogged(
        steps=len(times),
        first_s=offset_s + times[0],
        last_s=offset_s + times[-1],
        trained_s=times[-1] - times[0],
        time_s=time.time(),
    )


def after_last(
    ticks: Ticks, row_s: float | None, open_pauses: Iterable[float], now_s: float
) -> Unlogged | None:
    """Return what is said of the steps and pauses since the last row; None: there were none.

    Args:
        ticks: as for `StepMeter.measure`.
        row_s: when the last row's step ended; None: there was none.
        open_pauses: when those began that have not ended.
        now_s: the time, on the same clock as all the others.
    """
    pauses = [(float(size), at_s) for at_s, size in ticks if type(size) is PausedSince]
    pauses = sorted([*pauses, *((began_s, now_s) for began_s in open_pauses)])
    none = (PausedSince, PhaseMark)  # of these is a step
    times = [at_s for at_s, size in ticks if type(size) not in none and size is not FellOut]
    if not times and not pauses:
        return None
    begin_s = row_s if row_s is not None else times[0] if times else pauses[0][0]
    end_s = times[-1] if times else begin_s
    (trained_s,), _ = gaps([begin_s, end_s], pauses)
    _, paused_s = gaps([begin_s, max(end_s, now_s)], pauses)
    offset_s = clock_offset_s()
    return Unlogged(
        steps=len(times),
        first_s=offset_s + times[0] if times else 0.0,
        last_s=offset_s + end_s if times else 0.0,
        trained_s=trained_s,
        pause_s=paused_s,
        time_s=time.time(),
    )
