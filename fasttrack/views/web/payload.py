"""What the page is handed of a run: its lines' numbers, and what is said of it in words.

A payload is four bytes, the length of a JSON object, then the object, which says where in the bytes
behind it each array of numbers lies. Of an array the first bytes of all numbers come first, then
the second ones: so what is alike in them is together, and compresses well. `assets/payload.js`
reads it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from fasttrack.views.series import steps_back
from fasttrack.views.style import unit_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fasttrack.views.curves import Points
    from fasttrack.views.web.lines import Line

_INT32 = 2**31
_TICKS_PER_S = 1000  # of a point's time
_VISIBLE = 1e-6  # of a line's height: what is less cannot be seen, however far one zooms
_ARRAY = list[int | str]  # where an array begins, how many numbers it has, how they are written


def pack(told: Mapping[str, Any], lines: Mapping[str, Line]) -> bytes:
    """Return the payload of a run.

    Args:
        told: what is said of the run in words.
        lines: metric -> its line.
    """
    arrays = _Arrays()
    begin_s = min((float(line.points.times_s.min()) for line in lines.values()), default=0.0)
    metrics = [
        {
            "name": name,
            "unit": unit_of(name),
            "rows": line.rows,
            "points": _pack_points(arrays, line.points, begin_s),
            "means": None if line.means is None else _pack_points(arrays, line.means, begin_s),
        }
        for name, line in lines.items()
    ]
    head = orjson.dumps({**told, "begin_s": begin_s, "metrics": metrics})
    return len(head).to_bytes(4, "little") + head + b"".join(arrays.written)


def _pack_points(arrays: _Arrays, points: Points, begin_s: float) -> dict[str, Any]:
    return {
        "back": steps_back(points.steps).tolist(),
        "step": arrays.add_whole(points.steps),
        "tick": arrays.add_whole(np.rint((points.times_s - begin_s) * _TICKS_PER_S)),
        "value": arrays.add_values(points.values),
    }


class _Arrays:
    """Arrays behind one another, each in the shortest form that is exact, or looks so."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self._size_bytes = 0

    def add_whole(self, numbers: Any) -> _ARRAY:
        """Append whole numbers: as differences of 32 bits where these are enough."""
        differences = np.diff(numbers, prepend=0.0)
        if not len(numbers) or np.abs(differences).max() < _INT32:
            return self._add(differences.astype("<i4"), "differences")
        return self._add(numbers.astype("<f8"), "f8")

    def add_values(self, numbers: Any) -> _ARRAY:
        """Append values, with 24 binary digits each where more could not be seen."""
        finite = numbers[np.isfinite(numbers)]
        with np.errstate(over="ignore"):
            short = finite.astype("<f4")
            visible = _VISIBLE * np.ptp(finite) if len(finite) else 0.0
            exact = np.isfinite(short) & (np.abs(short.astype(np.float64) - finite) <= visible)
        return self._add(*((numbers.astype("<f4"), "f4") if exact.all() else (numbers, "f8")))

    def _add(self, numbers: Any, form: str) -> _ARRAY:
        place: _ARRAY = [self._size_bytes, len(numbers), form]
        planes = np.ascontiguousarray(numbers).view(np.uint8).reshape(-1, numbers.itemsize).T
        self.written.append(planes.tobytes())
        self._size_bytes += numbers.nbytes
        return place
