"""Runs in the order of a metric."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
from support.journals import row, write_attempt

from fasttrack.errors import FasttrackError
from fasttrack.runs import list_runs, rank_runs

if TYPE_CHECKING:
    from pathlib import Path

LAST = {"two": 2.0, "nan": math.nan, "one": 1.0, "same": 2, "none": None, "inf": -math.inf}


@pytest.fixture(autouse=True)
def _runs(tmp_path: Path) -> None:
    for number, (run_id, value) in enumerate(LAST.items()):
        last = [row(1, 7, loss=value)] if value is not None else []
        first = [] if value is None else [row(0, 0, loss=99.0)]
        write_attempt(tmp_path, run_id, *first, *last, row(2, 8, acc=0.5), time_s=1.0 + number)


@pytest.mark.parametrize(
    ("descending", "order"),
    [
        (False, ["one", "two", "same", "nan", "inf", "none"]),
        (True, ["two", "same", "one", "nan", "inf", "none"]),
    ],
)
def test_runs_are_ordered_by_the_last_value(descending: bool, order: list[str]) -> None:
    """Equal ones by age, then those that are not finite, then those without the metric."""
    ranked = rank_runs(list_runs(), "loss", descending=descending)

    assert [one.run.run_id for one in ranked] == order
    assert [(one.value, one.step) for one in ranked if one.run.run_id in ("one", "none")] == [
        (1.0, 7),
        (None, None),
    ]


def test_metric_that_no_run_has_is_an_error_that_names_the_others() -> None:
    """A list in no order at all would look like an answer."""
    with pytest.raises(
        FasttrackError, match=r"^the runs have no metric 'lss'; they have: acc, loss$"
    ):
        rank_runs(list_runs(), "lss")
