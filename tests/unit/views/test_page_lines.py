"""Lines as the page has them: thinned, extremes kept, and written so that nothing is lost."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import orjson
import pytest

from fasttrack.views.curves import Points
from fasttrack.views.web.lines import (
    LEAST_PLACES,
    MOST_PLACES,
    followed_by,
    line_of,
    places_for,
)
from fasttrack.views.web.payload import pack

MANY = 50_000


def points(values: Any, first_step: int = 0) -> Points:
    """Return a metric with these values, a step and a third of a second apart."""
    values = np.array(values, float)
    steps = first_step + np.arange(len(values), dtype=float)
    return Points(steps, values, 1.7e9 + steps / 3)


def unpack(payload: bytes) -> tuple[dict[str, Any], dict[str, Points]]:
    """Return what `pack` was given, as far as it is in the payload; as `payload.js` reads it."""
    size = int.from_bytes(payload[:4], "little")
    told, arrays = orjson.loads(payload[4 : 4 + size]), payload[4 + size :]

    def read(start: int, count: int, form: str) -> Any:
        kind = np.dtype({"differences": "<i4"}.get(form, f"<{form}"))
        bytes_ = np.frombuffer(arrays, np.uint8, count * kind.itemsize, start)
        numbers = np.ascontiguousarray(bytes_.reshape(kind.itemsize, count).T).view(kind)[:, 0]
        numbers = numbers.astype(float)
        return np.cumsum(numbers) if form == "differences" else numbers

    lines = {}
    for one in told["metrics"]:
        packed = one["points"]
        times_s = told["begin_s"] + read(*packed["tick"]) / 1000
        lines[one["name"]] = Points(read(*packed["step"]), read(*packed["value"]), times_s)
    return told, lines


def test_each_point_that_stays_is_where_it_was() -> None:
    """Its step, its time; the extremes are among them, and what is not finite."""
    values = np.random.default_rng(0).normal(size=MANY)
    values[[12_345, 30_001, 40_000]] = [50.0, -50.0, math.nan]
    line = line_of(points(values), 200)
    kept = line.points

    assert line.rows == MANY
    assert len(kept.steps) <= 5 * 201
    assert kept.values.tolist() == pytest.approx(
        values[kept.steps.astype(int)].tolist(), nan_ok=True
    )
    assert kept.times_s.tolist() == (1.7e9 + kept.steps / 3).tolist()
    assert {12_345, 30_001, 40_000} <= set(kept.steps.tolist())


def test_what_is_smoothed_is_the_mean_of_all_rows() -> None:
    """The points that stay are extremes: their mean would lie elsewhere."""
    values = np.where(np.arange(MANY) % 100 == 0, 10.0, 0.0)
    values[25_000] = math.inf
    means = line_of(points(values), 100).means

    assert means is not None
    assert len(means.steps) in (100, 101)
    assert means.values[:40].tolist() == pytest.approx([0.1] * 40, rel=0.01)
    assert np.isfinite(means.values).all()


def test_a_short_line_is_all_there() -> None:
    """Nothing is thinned, nothing averaged."""
    line = line_of(points([1.0, 2.0, math.nan]), 1)

    assert (line.rows, line.means) == (3, None)
    assert line.points.steps.tolist() == [0, 1, 2]


def test_a_line_goes_on() -> None:
    """What came later is behind what was there."""
    line = followed_by(line_of(points(np.zeros(MANY)), 10), points([1.0, 2.0], MANY), 10)

    assert line.rows == MANY + 2
    assert line.points.values[-3:].tolist() == [0.0, 1.0, 2.0]
    assert line.means is not None
    assert line.means.values[-2:].tolist() == [1.0, 2.0]


def test_many_lines_share_the_room_of_a_page() -> None:
    """And each has some."""
    assert places_for(1) == MOST_PLACES
    assert LEAST_PLACES < places_for(100) < MOST_PLACES
    assert places_for(10_000) == LEAST_PLACES


@pytest.mark.parametrize(
    "values",
    [
        [0.1, 0.2, math.nan, math.inf, -math.inf],
        [1e9 + 0.25, 1e9 + 0.5],
        [1e-4] * 3,
        [1.7e308, -1.7e308],
        [float(2**53), 1.0],
        [],
    ],
)
def test_values_arrive(values: list[float]) -> None:
    """Exact, or so near that no zoom shows it."""
    finite = [value for value in values if math.isfinite(value)] or [0.0]
    height = min(max(finite) - min(finite), 1e30)
    _, lines = unpack(pack({}, {"a": line_of(points(values), 100)} if values else {}))

    if values:
        assert lines["a"].values.tolist() == pytest.approx(values, abs=height * 1e-6, nan_ok=True)
        assert lines["a"].times_s.tolist() == pytest.approx(
            [1.7e9 + i / 3 for i in range(len(values))], abs=0.0006
        )


def test_steps_that_go_back_or_far_arrive() -> None:
    """Where they go back is told."""
    steps = np.array([0.0, 2.0**40, 5.0, 6.0])
    line = line_of(Points(steps, np.ones(4), np.full(4, 1.0)), 100)
    told, lines = unpack(pack({"id": "ab12"}, {"a/b_ms": line}))

    assert lines["a/b_ms"].steps.tolist() == steps.tolist()
    assert told["id"] == "ab12"
    assert told["metrics"][0]["points"]["back"] == [2]
    assert told["metrics"][0]["unit"] == "ms"
