"""What bounds a run's speed, judged by the shares of its time that its phases took."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fasttrack.runs.summary import Summary

WAITS_FROM_PCT = 20.0
"""Percent of the training time from which on a wait is what bounds a run."""
_DATA, _OTHERS = "perf/phase_pct/data", "perf/phase_pct/others"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What bounds a run's speed."""

    bound_by: str
    """"data": it waits for its data; "others": for other ranks; "compute": for neither."""
    data_pct: float | None
    """Percent of the training time that data is waited for; None, as below: it is not known."""
    others_pct: float | None
    ranks: int

    def __str__(self) -> str:
        """Return the verdict as a line."""
        if self.bound_by == "data":
            return f"waiting for data: {self.data_pct:.1f}% of the training time"
        if self.bound_by == "others":
            return f"waiting for others: {self.others_pct:.1f}% of the training time"
        known = [f"{self.data_pct:.1f}% of the training time waits for data"]
        if self.others_pct is not None:
            known.append(f"{self.others_pct:.1f}% for other ranks")
        elif self.ranks > 1:
            known.append("what waits for other ranks is not measured")
        return f"compute-bound: {', '.join(known)}"


def judge(data_pct: float | None, others_pct: float | None, ranks: int) -> Verdict | None:
    """Return the verdict on a run; None where too little is known.

    A wait of `WAITS_FROM_PCT` or more bounds it, the longer of two. Where there is none, it is
    compute-bound: the time goes into the step itself. That cannot be said while nobody has measured
    the wait for data.

    Args:
        data_pct: of the training time, what is waited for data.
        others_pct: the same for other ranks.
        ranks: how many there are.
    """
    waits = {"data": data_pct or 0.0, "others": others_pct or 0.0}
    longest = max(waits, key=waits.__getitem__)
    if waits[longest] >= WAITS_FROM_PCT:
        return Verdict(longest, data_pct, others_pct, ranks)
    return None if data_pct is None else Verdict("compute", data_pct, others_pct, ranks)


def judge_phases(metrics: Mapping[str, Summary], ranks: int) -> Verdict | None:
    """Return the verdict by the phases "data" and "others", each the mean over all rows."""
    means = [metrics[name].mean if name in metrics else None for name in (_DATA, _OTHERS)]
    return judge(means[0], means[1], ranks)
