"""What stands for a run at its end: set by hand, or aggregates, and until when."""

from __future__ import annotations

import math

from support.journals import row

from fasttrack.delivery.shown import Shown
from fasttrack.journal.entries import Page


def test_what_is_set_by_hand_stands_until_the_metric_is_logged_again() -> None:
    """By the time of the calls: a row may be written behind what was said after it."""
    shown = Shown()
    shown.take(Page(summary={"a": 10, "b": "text"}, time_s=100.0))
    shown.see([row(0, 0, 99.9, a=1.0, c=2.0)])
    assert shown.summary() == {"a": 10, "b": "text"}

    shown.see([row(1, 1, 100.1, a=3.0)])
    assert shown.summary() == {"b": "text"}


def test_aggregates_are_those_that_are_asked_for() -> None:
    """By name, or by the longest beginning that fits; the newest definition counts."""
    shown = Shown()
    told = {"*": "last", "val__*": "mean,first", "val__best": "max,min", "none": ""}
    metrics = {name.replace("__", "/"): {"summary": ops} for name, ops in told.items()}
    shown.take(Page(metrics=metrics))
    shown.see([row(n, n, val__loss=n, val__best=n, none=n, a=n) for n in (2, 1, 3)])

    assert shown.summary() == {
        "val/loss": {"first": 2, "mean": 2.0},
        "val/best": {"max": 3, "min": 1},
        "a": {"last": 3},
    }


def test_nan_is_neither_the_least_nor_the_greatest() -> None:
    """W&B's client stays with it for good; the mean has it, as it is one."""
    shown = Shown()
    shown.take(Page(metrics={"a": {"summary": "min,max,mean"}}))
    shown.see([row(n, n, a=value) for n, value in enumerate((math.nan, 2.0, math.nan, 1.0))])

    (found,) = shown.summary().values()
    assert isinstance(found, dict)
    assert (found["min"], found["max"]) == (1.0, 2.0)
    assert math.isnan(found["mean"])
