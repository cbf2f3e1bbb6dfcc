"""One metric over many ranks, in a few numbers that can be merged in any order.

Whoever adds two `Figures` has those of both groups of ranks, to the last digit: a node may sum up
its ranks before it tells others. Sums are kept exactly, as numbers whose sum they are.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class Figures:
    """Count, sum, least and greatest of one value per rank, and whose the greatest is.

    Threads: one at a time.
    """

    __slots__ = ("greatest", "least", "parts", "ranks", "where")

    def __init__(
        self, ranks: int, parts: Iterable[float], least: float, greatest: float, where: int
    ) -> None:
        """Be the figures of `ranks` ranks.

        Args:
            ranks: how many there are.
            parts: numbers whose exact sum is the sum of their values.
            least: of their values.
            greatest: of their values.
            where: the lowest rank that has the greatest.
        """
        self.ranks = ranks
        self.parts = list(parts)
        self.least = least
        self.greatest = greatest
        self.where = where

    @classmethod
    def of(cls, ranks: Sequence[int], values: Sequence[float]) -> Figures:
        """Return those of one rank at least; each has one value, which is finite."""
        greatest = max(values)
        where = min(rank for rank, value in zip(ranks, values, strict=True) if value == greatest)
        return cls(len(values), values, min(values), greatest, where)

    def add(self, other: Figures) -> None:
        """Take further ranks in."""
        self.ranks += other.ranks
        for part in other.parts:
            _add(self.parts, part)
        self.least = min(self.least, other.least)
        if (other.greatest, -other.where) > (self.greatest, -self.where):
            self.greatest, self.where = other.greatest, other.where

    @property
    def mean(self) -> float:
        """The mean of the values: their exact sum, rounded once, by their number."""
        try:
            return math.fsum(self.parts) / self.ranks
        except OverflowError:  # the sum is no double, though the mean is
            return math.fsum([part / self.ranks for part in self.parts])

    def as_metrics(self, name: str) -> dict[str, float]:
        """Return them as they stand in a row."""
        return {
            f"ranks/{name}/mean": self.mean,
            f"ranks/{name}/min": self.least,
            f"ranks/{name}/max": self.greatest,
            f"ranks/{name}/argmax": self.where,
        }


def _add(parts: list[float], value: float) -> None:
    """Add to a sum that is kept without rounding (Shewchuk's, as in `math.fsum`)."""
    kept = 0
    for part in parts:
        larger, smaller = (value, part) if abs(value) >= abs(part) else (part, value)
        total = larger + smaller
        if total - total != 0:  # beyond what a double holds: it stays in two parts
            parts[kept], value = larger, smaller
            kept += 1
            continue
        value, lost = total, smaller - (total - larger)
        if lost:
            parts[kept] = lost
            kept += 1
    parts[kept:] = [value]
