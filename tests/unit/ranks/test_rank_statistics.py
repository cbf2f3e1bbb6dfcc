"""What one rank sums up of the records that its worker sees, by a real tracker's calls."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import pytest

from fasttrack.ranks.messages import Window
from fasttrack.ranks.statistics import RankMeter, WindowStatistics, window_width


class Setup:
    """Statistics of windows of ten steps, and the meter."""

    def __init__(self, peak_gb: float | None = None) -> None:
        self.meter = RankMeter(lambda: 4, lambda metric, why: None)
        self.statistics = WindowStatistics(10, self.meter, lambda: peak_gb)

    def log(self, step: int, at_s: float, loss: float, **values: float) -> None:
        """Log a step as the worker has it: measured, then taken."""
        if values:
            tick = ((at_s, 4),)
            self.meter.measure(tick)
            given = {"loss/total": loss, **values}
            record: Any = (step, 1e9, given, None, tick, None, ())
        else:
            assert self.meter.measure(((at_s, 4),)) is not None
            record = (step, at_s, loss, None, 4)
        self.statistics.take([record, (step, at_s, {"a": 1.0})])

    def windows(self) -> deque[Window]:
        """Return those that are complete."""
        return self.statistics.windows


def test_window_has_means_of_finite_values_and_the_count_of_others() -> None:
    """The loss, the gradient norm and the step time; the mean is rounded once."""
    setup = Setup(peak_gb=1.5)
    losses = [0.1] * 8 + [math.nan, math.inf]
    for step, loss in enumerate(losses):
        setup.log(step, 0.5 * step, loss, **({"train/grad_norm": 3.0} if step % 2 else {}))
    assert not setup.windows()

    setup.log(10, 5.25, 7.0)

    (window,) = setup.windows()
    assert (window.turn, window.index, window.last) == (0, 0, 9)
    assert window.values == {
        "loss": math.fsum([0.1] * 8) / 8,
        "grad_norm": 3.0,
        "non_finite": 2.0,
        "step_time_ms": 500.0,
        "step_time_max_ms": 500.0,
        "memory_peak_gb": 1.5,
    }
    assert setup.statistics.steps == 10


def test_open_window_is_closed_as_it_is_at_the_end() -> None:
    """With the last of its steps; a second time there is none."""
    setup = Setup()
    setup.log(10, 0.0, 1.0)
    setup.log(13, 0.5, 2.0)

    setup.statistics.close()
    setup.statistics.close()

    (window,) = setup.windows()
    assert (window.index, window.last) == (1, 13)
    assert window.values["loss"] == 1.5
    assert window.values["step_time_max_ms"] == 500.0


def test_steps_that_go_back_begin_another_turn() -> None:
    """Within a window, or over many."""
    setup = Setup()
    for step in (0, 15, 5, 25, 0, 30):
        setup.log(step, 1.0, 1.0)

    assert [(w.turn, w.index) for w in setup.windows()] == [(0, 0), (0, 1), (1, 0), (1, 2), (2, 0)]


def test_no_number_that_is_not_finite_leaves() -> None:
    """Not even where finite ones have a sum that is too large."""
    setup = Setup()
    for step in range(10):
        setup.log(step, 1.0 + step, 1.7e308)
    setup.log(10, 20.0, math.nan)
    setup.statistics.close()

    first, second = setup.windows()
    assert "loss" not in first.values
    assert second.values == {"non_finite": 1.0, "step_time_ms": 10e3, "step_time_max_ms": 10e3}


@pytest.mark.parametrize(
    ("log_interval", "gpu_stats_interval", "width"),
    [(10, 50, 50), (1, 50, 50), (100, 50, 100), (7, 50, 56)],
)
def test_window_is_a_whole_number_of_logged_steps(
    log_interval: int, gpu_stats_interval: int, width: int
) -> None:
    """As often as GPU metrics, or seldomer."""
    assert window_width(log_interval, gpu_stats_interval) == width


def test_step_that_no_row_can_have_is_in_no_window() -> None:
    """Its number would not fit into a message, nor the row that comes of it into the journal."""
    setup = Setup()
    setup.log(10, 0.0, 1.0)
    setup.log(10**30, 0.5, 2.0)
    setup.log(11, 1.0, 3.0)

    setup.statistics.close()

    (window,) = setup.windows()
    assert (window.turn, window.index, window.last, window.values["loss"]) == (0, 1, 11, 2.0)
