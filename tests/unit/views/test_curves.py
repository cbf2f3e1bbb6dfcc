"""Lines read from journals: the same with pyarrow and without it."""

from __future__ import annotations

import math
import os
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support.journals import Line, append, finish, rows_of, write_attempt

from fasttrack.journal.entries import Console
from fasttrack.journal.rows import Row
from fasttrack.runs import find_run, kept_curves
from fasttrack.runs.kept_curves import load_curves, save_curves
from fasttrack.views import curves
from fasttrack.views.curves import read_curves

if TYPE_CHECKING:
    from pathlib import Path

    from fasttrack.runs import LocalRun
    from fasttrack.views.curves import ReadRun


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
    found = read_curves(runs, ["a", "b", "l*"])
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
    read_curves(runs)

    assert (runs[0].bad_lines, runs[1].bad_lines) == (0, 1)
    assert [damage.line for damage in runs[1].damage] == [101]


def test_lines_of_runs_that_have_ended_are_kept(
    runs: list[LocalRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And those of others are not: they go on. What has changed since is read anew."""
    append(runs[0].segments[-1], finish())
    before = told(runs)
    read: list[LocalRun] = []
    in_earnest = curves._read_columns

    def read_and_note(run: LocalRun, *rest: Any) -> ReadRun | None:
        read.append(run)
        return in_earnest(run, *rest)

    monkeypatch.setattr(curves, "_read_columns", read_and_note)

    assert repr(told(runs)) == repr(before)
    assert read == [runs[1]]
    assert read_curves([runs[0]], ["late"])[0].keys() == {"late"}
    assert read == [runs[1], runs[0]]
    write_attempt(runs[0].directory.parents[2], "two", Row(0, 200, 1.0, {"late": 0.5}), finish())
    assert told(runs)[0]["late"][1][-1] == 0.5


@pytest.mark.parametrize("change", ["cut", "spoil", "empty"])
def test_what_is_kept_and_not_whole_is_read_anew(
    runs: list[LocalRun], tmp_path: Path, change: str
) -> None:
    """A cache may be broken; the picture must not."""
    append(runs[0].segments[-1], finish())
    before = told(runs)
    (kept,) = (tmp_path / "home" / ".cache" / "fasttrack" / "curves").iterdir()
    whole = kept.read_bytes()
    spoiled = whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:]
    kept.write_bytes({"cut": whole[:-8], "spoil": spoiled, "empty": b""}[change])

    assert repr(told(runs)) == repr(before)
    assert kept.read_bytes() == whole
    assert kept.stat().st_mode & 0o777 == 0o600


def test_a_cache_that_cannot_be_written_is_done_without(
    runs: list[LocalRun], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A home that is full or not there is nothing to bother users with."""
    append(runs[0].segments[-1], finish())
    before = told(runs)
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))

    assert repr(told(runs)) == repr(before)


def test_the_oldest_of_too_many_files_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that nobody has to look after them."""
    monkeypatch.setattr(kept_curves, "_MOST_FILES", 10)
    directory = tmp_path / "home" / ".cache" / "fasttrack" / "curves"
    for number in range(11):
        save_curves(f"key{number}", {"a": (np.zeros(2), np.ones(2))})
        os.utime(directory / f"key{number}", (number, number))
    save_curves("last", {})

    left = {path.name for path in directory.iterdir()}
    assert "key0" not in left
    assert {"key9", "key10", "last"} <= left
    assert load_curves("last") == {}
    assert load_curves("key9")["a"][1].tolist() == [1.0, 1.0]  # type: ignore[index]
