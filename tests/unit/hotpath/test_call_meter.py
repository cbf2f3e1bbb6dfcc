"""The sample of call times: what it stands for, and that it goes on."""

from __future__ import annotations

import pytest

from fasttrack.hotpath.call_meter import FIRST, LOGGED, METRICS, SKIPPED, CallMeter


def test_without_calls_there_are_no_percentiles() -> None:
    """Nothing timed is not the same as no time."""
    assert CallMeter().percentiles_us() is None
    assert CallMeter().mean_s(LOGGED) is None


def test_each_timed_call_stands_for_those_beside_it() -> None:
    """One skipped call in 17 and one logged in 8 are timed; p50 is then a skipped call's."""
    meter = CallMeter()
    meter.timed.extend([(LOGGED, 50e-6, 0.0)] * 2 + [(SKIPPED, 2e-6, 0.0)])

    assert meter.percentiles_us() == pytest.approx((2.0, 50.0))
    meter.timed.extend([(LOGGED, 50e-6, 0.0)] * 10)
    assert meter.percentiles_us() == pytest.approx((50.0, 50.0))


def test_a_rare_slow_call_is_p99_only() -> None:
    """Nearest rank, over weighted calls."""
    meter = CallMeter()
    meter.timed.extend([(METRICS, 1e-6, 0.0)] * 12 + [(LOGGED, 900e-6, 0.0)])

    assert meter.percentiles_us() == pytest.approx((1.0, 900.0))


def test_the_first_call_stands_for_itself_alone() -> None:
    """It is there from the start, and slow: nothing is judged by it."""
    meter = CallMeter()
    meter.timed.append((FIRST, 900e-6, 0.0))

    assert meter.percentiles_us() == pytest.approx((900.0, 900.0))
    assert meter.mean_s(LOGGED) is None
    meter.timed.extend([(LOGGED, 9e-6, 0.0)] * 13)
    assert meter.percentiles_us() == pytest.approx((9.0, 9.0))


def test_the_mean_is_of_one_kind() -> None:
    """Kinds differ by orders of magnitude."""
    meter = CallMeter()
    meter.timed.extend([(LOGGED, 4.0, 0.0), (SKIPPED, 1.0, 1.0), (LOGGED, 6.0, 2.0)])

    assert meter.mean_s(LOGGED) == 5.0
    assert meter.mean_s(SKIPPED) == 1.0
    assert meter.mean_s(LOGGED, since_s=1.5) == 6.0
    assert meter.mean_s(SKIPPED, since_s=1.5) is None


def test_memory_is_bounded() -> None:
    """A run of any length keeps the last calls only."""
    meter = CallMeter()
    for _ in range(100_000):
        meter.timed.append((LOGGED, 1e-6, 0.0))

    assert len(meter.timed) < 2000
