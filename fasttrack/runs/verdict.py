"""What bounds a run's speed, judged by the shares of its time that were waited for something."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fasttrack.runs.ranks import RanksHealth
    from fasttrack.runs.summary import Summary

WAITS_FROM_PCT = 20.0
"""Percent of the training time from which on a wait is what bounds a run."""
PHASES = ("perf/phase_pct/data", "perf/phase_pct/others")
"""The metrics that say what a run's own marks measured of both waits."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What bounds a run's speed."""

    bound_by: str
    """"data": it waits for its data; "others": for other ranks; "compute": for neither."""
    data_pct: float | None
    """Percent of the training time that data is waited for; None, as below: it is not known. Of a
    run that tells of all its ranks, their mean."""
    others_pct: float | None
    ranks: int
    rank: str | None = None
    """Which rank it is that the others wait for, or that waits for its data most, and where it
    runs, as far as is known."""
    rank_data_pct: float | None = None
    """Percent of the training time that this one waits for its data."""
    of_all: bool = False
    """Whether all ranks were looked at, not the recording one only."""

    def __str__(self) -> str:
        """Return the verdict as a line."""
        if self.bound_by == "data":
            text = f"waiting for data: {self.data_pct:.1f}% of the training time"
            if self.rank is None:
                return text
            return f"{text}, in the mean over all ranks; most on {self.rank}{self._of_it(': ')}"
        if self.bound_by == "others":
            text = f"waiting for others: {self.others_pct:.1f}% of the training time"
            if self.rank is None:
                return text
            return f"{text} for {self.rank}{self._of_it(', which waits for its data ')}"
        known = [f"{self.data_pct:.1f}% of the training time waits for data"]
        if self.others_pct is not None:
            known.append(f"{self.others_pct:.1f}% for other ranks")
        elif self.of_all:
            known.append("no rank holds the others up")
        elif self.ranks > 1:
            known.append("what waits for other ranks is not measured")
        return f"compute-bound: {', '.join(known)}"

    def _of_it(self, before: str) -> str:
        return f"{before}{self.rank_data_pct:.1f}%" if self.rank_data_pct else ""


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


def judge_run(
    metrics: Mapping[str, Summary], ranks: int, health: RanksHealth | None
) -> Verdict | None:
    """Return the verdict by what is known of all ranks, and by the phases "data" and "others".

    Phases are the recording rank's only, but exact, and know of data that comes from elsewhere than
    torch's DataLoader: the longer wait counts. Each is the mean over all rows.
    """
    data_pct, others_pct = (metrics[name].mean if name in metrics else None for name in PHASES)
    if health is None or health.data_pct is None:
        return judge(data_pct, others_pct, ranks)
    sees_data = health.data_pct >= (data_pct or 0.0)
    sees_others = (health.others_pct or 0.0) > (others_pct or 0.0)
    verdict = judge(
        health.data_pct if sees_data else data_pct,
        health.others_pct if sees_others else others_pct,
        ranks,
    )
    if verdict is None:
        return None
    if verdict.bound_by == "data" and sees_data:
        return replace(
            verdict, rank=health.data_rank, rank_data_pct=health.data_rank_pct, of_all=True
        )
    if verdict.bound_by == "others" and sees_others:
        data_of_it = health.others_rank_data_pct
        return replace(verdict, rank=health.others_rank, rank_data_pct=data_of_it, of_all=True)
    return replace(verdict, of_all=True)
