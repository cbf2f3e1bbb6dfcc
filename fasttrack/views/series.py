"""A run's metrics as lines over its steps, ready to be drawn."""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fasttrack.runs.local import RunRow

_FEW_POINTS = 30  # up to here every value gets a dot


@dataclass(slots=True)
class Series:
    """One metric over the steps, in the order in which it was logged."""

    steps: array[float] = field(default_factory=lambda: array("d"))
    values: array[float] = field(default_factory=lambda: array("d"))

    def add(self, step: int, value: float) -> None:
        """Add a point; where the steps go back, as after a resume, the line is broken."""
        if self.steps and step < self.steps[-1]:
            self.steps.append(math.nan)
            self.values.append(math.nan)
        self.steps.append(step)
        self.values.append(value)

    def drawable(self) -> list[float]:
        """Return the values with a gap for each that is NaN or infinite."""
        return [value if math.isfinite(value) else math.nan for value in self.values]

    def non_finite_steps(self) -> list[float]:
        """Return the steps whose value is NaN or infinite."""
        points = zip(self.steps, self.values, strict=True)
        return [step for step, value in points if step == step and not math.isfinite(value)]

    def dots(self) -> list[int]:
        """Return the indices to be marked by a dot: all of a few points, else the lonely ones."""
        solid = [False, *map(math.isfinite, self.values), False]
        few = sum(solid) <= _FEW_POINTS
        places = zip(solid, solid[1:], solid[2:], strict=False)
        return [i for i, (a, here, b) in enumerate(places) if here and (few or not (a or b))]


def read_series(rows: Iterable[RunRow]) -> dict[str, Series]:
    """Return each metric's series of these rows, which are in the order of the journal."""
    series: dict[str, Series] = {}
    for row in rows:
        for name, value in row.values.items():
            series.setdefault(name, Series()).add(row.step, float(value))
    return series
