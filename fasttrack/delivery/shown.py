"""What stands for a run when it has ended: what its trainer set by hand, and aggregates of rows."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fasttrack.journal.entries import Page
    from fasttrack.journal.rows import Number, Row

AGGREGATES = ("first", "last", "max", "mean", "min")


class Aggregate:
    """The aggregates of one metric. NaN is passed over by the least and the greatest.

    Threads: one at a time.
    """

    __slots__ = ("_count", "_first", "_last", "_max", "_min", "_sum")

    def __init__(self, value: Number) -> None:
        """Begin with the first value."""
        self._first = value
        self._count, self._sum = 0, 0.0
        self._min = self._max = value
        self.add(value)

    def add(self, value: Number) -> None:
        """Take in a value."""
        self._last = value
        self._count += 1
        self._sum += value
        if value < self._min or math.isnan(self._min):
            self._min = value
        if value > self._max or math.isnan(self._max):
            self._max = value

    def told(self, which: Sequence[str]) -> dict[str, Number]:
        """Return those that are asked for."""
        known = {
            "first": self._first,
            "last": self._last,
            "max": self._max,
            "mean": self._sum / self._count,
            "min": self._min,
        }
        return {name: known[name] for name in which}


class Shown:
    """Follow rows and what is said of them, for the summary.

    Threads: one at a time.
    """

    def __init__(self) -> None:
        """Begin where nothing was said."""
        self._by_hand: dict[str, tuple[float, object]] = {}  # when, and what
        self._asked: dict[str, tuple[str, ...]] = {}  # aggregates, by name or beginning and "*"
        self._wanted: dict[str, tuple[str, ...]] = {}  # the same, of metrics that were seen
        self._aggregates: dict[str, Aggregate] = {}

    def take(self, page: Page) -> None:
        """Take in what is said of the run."""
        self._by_hand |= {name: (page.time_s, value) for name, value in page.summary.items()}
        for name, told in page.metrics.items():
            words = str((told or {}).get("summary") or "").split(",")
            self._asked[name] = tuple(word for word in AGGREGATES if word in words)
            self._wanted.clear()

    def see(self, rows: Sequence[Row]) -> None:
        """Take in rows: a metric stands for itself again once it is logged."""
        if self._by_hand:
            for row in rows:
                names = row.values.keys() if row.names is None else row.names.as_set
                for name in self._by_hand.keys() & names:
                    # What was logged before may stand behind it: rows take a while to be written.
                    if row.time_s > self._by_hand[name][0]:
                        del self._by_hand[name]
        if any(self._asked.values()):
            for row in rows:
                for name, value in row.values.items():
                    if self._aggregates_of(name):
                        self._add(name, value)

    def _add(self, name: str, value: Number) -> None:
        known = self._aggregates.get(name)
        if known is None:
            self._aggregates[name] = Aggregate(value)
        else:
            known.add(value)

    def _aggregates_of(self, name: str) -> tuple[str, ...]:
        found = self._wanted.get(name)
        if found is None:
            found = self._asked.get(name)
            if found is None:
                fits = [each for each in self._asked if _fits(each, name)]
                found = self._asked[max(fits, key=len)] if fits else ()
            self._wanted[name] = found
        return found

    def summary(self) -> dict[str, object]:
        """Return what shall stand in the summary in the place of last values."""
        told = {
            name: values
            for name, aggregate in self._aggregates.items()
            if (values := aggregate.told(self._aggregates_of(name)))
        }
        return {**told, **{name: value for name, (_, value) in self._by_hand.items()}}


def _fits(pattern: str, name: str) -> bool:
    return pattern.endswith("*") and name.startswith(pattern[:-1])
