"""Throughput and step times, against numbers computed by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fasttrack.worker.meters import StepMeter


def ticks(*times_s: float, batch: Any = 8) -> tuple[tuple[float, Any], ...]:
    """Return one clock reading for each step."""
    return tuple((at_s, batch) for at_s in times_s)


def alone() -> int:
    """Return the world size of a single process."""
    return 1


def test_the_first_step_of_a_run_gives_nothing() -> None:
    """No interval has ended yet."""
    assert StepMeter(alone).measure(ticks(10.0)) == {}


def test_an_interval_reaches_from_the_last_logged_step() -> None:
    """Four steps in two seconds, after the step that was logged before them."""
    meter = StepMeter(alone)
    meter.measure(ticks(10.0))
    metrics = meter.measure(ticks(10.5, 11.0, 11.5, 12.0))

    assert metrics == pytest.approx(
        {
            "perf/steps_per_sec": 2.0,
            "perf/samples_per_sec": 16.0,
            "perf/step_time_ms/p50": 500.0,
            "perf/step_time_ms/p99": 500.0,
            "perf/step_time_ms/max": 500.0,
        }
    )


def test_a_first_interval_that_starts_in_the_middle_counts_what_it_saw() -> None:
    """Resumed at step 7 of 10: three readings are two steps."""
    metrics = StepMeter(alone).measure(ticks(1.0, 1.25, 2.0))

    assert metrics["perf/steps_per_sec"] == pytest.approx(2.0)
    assert metrics["perf/samples_per_sec"] == pytest.approx(16.0)
    assert metrics["perf/step_time_ms/max"] == pytest.approx(750.0)


def test_samples_are_counted_over_all_ranks() -> None:
    """Each of four ranks has as many as this one; the size is asked once, and late."""
    asked = []

    def world_size() -> int:
        asked.append(True)
        return 4

    meter = StepMeter(world_size)
    meter.measure(ticks(0.0))
    asked_at_first = len(asked)
    rates = [meter.measure(ticks(s + 1.0))["perf/samples_per_sec"] for s in range(3)]

    assert asked_at_first == 0
    assert rates == pytest.approx([32.0] * 3)
    assert len(asked) == 1


def test_percentiles_are_the_nearest_rank() -> None:
    """Steps of 1 to 100 ms, shuffled: p50 is the 50th, p99 the 99th, max the 100th."""
    durations_ms = np.random.default_rng(0).permutation(np.arange(1, 101))
    meter = StepMeter(alone)
    meter.measure(ticks(0.0))
    times_s = np.cumsum(durations_ms / 1e3).tolist()
    metrics = meter.measure(ticks(*times_s))

    assert metrics["perf/step_time_ms/p50"] == pytest.approx(50.0)
    assert metrics["perf/step_time_ms/p99"] == pytest.approx(99.0)
    assert metrics["perf/step_time_ms/max"] == pytest.approx(100.0)
    assert metrics["perf/steps_per_sec"] == pytest.approx(100 / 5.05)


def test_a_single_slow_step_shows_in_max_and_p99_only() -> None:
    """Ten steps: nine of 10 ms, one of 1 s."""
    meter = StepMeter(alone)
    meter.measure(ticks(0.0))
    times_s = [0.01 * n for n in range(1, 10)] + [1.09]
    metrics = meter.measure(ticks(*times_s))

    assert metrics["perf/step_time_ms/p50"] == pytest.approx(10.0)
    assert metrics["perf/step_time_ms/p99"] == pytest.approx(1000.0)
    assert metrics["perf/step_time_ms/max"] == pytest.approx(1000.0)


@pytest.mark.parametrize("unknown", [None, torch.tensor(8), "8", [8]])
def test_an_unknown_batch_size_omits_the_samples_only(unknown: Any) -> None:
    """A tensor is not read: that could wait for the device."""
    meter = StepMeter(alone)
    meter.measure(ticks(0.0))
    metrics = meter.measure([(0.5, 8), (1.0, unknown)])

    assert "perf/samples_per_sec" not in metrics
    assert metrics["perf/steps_per_sec"] == pytest.approx(2.0)


@pytest.mark.parametrize("batch", [8, 8.0, np.int32(8), True])
def test_whatever_counts_is_a_batch_size(batch: Any) -> None:
    """NumPy's integers too; the result is a plain float."""
    meter = StepMeter(alone)
    meter.measure(ticks(0.0))
    rate = meter.measure(ticks(0.5, batch=batch))["perf/samples_per_sec"]

    assert rate == pytest.approx(float(batch) / 0.5)
    assert type(rate) is float


def test_batch_sizes_may_differ_from_step_to_step() -> None:
    """The last batch of an epoch is smaller."""
    meter = StepMeter(alone)
    meter.measure(ticks(0.0))
    metrics = meter.measure([(1.0, 8), (2.0, 2)])

    assert metrics["perf/samples_per_sec"] == pytest.approx(5.0)


def test_an_interval_whose_first_readings_fell_out_is_measured_from_the_oldest_left() -> None:
    """Only so many steps of one interval are kept: no step is timed across the gap."""
    meter = StepMeter(alone, most_ticks=4)
    meter.measure(ticks(0.0))
    metrics = meter.measure(ticks(90.0, 91.0, 92.0, 94.0))

    assert metrics["perf/steps_per_sec"] == pytest.approx(3 / 4.0)
    assert metrics["perf/samples_per_sec"] == pytest.approx(3 * 8 / 4.0)
    assert metrics["perf/step_time_ms/max"] == pytest.approx(2000.0)


def test_the_interval_after_a_truncated_one_is_whole_again() -> None:
    """It starts at the last reading of the one before."""
    meter = StepMeter(alone, most_ticks=4)
    meter.measure(ticks(0.0))
    meter.measure(ticks(90.0, 91.0, 92.0, 94.0))

    assert meter.measure(ticks(94.5))["perf/steps_per_sec"] == pytest.approx(2.0)


def test_a_clock_that_stands_still_gives_nothing() -> None:
    """Two steps within one tick of the clock: no division by zero."""
    meter = StepMeter(alone)
    meter.measure(ticks(1.0))

    assert meter.measure(ticks(1.0)) == {}


def test_no_readings_give_nothing() -> None:
    """Two threads that log the same step can leave one of them without readings.

    That raised IndexError in the worker and took the whole chunk of rows along.
    """
    meter = StepMeter(alone)

    assert meter.measure(ticks()) == {}
    meter.measure(ticks(1.0))
    assert meter.measure(ticks()) == {}
    assert meter.measure(ticks(2.0))["perf/steps_per_sec"] == pytest.approx(1.0)
