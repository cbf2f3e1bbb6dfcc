"""A metric as a line over its steps, ready to be drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

_FEW_POINTS = 30  # up to here every value gets a dot
_MOST_PLACES = 1_600  # along the steps, of a line: as many as a picture is wide in pixels
_FARTHEST = 1e300  # what is farther from zero is drawn there: axes need room for their own sums
MOST_POINTS = 5
"""Of one place, in a line that was thinned."""


class Series:
    """One metric over the steps, in the order in which it was logged.

    Attributes:
        steps: of each point, as doubles.
        values: of each point. Where the steps go back, as after a resume, the line is broken: a
            point between the two has NaN for both.
    """

    steps: Any
    values: Any

    def __init__(self, points: Iterable[tuple[int, float]] = ()) -> None:
        """Take (step, value) pairs, thinned as by `of`."""
        pairs = np.array([*points], np.float64).reshape(-1, 2)
        self._take(pairs[:, 0], pairs[:, 1], _MOST_PLACES)

    @classmethod
    def of(cls, steps: Any, values: Any, *, places: int = _MOST_PLACES) -> Series:
        """Return the series of two arrays of doubles.

        A long one is thinned as `thin` does it, which a picture does not show.
        """
        series = cls()
        series._take(steps, values, places)
        return series

    @classmethod
    def of_points(cls, steps: Any, values: Any) -> Series:
        """Return the series that has these points, breaks included."""
        series = cls()
        series.steps, series.values = steps, values
        return series

    def _take(self, steps: Any, values: Any, places: int) -> None:
        if len(steps) > MOST_POINTS * places:
            kept, _ = thin(steps, values, places)
            steps, values = steps[kept], values[kept]
        back = steps_back(steps)
        self.steps = np.insert(steps, back, np.nan)
        self.values = np.insert(values, back, np.nan)

    def drawable(self) -> Any:
        """Return the values as far as a picture reaches, with a gap where one is not finite."""
        drawn = np.clip(self.values, -_FARTHEST, _FARTHEST)
        return np.where(np.isfinite(self.values), drawn, np.nan)

    def non_finite_steps(self) -> list[float]:
        """Return the steps whose value is NaN or infinite."""
        bad = ~np.isfinite(self.values) & ~np.isnan(self.steps)
        found: list[float] = self.steps[bad].tolist()
        return found

    def range(self) -> list[float]:
        """Return the least and the greatest value that is drawn; nothing where there is none."""
        finite = self.drawable()[np.isfinite(self.values)]
        return [float(finite.min()), float(finite.max())] if len(finite) else []

    def span(self) -> list[float]:
        """Return the least and the greatest step; nothing of a series without points."""
        if not len(self.steps):
            return []
        return [float(np.nanmin(self.steps)), float(np.nanmax(self.steps))]

    def dots(self) -> list[int]:
        """Return the indices to be marked by a dot: all of a few points, else the lonely ones."""
        solid = np.isfinite(self.values)
        framed = np.concatenate([[False], solid, [False]])
        lonely = ~(framed[:-2] | framed[2:])
        dotted = solid if solid.sum() <= _FEW_POINTS else solid & lonely
        found: list[int] = np.flatnonzero(dotted).tolist()
        return found


def steps_back(steps: Any) -> Any:
    """Return the indices of points whose step is behind the one before, as after a resume."""
    return np.flatnonzero(np.diff(steps) < 0) + 1


def thin(steps: Any, values: Any, places: int) -> tuple[Any, Any]:
    """Choose the points of a line that tell of its course what `places` along the steps can show.

    Of the points that fall into one place the first and the last stay, the least, the greatest, and
    the first that is not finite. Where the steps go back a place begins anew.

    Args:
        steps: of each point, at least one, as doubles.
        values: of each point, as doubles.
        places: how many there are.

    Returns:
        The indices of the points that stay, and those at which the places begin.
    """
    least, greatest = steps.min(), steps.max()
    place = np.floor((steps - least) * (places / max(greatest - least, 1.0)))
    changes = np.flatnonzero(np.diff(place)) + 1
    starts = np.union1d(np.concatenate([[0], changes]), steps_back(steps))
    following = np.append(starts[1:], len(steps))
    finite = np.isfinite(values)
    bad = np.flatnonzero(~finite)
    _, first = np.unique(np.searchsorted(starts, bad, "right"), return_index=True)
    kept = [starts, following - 1, bad[first]]
    masked = np.where(finite, values, np.nan)
    for extreme in (np.fmin, np.fmax):
        found = np.repeat(extreme.reduceat(masked, starts), following - starts)
        hits = np.flatnonzero(masked == found)
        at = np.searchsorted(hits, starts)  # of a place that has none, that of a later one
        kept.append(hits[at[at < len(hits)]])
    return np.unique(np.concatenate(kept)), starts
