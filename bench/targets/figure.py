"""A measured figure beside the limit it is held against."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

ROUNDS = 5
HEADINGS = ("target", "limit", "measured", "met", "rounds, and what else was seen")

_DIGITS = {"us": 2, "ms": 2, "s": 2, "MB": 1, "x": 2, "rows/s": 0, "rows": 0}


class Figure(NamedTuple):
    """One line of the table."""

    target: str
    measured: float
    unit: str
    """A key of `_DIGITS`, or "%" for a share."""
    limit: float | None = None
    """None: told, not judged."""
    at_least: bool = False
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the limit was kept."""
        if self.limit is None:
            return None
        if self.at_least:
            return self.measured >= self.limit
        return self.measured <= self.limit

    def cells(self) -> list[str]:
        """Return the line's cells, as `HEADINGS` says."""
        limit = ""
        if self.limit is not None:
            limit = f"{'>=' if self.at_least else '<='} {shown(self.limit, self.unit, short=True)}"
        met = {True: "yes", False: "**no**", None: ""}[self.met]
        return [self.target, limit, shown(self.measured, self.unit), met, self.note]


def shown(value: float, unit: str, *, short: bool = False) -> str:
    """Return `value` with its unit; `short`, as one writes a limit."""
    if unit == "%":
        return f"{value * 100:g}%" if short else f"{value:.2%}"
    number = f"{value:,g}" if short else f"{value:,.{_DIGITS[unit]}f}"
    return f"{number}x" if unit == "x" else f"{number} {unit}"


def over_rounds(
    target: str,
    values: Sequence[float],
    unit: str,
    limit: float | None = None,
    *,
    at_least: bool = False,
    note: str = "",
) -> Figure:
    """Return the median over the rounds as a figure whose note has the lowest and the highest."""
    low, high = (shown(value, unit) for value in (min(values), max(values)))
    spread = f"{len(values)} rounds: {low} to {high}" if len(values) > 1 else "1 round"
    return Figure(
        target,
        statistics.median(values),
        unit,
        limit,
        at_least,
        f"{spread}; {note}" if note else spread,
    )
