"""What the journal is told of steps that are in no row, by a real tracker."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.journals import read_entries
from support.trackers import Trackers, journal_only

from fasttrack.hotpath.records import FellOut, PausedSince
from fasttrack.journal.entries import Finish, Unlogged
from fasttrack.worker.unlogged import after_last

if TYPE_CHECKING:
    from pathlib import Path

    from fasttrack import ExperimentTracker


@pytest.fixture
def tracker(tmp_path: Path) -> ExperimentTracker:
    """A tracker that logs every tenth step."""
    return Trackers()(log_interval=10, options=journal_only(find_pauses=False))


def told(tracker: ExperimentTracker) -> tuple[list[Unlogged], Finish]:
    """Finish the run; return what its journal says."""
    tracker.finish()
    run_dir = tracker.get_run_dir()
    assert run_dir is not None
    (finish,) = read_entries(run_dir, Finish)
    return read_entries(run_dir, Unlogged), finish


def test_steps_before_the_first_row_and_behind_the_last_are_told(
    tracker: ExperimentTracker,
) -> None:
    """Resumed at step 3, ended behind 27, with an evaluation at the end."""
    for step in range(3, 28):
        tracker.log_training_step(1.0, step)
    with tracker.pause():
        pass
    (before, after), finish = told(tracker)

    assert (before.steps, after.steps, finish.last_step) == (7, 7, 27)
    assert before.first_s < before.last_s < after.first_s < after.last_s <= finish.time_s
    assert before.trained_s == pytest.approx(before.last_s - before.first_s, abs=1e-3)
    assert after.trained_s > 0
    assert after.pause_s > 0


def test_where_each_step_has_a_row_nothing_is_told(tmp_path: Path) -> None:
    """The journal of most runs is as it was."""
    tracker = Trackers()(log_interval=1)
    for step in range(3):
        tracker.log_training_step(1.0, step)
    tracker.log_metrics({"a": 1.0}, step=7)
    unlogged, finish = told(tracker)

    assert (unlogged, finish.last_step) == ([], 2)


def test_a_run_that_came_to_no_row_has_its_steps(tracker: ExperimentTracker) -> None:
    """It was stopped too soon."""
    for step in range(11, 14):
        tracker.log_training_step(1.0, step)
    (only,), finish = told(tracker)

    assert (only.steps, finish.last_step) == (3, 13)


def test_pauses_are_left_out_of_training_and_one_that_lasts_counts_up_to_the_end() -> None:
    """They may overlap; what fell out of a long interval is passed over."""
    ticks = [(11.0, FellOut), (12.0, 4), (15.0, PausedSince(13.0)), (18.0, None)]
    after = after_last(ticks, 10.0, [14.5, 19.0], 21.0)
    alone = after_last([(15.0, PausedSince(13.0))], None, [], 21.0)

    assert after is not None
    assert (after.steps, after.trained_s) == (2, 3.0)
    assert after.pause_s == 8.0
    assert alone is not None
    assert (alone.steps, alone.first_s, alone.pause_s) == (0, 0.0, 2.0)
    assert after_last([], 10.0, [], 21.0) is None
