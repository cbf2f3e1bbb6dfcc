"""Lines of many points: thinned so that a picture does not show it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from fasttrack.views.series import Series

MANY = 50_000
PLACES = 1_600


def place_of(steps: Any) -> Any:
    """Return where along the whole each step lies, in pixels of the picture."""
    return np.floor(steps * (PLACES / (MANY - 1)))


def test_every_place_keeps_its_extremes_its_first_and_its_last_value() -> None:
    """A spike of one step is what one looks for."""
    steps = np.arange(MANY, dtype=float)
    values = np.random.default_rng(0).normal(size=MANY)
    values[12_345], values[30_001] = 50.0, -50.0
    series = Series.of(steps, values)

    assert len(series.values) <= 5 * (PLACES + 1) < MANY
    assert series.range() == [-50.0, 50.0]
    assert series.steps[[series.values.argmax(), series.values.argmin()]].tolist() == [
        12_345,
        30_001,
    ]
    assert series.span() == [0.0, MANY - 1]
    assert set(series.values) <= set(values)
    assert (np.diff(series.steps) >= 0).all()
    before, after = place_of(steps), place_of(series.steps)
    for place in range(0, PLACES, 7):
        all_of_it, kept = values[before == place], series.values[after == place]
        assert (kept.min(), kept.max()) == (all_of_it.min(), all_of_it.max())
        assert (kept[0], kept[-1]) == (all_of_it[0], all_of_it[-1])


def test_values_that_are_not_finite_stay_gaps_at_their_steps() -> None:
    """Of several in one place the first; the extremes are those of the others."""
    values = np.ones(MANY)
    values[[100, 101, 20_000, 40_000]] = [math.nan, math.inf, -math.inf, math.nan]
    values[41_000:42_000] = math.nan
    values[20_001] = 3.0
    series = Series.of(np.arange(MANY, dtype=float), values)
    marked = series.non_finite_steps()

    assert marked[:3] == [100, 20_000, 40_000]
    assert marked[3] == 41_000
    assert 30 < sum(41_000 <= step < 42_000 for step in marked) <= 3 * 33
    assert series.range() == [1.0, 3.0]


def test_a_long_line_is_broken_where_its_steps_go_back() -> None:
    """Both ends of the break are where they were."""
    steps = np.concatenate([np.arange(30_000.0), np.arange(20_000.0, MANY)])
    values = np.concatenate([np.full(30_000, 1.0), np.full(30_000, 2.0)])
    series = Series.of(steps, values)
    (at,) = np.flatnonzero(np.isnan(series.steps))

    assert len(series.steps) < 3 * 5 * PLACES
    assert (series.steps[at - 1], series.values[at - 1]) == (29_999, 1.0)
    assert (series.steps[at + 1], series.values[at + 1]) == (20_000, 2.0)
    assert series.non_finite_steps() == []


@pytest.mark.parametrize("count", [0, 1, 2, 5 * PLACES])
def test_what_is_not_long_stays_as_it_is(count: int) -> None:
    """Point by point."""
    steps, values = np.arange(float(count)), np.arange(float(count)) / 3
    series = Series.of(steps, values)

    assert series.steps.tolist() == steps.tolist()
    assert series.values.tolist() == values.tolist()


def test_many_rows_of_one_step_are_one_place() -> None:
    """Nothing is divided by nothing."""
    series = Series.of(np.full(MANY, 7.0), np.arange(float(MANY)))

    assert series.steps.tolist() == [7.0] * 2
    assert series.values.tolist() == [0.0, MANY - 1]
