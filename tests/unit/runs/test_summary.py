"""A metric's summary, and its course in letters."""

from __future__ import annotations

import math

import pytest

from fasttrack.runs import Summary


def summary_of(values: list[float]) -> Summary:
    """Return the summary of `values`."""
    summary = Summary()
    for value in values:
        summary.add(value)
    return summary


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], "▁▂▃▄▅▆▇█"),
        ([5.0, 5.0], "▁▁"),
        ([0.05] * 40, "▁▁▁▁▁▁▁▁"),  # whose means differ by their rounding
        ([math.nan, 1.0, 2.0], "!▁█"),
        ([math.inf], "!"),
        ([-1.7e308, 0.0, 1.7e308], "▁▅█"),
        ([1.7e308] * 1024 + [0.0] * 1024, "████▁▁▁▁"),
        ([0.0] * 1024 + [math.nan] + [1.0] * 1023, "▁▁▁▁!███"),
        ([], ""),
    ],
)
def test_sparkline_shows_the_course(values: list[float], line: str) -> None:
    """Whatever the numbers, and however many."""
    assert summary_of(values).sparkline(8) == line


def test_sparkline_has_letters_for_terminals_without_unicode() -> None:
    """Where blocks cannot be printed."""
    assert summary_of([0.0, 1.0]).sparkline(8, ascii_only=True) == "_#"
