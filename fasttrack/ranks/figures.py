"""One metric over many ranks, in a few numbers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def figures_of(name: str, ranks: Sequence[int], values: Sequence[float]) -> dict[str, float]:
    """Return what a row says of one metric: mean, least, greatest and whose that is.

    The mean is the exact sum, rounded once, by the number of ranks; of several ranks that have the
    greatest value the lowest is named.

    Args:
        name: of the metric.
        ranks: one at least, in any order.
        values: each rank's, which is finite.
    """
    greatest = max(values)
    return {
        f"ranks/{name}/mean": _mean(values),
        f"ranks/{name}/min": min(values),
        f"ranks/{name}/max": greatest,
        f"ranks/{name}/argmax": min(
            rank for rank, value in zip(ranks, values, strict=True) if value == greatest
        ),
    }


def _mean(values: Sequence[float]) -> float:
    try:
        return math.fsum(values) / len(values)
    except OverflowError:  # the sum is no double, though the mean is
        return math.fsum([value / len(values) for value in values])
