"""What the summary of a run says of its goodput, and when it says nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.journals import row, write_attempt

from fasttrack.delivery import goodput_summary as module
from fasttrack.delivery.goodput_summary import goodput_summary

if TYPE_CHECKING:
    from pathlib import Path


def attempts(base: Path, name: str) -> list[Path]:
    """Write a run of two attempts, the second of which goes back by two steps."""
    found = []
    for first in (0, 8):
        rows = [
            row(place, first + place, 1001.0 + 10 * first + place, **{name: 0.5})
            for place in range(10)
        ]
        found.append(write_attempt(base, "run", *rows, time_s=1000.0 + 10 * first))
    return found


def test_the_figures_of_the_whole_run_are_told(tmp_path: Path) -> None:
    """As values that a table of runs can be sorted by."""
    assert goodput_summary(attempts(tmp_path, "loss__total")) == {
        "goodput/share": pytest.approx(0.2),
        "goodput/wall_s": 90.0,
        "goodput/lost_steps": 2,
        "goodput/lost_s": 2.0,
        "goodput/restarts": 1,
        "goodput/restart_s": 70.0,
        "goodput/pause_s": 0.0,
    }


def test_nothing_is_told_where_no_row_is_a_training_steps(tmp_path: Path) -> None:
    """A script's own metrics are not for us to judge."""
    assert goodput_summary(attempts(tmp_path, "a")) == {}


def test_a_long_journal_does_not_hold_up_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It can be looked at later. One that is gone is somebody else's to tell."""
    paths = attempts(tmp_path, "loss__total")
    assert goodput_summary([*paths, tmp_path / "gone"]) == {}

    monkeypatch.setattr(module, "_MOST_BYTES", sum(path.stat().st_size for path in paths) - 1)
    assert goodput_summary(paths) == {}
