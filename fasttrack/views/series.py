"""A metric as a line over its steps, ready to be drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

_FEW_POINTS = 30  # up to here every value gets a dot
_MOST_PLACES = 1_600  # along the steps, of a line: as many as a picture is wide in pixels
_MOST_POINTS = 5  # of one place, in a line that was thinned


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

        A long one is thinned, which a picture does not show: of the points that fall into one of
        `places` along the steps, the first and the last stay, and where more lie between them
        the least value, the greatest, and the first that is not finite.
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
        back = np.flatnonzero(np.diff(steps) < 0) + 1
        if len(steps) > _MOST_POINTS * places:
            steps, values, back = _thinned(steps, values, back, places)
        self.steps = np.insert(steps, back, np.nan)
        self.values = np.insert(values, back, np.nan)

    def drawable(self) -> Any:
        """Return the values with a gap for each that is NaN or infinite."""
        return np.where(np.isfinite(self.values), self.values, np.nan)

    def non_finite_steps(self) -> list[float]:
        """Return the steps whose value is NaN or infinite."""
        bad = ~np.isfinite(self.values) & ~np.isnan(self.steps)
        found: list[float] = self.steps[bad].tolist()
        return found

    def range(self) -> list[float]:
        """Return the least and the greatest finite value; nothing where there is none."""
        finite = self.values[np.isfinite(self.values)]
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


def _thinned(steps: Any, values: Any, back: Any, places: int) -> tuple[Any, Any, Any]:
    """Return fewer points and where among them the steps go back; see `Series.of`."""
    least, greatest = steps.min(), steps.max()
    place = np.floor((steps - least) * (places / max(greatest - least, 1.0)))
    starts = np.union1d(np.concatenate([[0], np.flatnonzero(np.diff(place)) + 1]), back)
    ends = np.append(starts[1:], len(steps)) - 1
    finite = np.isfinite(values)
    bad = np.flatnonzero(~finite)
    with_bad, first = np.unique(np.searchsorted(starts, bad, "right") - 1, return_index=True)
    masked = np.where(finite, values, np.nan)
    # Of each group of neighbours in one place up to five points: first, least, greatest, bad, last.
    points = np.full((len(starts), _MOST_POINTS, 2), np.nan)
    points[:, :4, 0], points[:, 4, 0] = steps[starts, None], steps[ends]
    points[:, 0, 1], points[:, 4, 1] = values[starts], values[ends]
    points[:, 1, 1] = np.fmin.reduceat(masked, starts)
    points[:, 2, 1] = np.fmax.reduceat(masked, starts)
    points[with_bad, 3, 0], points[with_bad, 3, 1] = steps[bad[first]], values[bad[first]]
    kept = np.zeros((len(starts), _MOST_POINTS), bool)
    kept[:, 0], kept[:, 4] = True, ends > starts
    kept[:, 1:3] = ~np.isnan(points[:, 1:3, 1])
    kept[with_bad, 3] = (starts[with_bad] < bad[first]) & (bad[first] < ends[with_bad])
    kept[:, 1:4] &= (ends > starts + 1)[:, None]  # the first and the last of two are both
    counts = kept.sum(1)
    thinned = points[kept]
    return thinned[:, 0], thinned[:, 1], (np.cumsum(counts) - counts)[np.isin(starts, back)]
