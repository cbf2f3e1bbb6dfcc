"""A metric as the page has it: fewer points, each where it was, and what a smoothed line is of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fasttrack.views.curves import Points
from fasttrack.views.series import MOST_POINTS, thin

MOST_PLACES, LEAST_PLACES = 1_600, 100
"""Along a line: as many as a chart over the whole of a screen is wide in pixels, and how many there
are however many lines a page has."""
_PAGE_POINTS = 160_000  # about 1 MB, compressed


@dataclass(frozen=True, slots=True)
class Line:
    """One metric of one run."""

    points: Points
    """Those that stay; where the steps go back, the line is broken."""
    means: Points | None
    """Of the finite values in each place, at the middle of these; None: all points are there."""
    rows: int
    """How many points there were."""


def places_for(lines: int) -> int:
    """Return how many places each line of a page with so many of them may have."""
    points = (MOST_POINTS + 1) * max(lines, 1)
    return min(MOST_PLACES, max(LEAST_PLACES, _PAGE_POINTS // points))


def line_of(points: Points, places: int) -> Line:
    """Return the line of all `points`, of which there is at least one."""
    rows = len(points.steps)
    if rows <= MOST_POINTS * places:
        return Line(points, None, rows)
    kept, starts = thin(points.steps, points.values, places)
    following = np.append(starts[1:], rows)
    finite = np.isfinite(points.values)
    counts = np.add.reduceat(finite, starts, dtype=np.float64)
    there = counts > 0
    with np.errstate(over="ignore"):  # of values near the greatest the mean may be infinite
        sums = np.add.reduceat(np.where(finite, points.values, 0.0), starts)
    middle = ((starts + following - 1) // 2)[there]
    means = Points(points.steps[middle], sums[there] / counts[there], points.times_s[middle])
    return Line(_at(points, kept), means, rows)


def followed_by(line: Line, points: Points, places: int) -> Line:
    """Return a line that goes on with these points, which are thinned for themselves."""
    tail = line_of(points, places)
    means = None
    if line.means is not None or tail.means is not None:
        means = _joined(line.means or line.points, tail.means or tail.points)
    return Line(_joined(line.points, tail.points), means, line.rows + tail.rows)


def _at(points: Points, chosen: object) -> Points:
    return Points(*(column[chosen] for column in points))


def _joined(*parts: Points) -> Points:
    return Points(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
