"""Lines read from journals: the same with pyarrow and without it."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING

import pytest
from support.journals import Line, rows_of, write_attempt

from fasttrack.journal.entries import Console, Row
from fasttrack.runs import find_run
from fasttrack.views import curves
from fasttrack.views.curves import read_curves

if TYPE_CHECKING:
    from pathlib import Path

    from fasttrack.runs import LocalRun


@pytest.fixture(autouse=True)
def _long_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short runs are read row by row, whatever is installed."""
    monkeypatch.setattr(curves, "_WORTH_IT_BYTES", 0)


@pytest.fixture
def runs(tmp_path: Path) -> list[LocalRun]:
    """A run of two attempts, of which one goes back, and a long one."""
    lines: list[Line] = [
        Row(i, i, 1.0 + i, {"a": i / 3, **({"late": i} if i > 60 else {}), "other": 1})
        for i in range(100)
    ]
    lines[50] = Row(50, 50, 1.5, {"a": math.nan, "b": math.inf})
    write_attempt(tmp_path, "two", *lines, Console("stdout", "text\n"))
    write_attempt(tmp_path, "two", *rows_of({"a": [1.0, 2.0], "b": [True]}, first_step=90))
    write_attempt(tmp_path, "long", *rows_of({"a": [i / 7 for i in range(9_000)]}))
    return [find_run("two"), find_run("long")]


def told(runs: list[LocalRun]) -> list[dict[str, tuple[list[float], list[float]]]]:
    """Return the lines of all metrics but one, in a form that can be compared."""
    found = read_curves(runs, lambda name: name != "other")
    return [
        {name: (one.steps.tolist(), one.values.tolist()) for name, one in sorted(lines.items())}
        for lines in found
    ]


def test_lines_are_the_same_without_pyarrow(
    runs: list[LocalRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which only makes it quicker."""
    with_it = told(runs)
    monkeypatch.setitem(sys.modules, "pyarrow", None)

    assert repr(told(runs)) == repr(with_it)
    assert [sorted(lines) for lines in with_it] == [["a", "b", "late"], ["a"]]
    steps, values = with_it[0]["a"]
    assert repr(steps) == repr([*map(float, range(100)), math.nan, 90.0, 91.0])
    assert repr(values[49:52]) == repr([49 / 3, math.nan, 51 / 3])
    assert with_it[0]["b"] == ([50.0, 90.0], [math.inf, 1.0])


def test_a_damaged_line_is_left_out_and_named(tmp_path: Path, runs: list[LocalRun]) -> None:
    """As by every other reader."""
    segment = runs[1].segments[0]
    lines = segment.read_bytes().split(b"\n")
    lines[100] = lines[100][:-3]
    segment.write_bytes(b"\n".join(lines))
    read_curves(runs, lambda name: True)

    assert (runs[0].bad_lines, runs[1].bad_lines) == (0, 1)
    assert [damage.line for damage in runs[1].damage] == [101]
