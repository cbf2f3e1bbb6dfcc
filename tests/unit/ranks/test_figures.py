"""Figures of many ranks: the same to the last digit, in whatever order the ranks have told."""

from __future__ import annotations

import math
import random
from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from fasttrack.ranks.figures import figures_of

_VALUES = st.floats(min_value=-1e300, max_value=1e300)


def shuffled(values: list[float], seed: int) -> dict[str, float]:
    """Return the figures of ranks that have told in an order of chance."""
    ranks = list(range(len(values)))
    random.Random(seed).shuffle(ranks)
    return figures_of("x", ranks, [values[rank] for rank in ranks])


@settings(max_examples=60, deadline=None, database=None, derandomize=True)
@given(st.lists(_VALUES, min_size=1, max_size=12), st.integers(0, 1000))
def test_figures_do_not_depend_on_the_order_of_ranks(values: list[float], seed: int) -> None:
    """Mean, least, greatest and its lowest rank are those of the values."""
    greatest = max(values)

    assert shuffled(values, seed) == {
        "ranks/x/mean": math.fsum(values) / len(values),
        "ranks/x/min": min(values),
        "ranks/x/max": greatest,
        "ranks/x/argmax": values.index(greatest),
    }


def test_means_are_right_where_the_sum_is_beyond_a_double() -> None:
    """A gradient that explodes on all ranks at once ends nothing."""
    values = [1.7e308, 1.6e308, 1.5e308, -1.0e300, 1.0]
    exact = float(sum(map(Fraction, values)) / len(values))
    for seed in range(20):
        assert math.isclose(shuffled(values, seed)["ranks/x/mean"], exact, rel_tol=1e-15)
