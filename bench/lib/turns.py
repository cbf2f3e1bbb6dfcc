"""Pairs of measurements by turns: what drifts slower than a pair meets both alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.lib.ways import Way

T = TypeVar("T")


def in_turns(turns: int, measure: Callable[[int], T]) -> list[tuple[T, T]]:
    """Return pairs of what `measure` gives for side 0 and for side 1, by turns: 01 10 01 ..."""
    found = []
    for number in range(turns):
        if number % 2:
            second = measure(1)
            found.append((measure(0), second))
        else:
            first = measure(0)
            found.append((first, measure(1)))
    return found


def in_pairs(
    measure: Callable[[Way, int], T], way: Way, first_step: int, pairs: int, steps: int
) -> list[tuple[T, T]]:
    """Return pairs of what `measure(way, first step)` gives (with logging, without).

    Each is first in every second pair; both get the same `steps` step numbers.
    """
    nothing = way.without_logging()
    found = []
    for number in range(pairs):
        step = first_step + number * steps
        if number % 2:
            without = measure(nothing, step)
            found.append((measure(way, step), without))
        else:
            logged = measure(way, step)
            found.append((logged, measure(nothing, step)))
    return found
