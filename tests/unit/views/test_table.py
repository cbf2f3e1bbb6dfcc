"""Tables of runs: columns, kinds, and rows that come meanwhile."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING

import pytest
from support.journals import append, finish, row, write_attempt

from fasttrack.runs import find_run, list_runs
from fasttrack.views.table import read_table, write_csv

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def segment(tmp_path: Path) -> Path:
    """The last segment of a run of two attempts."""
    write_attempt(tmp_path, "ab", row(0, 0, 1.0, loss=0.1, n=1, seq=7), row(1, 1, 2.0, n=2**63))
    return write_attempt(tmp_path, "ab", row(0, 1, 3.0, ok=True, loss=math.nan), finish())


def test_columns_are_named_and_their_kinds_known(segment: Path) -> None:
    """A metric gives way to a column of our own; an integer beyond 64 bits makes it a double."""
    table = read_table([find_run("ab")])

    assert table.names == ["attempt", "seq", "step", "time", "loss", "n", "metric/seq", "ok"]
    assert table.integers == {"metric/seq", "ok"}
    assert table.count == 3


def test_records_leave_out_what_a_row_does_not_have(segment: Path) -> None:
    """True is 1: no other program would add it up."""
    first, second, third = read_table([find_run("ab")]).records()

    assert first == {
        **{"attempt": 1, "seq": 0, "step": 0, "time": 1.0},
        **{"loss": 0.1, "n": 1, "metric/seq": 7},
    }
    assert second == {"attempt": 1, "seq": 1, "step": 1, "time": 2.0, "n": 2**63}
    assert third["ok"] == 1
    assert type(third["ok"]) is int


def test_several_runs_have_a_first_column_of_their_ids(segment: Path, tmp_path: Path) -> None:
    """Run after run, with the columns of all of them; a metric of that name gives way."""
    write_attempt(tmp_path, "cd", row(0, 5, 9.0, run=3.0, loss=2.0), time_s=1e12)
    table = read_table(list_runs())

    assert table.names[:6] == ["run", "attempt", "seq", "step", "time", "loss"]
    assert "metric/run" in table.names
    assert [record["run"] for record in table.records()] == ["ab", "ab", "ab", "cd"]
    assert list(table.records())[-1]["metric/run"] == 3.0


def test_rows_that_come_while_it_is_read_wait_for_the_next_table(segment: Path) -> None:
    """The columns are known by then; a row with a new metric would not fit."""
    table = read_table([find_run("ab")])
    append(segment, row(1, 9, new=1))
    written = io.BytesIO()
    write_csv(table, written)

    assert written.getvalue().count(b"\n") == 4
    assert b"new" not in written.getvalue()
    assert read_table([find_run("ab")]).names[-1] == "new"
