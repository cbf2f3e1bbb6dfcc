"""When delivery must be over."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from support.deliveries import BEGAN_S, ManualClock, Trainer

from fasttrack.delivery.ending import Ending, EndingWatch


@pytest.fixture
def clock() -> ManualClock:
    """Time that only pauses move."""
    return ManualClock()


@pytest.fixture
def trainer(tmp_path: Path, clock: ManualClock) -> Trainer:
    """One that has just begun."""
    return Trainer(tmp_path / "r1", clock)


def watch(trainer: Trainer) -> EndingWatch:
    """Watch it; without a word delivery gets 20 s."""
    return EndingWatch(
        trainer.writer.path,
        20.0,
        trainer_alive=lambda: trainer.alive,
        clock=trainer.clock,
        pause=trainer.clock.pause,
    )


def test_while_the_trainer_is_there_there_is_no_end(trainer: Trainer) -> None:
    """And no deadline."""
    ending = watch(trainer)

    assert ending.find() is None
    assert ending.seconds_left() == math.inf


def test_the_finish_line_says_how_it_ended(trainer: Trainer) -> None:
    """Exit code, whether it goes on, and until when the trainer waits."""
    trainer.finish(3, preempting=True, within_s=60)

    assert watch(trainer).find() == Ending(3, True, BEGAN_S + 60)


def test_a_trainer_that_vanished_gives_delivery_its_usual_time(trainer: Trainer) -> None:
    """From when that was noticed; it counts as failed."""
    ending = watch(trainer)
    trainer.vanish()
    trainer.clock.pause(5)

    assert ending.find() == Ending(1, False, BEGAN_S + 25)
    trainer.clock.pause(5)
    assert ending.seconds_left() == 15


def test_a_wait_ends_when_the_trainer_leaves(trainer: Trainer) -> None:
    """Then there is a deadline, and something may have to be done before it."""
    ending = watch(trainer)
    trainer.clock.at(2, trainer.finish)
    ending.wait(300)

    assert 2 <= trainer.clock.elapsed_s < 3


def test_a_wait_never_goes_past_the_deadline(trainer: Trainer) -> None:
    """Nor does it go on where none is left."""
    trainer.finish(within_s=4)
    ending = watch(trainer)
    ending.wait(300)
    waited_s = trainer.clock.elapsed_s
    ending.wait(300)

    assert 4 <= waited_s < 5
    assert trainer.clock.elapsed_s == waited_s


def test_time_given_by_hand_moves_the_deadline_of_one_that_has_left(trainer: Trainer) -> None:
    """Of one that is there, nothing: it has none."""
    ending = watch(trainer)
    ending.give_time(100)
    before = ending.seconds_left()
    trainer.finish(within_s=0)
    ending.give_time(100)

    assert (before, ending.seconds_left()) == (math.inf, 100)


def test_one_that_has_not_said_so_counts_as_vanished_when_it_must(trainer: Trainer) -> None:
    """The session has to be finished with some exit code."""
    assert watch(trainer).find_or_vanished() == Ending(1, False, BEGAN_S + 20)
