"""Calls that never meet the log interval are pointed out while they happen, and no others are."""

from __future__ import annotations

import itertools
import random
from typing import TYPE_CHECKING

import pytest
from support.step_loggers import Bench
from support.trackers import Trackers

if TYPE_CHECKING:
    from collections.abc import Iterable

SAID = "log_training_step logs nothing: it logs the steps that log_interval="


def call_at(bench: Bench, steps: Iterable[int]) -> int | None:
    """Log these steps as the tracker does; return at which something was said."""
    for step in steps:
        bench.log(step)
        bench.ring.pop(1)
        if "meeting" in bench.notices._said:
            return step
    return None


@pytest.mark.parametrize(
    ("interval", "steps"),
    [
        (10, range(9, 1000, 10)),  # if (step + 1) % 10 == 0
        (10, range(55, 10_000, 100)),
        (10, range(1, 1000, 2)),
        (2, range(1, 1000, 2)),
        (1000, range(1, 100_000, 8)),
        (1000, range(9, 100_000, 10)),
        (100, range(49, 100_000, 50)),
        (10, itertools.chain.from_iterable([step] * 4 for step in range(9, 1000, 10))),
        (10, itertools.chain(range(100), range(109, 2000, 10))),
    ],
    ids=range(9),
)
def test_calls_at_steps_that_never_meet_the_interval_are_pointed_out(
    capsys: pytest.CaptureFixture[str], interval: int, steps: Iterable[int]
) -> None:
    """While it happens, with what to do."""
    bench = Bench(log_interval=interval)
    said_at = call_at(bench, steps)

    assert said_at is not None
    heard = capsys.readouterr().err
    assert f"{SAID}{interval} divides" in heard
    assert "pass log_interval=1" in heard


@pytest.mark.parametrize(
    ("interval", "steps"),
    [
        (1000, range(1, 950)),  # a short run of a usual loop
        (10, range(3, 5000)),
        (10, range(0, 5000, 10)),
        (10, range(0, 50_000, 512)),  # counted in samples
        (1000, range(7, 100_000, 3)),
        (10, range(1, 90_000, 7)),
        (10, itertools.chain.from_iterable([step] * 8 for step in range(1, 400))),  # micro-batches
        (10, itertools.chain(*[range(1, 9)] * 50)),  # short epochs, counted anew
        (10, range(5000, 0, -1)),
        (1, range(1, 1000, 2)),
        (7, random.Random(0).sample(range(100_000), 2000)),
        (64, sorted(random.Random(1).sample(range(100_000), 2000))),
    ],
    ids=range(12),
)
def test_usual_loops_hear_nothing(interval: int, steps: Iterable[int]) -> None:
    """Whatever their stride, their beginning and their length."""
    assert call_at(Bench(log_interval=interval), steps) is None


def test_a_run_that_logged_none_of_its_calls_says_so_at_its_end(
    make: Trackers, capsys: pytest.CaptureFixture[str]
) -> None:
    """Too short to be sure of while it ran."""
    tracker = make(log_interval=10)
    for step in range(1, 8):
        tracker.log_training_step(0.5, step)
    tracker.log_metrics({"a": 1})
    tracker.finish()

    said = capsys.readouterr().err
    assert f"{SAID}10 divides, and is called at others only, the last time at 7." in said


def test_a_run_that_logged_some_says_nothing_at_its_end(
    make: Trackers, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor one that only logs other metrics."""
    first, second = make(log_interval=1000), make()
    for step in range(50):
        first.log_training_step(None, step)
    second.log_metrics({"a": 1}, 5)
    first.finish()
    second.finish()

    assert SAID not in capsys.readouterr().err


def test_it_is_said_once(make: Trackers, capsys: pytest.CaptureFixture[str]) -> None:
    """While it happens, and not again at the end."""
    tracker = make(log_interval=10)
    for step in range(9, 2000, 10):
        tracker.log_training_step(0.5, step)
    heard = capsys.readouterr().err
    tracker.finish()

    assert heard.count(SAID) == 1
    assert SAID not in capsys.readouterr().err
