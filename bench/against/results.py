"""What the rounds gave, as a table: both builds, their ratio, and the limits."""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.lib.measure import median_interval

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypeAlias

    Pair: TypeAlias = tuple[float, float]  # (old, new)

REFERENCE = "aee6726"
"""The commit to which the limits of a ratio refer."""

HEADINGS = ("figure", "old", "new", "new / old", "95%", "limit", "met")

_DIGITS = {"us": 2, "ms": 2, "s": 2, "MB": 2, "bytes": 0, "x": 3}


class Limit(NamedTuple):
    """At most what is allowed: of the new build over the reference, and of the new build alone."""

    ratio: float | None = None
    new: float | None = None


NO_LIMIT = Limit()


class Figure:
    """One line of the table: for every round, pairs taken side by side."""

    def __init__(self, unit: str, limit: Limit) -> None:
        """Have no rounds yet."""
        self.unit = unit
        """A key of `_DIGITS`, or "%" for a share."""
        self.limit = limit
        self.rounds: list[list[Pair]] = []

    def median(self, side: int) -> float:
        """Return the median over the rounds of one build's medians."""
        return statistics.median(
            statistics.median(pair[side] for pair in pairs) for pairs in self.rounds
        )

    def ratio(self) -> tuple[float, float, float]:
        """Return the median over the rounds of the ratio, and its 95% interval.

        A round in which the old build cost nothing, as far as can be seen, has no ratio.
        """
        ratios = [ratio(pairs) for pairs in self.rounds]
        return median_interval([each for each in ratios if not math.isnan(each)] or [math.nan])

    def met(self, *, to_reference: bool) -> bool | None:
        """Return whether the limits are kept; None where none applies."""
        kept = []
        if self.limit.ratio is not None and to_reference:
            kept.append(self.ratio()[0] <= self.limit.ratio)
        if self.limit.new is not None:
            kept.append(self.median(1) <= self.limit.new)
        return all(kept) if kept else None

    def cells(self, name: str, *, to_reference: bool) -> list[str]:
        """Return the line's cells, as `HEADINGS` says."""
        middle, low, high = self.ratio()
        limits = []
        if self.limit.ratio is not None and to_reference:
            limits.append(f"<= {self.limit.ratio:g}x old")
        if self.limit.new is not None:
            limits.append(f"<= {shown(self.limit.new, self.unit, short=True)}")
        met = {True: "yes", False: "**no**", None: ""}[self.met(to_reference=to_reference)]
        return [
            name,
            *(shown(self.median(side), self.unit) for side in (0, 1)),
            *(["-", "-"] if math.isnan(middle) else [f"{middle:.3f}", f"{low:.3f} to {high:.3f}"]),
            ", ".join(limits),
            met,
        ]


def ratio(pairs: Sequence[Pair]) -> float:
    """Return one round's ratio: one plus the median difference, over the old build's median.

    What drifts slower than a pair meets both sides of the difference alike.
    """
    old = statistics.median(old for old, _ in pairs)
    if old <= 0:
        return math.nan
    return 1 + statistics.median(new - old for old, new in pairs) / old


def shown(value: float, unit: str, *, short: bool = False) -> str:
    """Return `value` with its unit; `short`, as one writes a limit."""
    if unit == "%":
        return f"{value * 100:g}%" if short else f"{value:.2%}"
    number = f"{value:g}" if short else f"{value:,.{_DIGITS[unit]}f}"
    return number if unit == "x" else f"{number} {unit}"


class Results:
    """What all rounds gave."""

    def __init__(self) -> None:
        """Hold nothing yet."""
        self.figures: dict[str, Figure] = {}
        self.failures: list[str] = []
        self.new_first = False
        """Whether the round that goes on has the new build first: neither always is."""

    def add(self, name: str, unit: str, pairs: Sequence[Pair], limit: Limit = NO_LIMIT) -> None:
        """Add a round's pairs of a figure, each in the order in which the round has the builds."""
        ordered = [(b, a) if self.new_first else (a, b) for a, b in pairs]
        self.figures.setdefault(name, Figure(unit, limit)).rounds.append(ordered)

    def rows(self, *, to_reference: bool) -> list[list[str]]:
        """Return the table's lines."""
        return [
            figure.cells(name, to_reference=to_reference) for name, figure in self.figures.items()
        ]

    def verdict(self, *, to_reference: bool) -> str:
        """Return how many of the limits that apply are met."""
        met = [figure.met(to_reference=to_reference) for figure in self.figures.values()]
        return f"{met.count(True)} of {len(met) - met.count(None)} limits are met."

    def as_json(self) -> dict[str, Any]:
        """Return everything."""
        figures = {
            name: {
                "unit": figure.unit,
                "limit": figure.limit._asdict(),
                "ratio": figure.ratio(),
                "rounds": figure.rounds,
            }
            for name, figure in self.figures.items()
        }
        return {"figures": figures, "failures": self.failures}
