"""Figures of many ranks: the same to the last digit, in whatever order they come together."""

from __future__ import annotations

import math
import random
from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from fasttrack.ranks.figures import Figures

_VALUES = st.floats(min_value=-1e300, max_value=1e300)


def merged(values: dict[int, float], chance: random.Random) -> Figures:
    """Return the figures of ranks that come together by twos, at random."""
    groups = [Figures.of([rank], [value]) for rank, value in values.items()]
    while len(groups) > 1:
        chance.shuffle(groups)
        one = groups.pop()
        groups[-1].add(one)
    return groups[0]


@settings(max_examples=60, deadline=None, database=None, derandomize=True)
@given(st.lists(_VALUES, min_size=1, max_size=12), st.integers(0, 1000))
def test_figures_do_not_depend_on_who_was_added_to_whom(values: list[float], seed: int) -> None:
    """Mean, least, greatest and its rank are those of the values, by whatever tree they came."""
    by_rank = dict(enumerate(values))

    figures = merged(by_rank, random.Random(seed))

    greatest = max(values)
    assert figures.as_metrics("x") == {
        "ranks/x/mean": math.fsum(values) / len(values),
        "ranks/x/min": min(values),
        "ranks/x/max": greatest,
        "ranks/x/argmax": values.index(greatest),
    }
    assert sum(map(Fraction, figures.parts)) == sum(map(Fraction, values)), "the sum is exact"
    assert figures.ranks == len(values)


def test_means_are_right_where_the_sum_is_beyond_a_double() -> None:
    """A gradient that explodes on all ranks at once ends nothing."""
    values = [1.7e308, 1.6e308, 1.5e308, -1.0e300, 1.0]
    for seed in range(20):
        figures = merged(dict(enumerate(values)), random.Random(seed))

        exact = float(sum(map(Fraction, values)) / len(values))
        assert math.isclose(figures.mean, exact, rel_tol=1e-15)
        assert sum(map(Fraction, figures.parts)) == sum(map(Fraction, values))
