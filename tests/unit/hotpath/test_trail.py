"""The ring of steps that were not logged."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from fasttrack.hotpath.records import LOSS
from fasttrack.hotpath.trail import SLACK, StepTrail


def steps_of(found: Any) -> list[int]:
    """Return the steps of what `take` or `last` returned."""
    return [each.step for each in found]


def test_of_losses_that_are_finite_nothing_is_kept_unless_asked() -> None:
    """Only what somebody has to look at."""
    trail = StepTrail(0)
    for step, loss in enumerate((0.5, torch.tensor(math.inf), torch.tensor(1.0), math.nan)):
        trail.note(step, 4, {LOSS: loss})

    steps, events, lost = trail.take(math.inf)
    assert (steps_of(steps), events, lost) == ([1, 3], [], 0)
    assert steps[0].values == {LOSS: math.inf}
    assert trail.take(math.inf) == ([], [], 0)


def test_all_that_a_step_had_is_kept_in_a_recorder() -> None:
    """Numbers as they are, tensors read, what is no number left out without a word."""
    trail = StepTrail(8)
    given = {LOSS: torch.tensor(0.5), "n": 3, "text": "no", "in": {"a": 1.5}}
    trail.note(7, 4, given)
    (step,) = trail.last(8)

    assert (step.step, step.batch_size, step.pending) == (7, 4, None)
    assert step.values == {LOSS: 0.5, "n": 3, "in.a": 1.5}


def test_steps_that_came_later_than_asked_are_left_for_the_next_time() -> None:
    """A worker that is behind reads in order."""
    trail = StepTrail(8)
    for step in range(4):
        trail.note(step, None, {LOSS: 1.0})
    until_s = trail.last(8)[1].at_s

    assert steps_of(trail.take(until_s)[0]) == [0, 1]
    assert steps_of(trail.take(until_s)[0]) == []
    assert steps_of(trail.take(math.inf)[0]) == [2, 3]


@pytest.mark.parametrize("size", [1, 5])
def test_a_ring_that_is_lapped_counts_what_fell_out(size: int) -> None:
    """And goes on with the steps that it has."""
    trail = StepTrail(size)
    kept = size + SLACK
    for step in range(3 * kept):
        trail.note(step, None, {LOSS: 1.0})
    steps, _, lost = trail.take(math.inf)

    assert steps_of(steps) == list(range(2 * kept, 3 * kept))
    assert lost == 2 * kept
    assert steps_of(trail.last(size)) == list(range(3 * kept - size, 3 * kept))
    trail.note(3 * kept, None, {LOSS: 1.0})
    assert (steps_of(trail.take(math.inf)[0]), trail.take(math.inf)[2]) == ([3 * kept], 0)


def test_marks_that_nobody_takes_do_not_fill_the_memory() -> None:
    """A worker that hangs on the disk, while the device goes on."""
    trail = StepTrail(5)
    kept = 5 + SLACK
    for step in range(3 * kept):
        trail.note(step, None, {LOSS: 1.0})
        trail._unmarked = 1  # as if it had something on a device
        trail.mark()

    assert len(trail._marks) <= kept + 1
    steps, _, lost = trail.take(math.inf)
    assert (steps_of(steps), lost) == (list(range(2 * kept, 3 * kept)), 2 * kept)
