"""Order runs by a metric."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from fasttrack.runs.patterns import require_matches

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fasttrack.journal.rows import Number
    from fasttrack.runs.local import LocalRun


class RankedRun(NamedTuple):
    """A run and the value that it is ordered by."""

    run: LocalRun
    value: Number | None
    """The metric's last value; None: the run has none."""
    step: int | None
    """The step of that value."""


def rank_runs(
    runs: Sequence[LocalRun], metric: str, *, descending: bool = False
) -> list[RankedRun]:
    """Return `runs` by the last value of `metric`, the least first, or the greatest.

    Whichever of the two, runs whose last value is NaN or infinite come after those with a finite
    one, and runs without the metric last; equal ones stay in the order in which they were given.

    Raises:
        FasttrackError: no run has the metric; the message names those that there are.
        OSError: a segment cannot be read.
    """
    found = []
    for run in runs:
        row = run.last_row(metric)
        value, step = (None, None) if row is None else (row.values[metric], row.step)
        found.append(RankedRun(run, value, step))
    if all(ranked.value is None for ranked in found):
        names = {name for run in runs for name in run.metrics()}
        require_matches(names, [metric], several_runs=True)
    sign = -1 if descending else 1

    def place(ranked: RankedRun) -> tuple[int, float]:
        if ranked.value is None:
            return 2, 0.0
        return (0, sign * ranked.value) if math.isfinite(ranked.value) else (1, 0.0)

    return sorted(found, key=place)
