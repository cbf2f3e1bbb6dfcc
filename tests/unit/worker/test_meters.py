"""Throughput and step times, against numbers computed by hand."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from fasttrack.hotpath.records import FellOut, OddSize, PausedSince
from fasttrack.worker.meters import StepMeter

if TYPE_CHECKING:
    from collections.abc import Callable


def ticks(*times_s: float, batch: Any = 8) -> tuple[tuple[float, Any], ...]:
    """Return one clock reading for each step."""
    return tuple((at_s, batch) for at_s in times_s)


def alone() -> int:
    """Return the world size of a single process."""
    return 1


def a_meter(world_size: Callable[[], int], **options: Any) -> StepMeter:
    """Return a meter that nothing is wrong for."""

    def refuse(metric: str, why: str) -> None:
        raise AssertionError(f"{metric}: {why}")

    return StepMeter(world_size, refuse, **options)


def test_the_first_step_of_a_run_gives_nothing() -> None:
    """No interval has ended yet."""
    assert a_meter(alone).measure(ticks(10.0)) == {}


def test_an_interval_reaches_from_the_last_logged_step() -> None:
    """Four steps in two seconds, after the step that was logged before them."""
    meter = a_meter(alone)
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
    metrics = a_meter(alone).measure(ticks(1.0, 1.25, 2.0))

    assert metrics["perf/steps_per_sec"] == pytest.approx(2.0)
    assert metrics["perf/samples_per_sec"] == pytest.approx(16.0)
    assert metrics["perf/step_time_ms/max"] == pytest.approx(750.0)


def test_a_steady_step_is_metered_as_any_other() -> None:
    """The short way for intervals of one step gives what the long one does, to the last bit."""
    times_s = [1.0, 1.1, 1.35, 1.4000001, 2.2, 2.3, 2.2, 2.9]
    long_way = a_meter(alone)
    long_way.add_usual = lambda *_: False  # type: ignore[method-assign]
    meter = a_meter(alone)

    def measured(meter: StepMeter) -> list[Any]:
        found = []
        for at_s in times_s:
            metrics = meter.measure(ticks(at_s))
            found.append((list(metrics.items()), meter.steps, meter.paused_s, [*meter._recent]))
        return found

    assert measured(meter) == measured(long_way)


def test_samples_are_counted_over_all_ranks() -> None:
    """Each of four ranks has as many as this one; the size is asked once, and late."""
    asked = []

    def world_size() -> int:
        asked.append(True)
        return 4

    meter = a_meter(world_size)
    meter.measure(ticks(0.0))
    asked_at_first = len(asked)
    rates = [meter.measure(ticks(s + 1.0))["perf/samples_per_sec"] for s in range(3)]

    assert asked_at_first == 0
    assert rates == pytest.approx([32.0] * 3)
    assert len(asked) == 1


def test_percentiles_are_the_nearest_rank() -> None:
    """Steps of 1 to 100 ms, shuffled: p50 is the 50th, p99 the 99th, max the 100th."""
    durations_ms = np.random.default_rng(0).permutation(np.arange(1, 101))
    meter = a_meter(alone)
    meter.measure(ticks(0.0))
    times_s = np.cumsum(durations_ms / 1e3).tolist()
    metrics = meter.measure(ticks(*times_s))

    assert metrics["perf/step_time_ms/p50"] == pytest.approx(50.0)
    assert metrics["perf/step_time_ms/p99"] == pytest.approx(99.0)
    assert metrics["perf/step_time_ms/max"] == pytest.approx(100.0)
    assert metrics["perf/steps_per_sec"] == pytest.approx(100 / 5.05)


def test_a_single_slow_step_shows_in_max_and_p99_only() -> None:
    """Ten steps: nine of 10 ms, one of 1 s."""
    meter = a_meter(alone)
    meter.measure(ticks(0.0))
    times_s = [0.01 * n for n in range(1, 10)] + [1.09]
    metrics = meter.measure(ticks(*times_s))

    assert metrics["perf/step_time_ms/p50"] == pytest.approx(10.0)
    assert metrics["perf/step_time_ms/p99"] == pytest.approx(1000.0)
    assert metrics["perf/step_time_ms/max"] == pytest.approx(1000.0)


def test_a_step_without_a_batch_size_omits_the_samples_without_a_word() -> None:
    """Nothing is wrong with that."""
    meter = a_meter(alone)
    meter.measure(ticks(0.0))
    metrics = meter.measure([(0.5, 8), (1.0, None)])

    assert "perf/samples_per_sec" not in metrics
    assert metrics["perf/steps_per_sec"] == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (torch.tensor(8), "Tensor"),
        ("8", "str '8'"),
        ([8], "list"),
        (OddSize("Tensor"), "Tensor"),
        (-8, "-8"),
        (np.int64(-8), "np.int64(-8)"),
        (math.nan, "float nan"),
        (math.inf, "float inf"),
        (True, "bool True"),
        (2**63, "9223372036854775808"),
        (10**5000, "<int whose repr() raises>"),
        (np.float16(-1), "np.float16(-1.0)"),
        (np.float32(math.nan), "np.float32(nan)"),
    ],
    ids=range(13),
)
def test_a_wrong_batch_size_omits_the_samples_only_and_is_refused(wrong: Any, said: str) -> None:
    """A tensor is not read: that could wait for the device."""
    refused: list[tuple[str, str]] = []
    meter = StepMeter(alone, lambda *told: refused.append(told))
    meter.measure(ticks(0.0))
    metrics = meter.measure([(0.5, 8), (1.0, wrong)])

    assert "perf/samples_per_sec" not in metrics
    assert metrics["perf/steps_per_sec"] == pytest.approx(2.0)
    assert refused == [
        (
            "perf/samples_per_sec",
            f"batch_size must be this rank's number of samples, not {said}; pass an int, such as "
            "len(batch)",
        )
    ]


@pytest.mark.parametrize("batch", [8, 8.0, np.int32(8), np.float32(8), 0])
def test_whatever_counts_is_a_batch_size(batch: Any) -> None:
    """NumPy's integers too; the result is a plain float."""
    meter = a_meter(alone)
    meter.measure(ticks(0.0))
    rate = meter.measure(ticks(0.5, batch=batch))["perf/samples_per_sec"]

    assert rate == pytest.approx(float(batch) / 0.5)
    assert type(rate) is float


def test_numpys_narrow_integers_do_not_overflow() -> None:
    """Ten times 200 in eight bits were 208."""
    meter = a_meter(alone)
    meter.measure(ticks(0.0))
    metrics = meter.measure([(0.1 * n, np.uint8(200)) for n in range(1, 11)])

    assert metrics["perf/samples_per_sec"] == pytest.approx(2000.0)


def test_batch_sizes_may_differ_from_step_to_step() -> None:
    """The last batch of an epoch is smaller."""
    meter = a_meter(alone)
    meter.measure(ticks(0.0))
    metrics = meter.measure([(1.0, 8), (2.0, 2)])

    assert metrics["perf/samples_per_sec"] == pytest.approx(5.0)


def test_an_interval_whose_first_readings_fell_out_is_measured_from_the_oldest_left() -> None:
    """Only so many steps are kept until the worker comes: no step is timed across the gap."""
    meter = a_meter(alone)
    meter.measure(ticks(0.0))
    metrics = meter.measure([(50.0, FellOut), *ticks(90.0, 91.0, 92.0, 94.0)])

    assert metrics["perf/steps_per_sec"] == pytest.approx(3 / 4.0)
    assert metrics["perf/samples_per_sec"] == pytest.approx(3 * 8 / 4.0)
    assert metrics["perf/step_time_ms/max"] == pytest.approx(2000.0)


def test_the_interval_after_a_truncated_one_is_whole_again() -> None:
    """It starts at the last reading of the one before."""
    meter = a_meter(alone)
    meter.measure(ticks(0.0))
    meter.measure([(50.0, FellOut), *ticks(90.0, 91.0, 92.0, 94.0)])

    assert meter.measure(ticks(94.5))["perf/steps_per_sec"] == pytest.approx(2.0)


def test_a_clock_that_stands_still_gives_nothing() -> None:
    """Two steps within one tick of the clock: no division by zero."""
    meter = a_meter(alone)
    meter.measure(ticks(1.0))

    assert meter.measure(ticks(1.0)) == {}


def test_no_readings_give_nothing() -> None:
    """Two threads that log the same step can leave one of them without readings.

    That raised IndexError in the worker and took the whole chunk of rows along.
    """
    meter = a_meter(alone)

    assert meter.measure(ticks()) == {}
    meter.measure(ticks(1.0))
    assert meter.measure(ticks()) == {}
    assert meter.measure(ticks(2.0))["perf/steps_per_sec"] == pytest.approx(1.0)


# --- pauses ---------------------------------------------------------------------------------------

STEP_S = 0.02
RATE = pytest.approx(1 / STEP_S, rel=0.02)


def train(
    meter: StepMeter,
    seconds: list[float],
    *,
    interval: int = 10,
    marked: dict[int, tuple[float, float]] | None = None,
) -> list[dict[str, float]]:
    """Train steps of such lengths from a first reading at 0; return the metrics of each row.

    Args:
        meter: meters them.
        seconds: what each step takes, a pause in it included.
        interval: of the steps from 0 on, every such one is a row.
        marked: in the step of this index a pause, from so many seconds after its beginning for so
            many.
    """
    now_s = 100.0
    rows = [meter.measure([(now_s, 4)])]
    waiting: list[tuple[float, Any]] = []
    for number, step_s in enumerate(seconds):
        if marked and number in marked:
            after_s, paused_s = marked[number]
            since = PausedSince(now_s + after_s)
            waiting.append((since + paused_s, since))
        now_s += step_s
        waiting.append((now_s, 4))
        if (number + 1) % interval == 0:
            rows.append(meter.measure(waiting))
            waiting = []
    return rows[1:]


def steps_with(pauses: dict[int, float], steps: int = 100) -> list[float]:
    """Return the lengths of so many steps, of which these hold a pause besides."""
    return [STEP_S + pauses.get(number, 0.0) for number in range(steps)]


@pytest.mark.parametrize("interval", [1, 2, 10, 50])
@pytest.mark.parametrize(
    "where",
    [[55], [60], [59], [29, 30], [*range(10, 100, 10)], [19, 20, 21, 80], [13, 47, 68, 91]],
    ids=str,
)
def test_throughput_does_not_count_what_is_plainly_a_pause(interval: int, where: list[int]) -> None:
    """An evaluation of 2 s gave 4.5 instead of 50 steps/s; its time is a metric of its own."""
    kept = [number for number in where if number not in (21,)]  # three in a row are no pauses
    rows = train(a_meter(alone), steps_with(dict.fromkeys(kept, 2.0)), interval=interval)

    assert [row["perf/steps_per_sec"] for row in rows] == [RATE] * len(rows)
    assert [row["perf/samples_per_sec"] for row in rows] == [pytest.approx(200, rel=0.02)] * len(
        rows
    )
    paused_s = [row.get("perf/pause_s", 0.0) for row in rows]
    assert sum(paused_s) == pytest.approx(2.0 * len(kept))
    assert sum(map(bool, paused_s)) == len({number // interval for number in kept})


def test_a_pause_that_nobody_marked_is_still_the_longest_step() -> None:
    """Nothing is hidden."""
    row = train(a_meter(alone), steps_with({5: 2.0}, steps=10))[0]

    assert row["perf/step_time_ms/max"] == pytest.approx(2020.0)
    assert row["perf/step_time_ms/p50"] == pytest.approx(20.0)


@pytest.mark.parametrize(
    "seconds",
    [
        [*[0.01] * 9, 0.1] * 20,  # gradient accumulation
        [*[0.02] * 7, 0.4] * 20,
        [*[1.0] * 7, 12.0] * 20,  # an optimizer step in the host's memory
        [*[0.02] * 3, 0.9] * 30,  # every fourth batch is waited for
        [0.02, 2.0] * 50,
        [0.02, 0.02, 0.02, 0.45] * 30,  # a stall below half a second
        [30.0] * 40,
        [*[30.0] * 19, 200.0] * 5,
        [0.3 * (1 + number % 9) for number in range(100)],  # sequences of all lengths
        [1.5 + 0.01 * number for number in range(100)],
    ],
    ids=range(10),
)
@pytest.mark.parametrize("interval", [1, 10])
def test_steps_of_several_lengths_are_all_training(interval: int, seconds: list[float]) -> None:
    """What comes often, or is not many times as long, counts."""
    rows = train(a_meter(alone), seconds, interval=interval)

    later = rows[60 // interval :]  # when it is known how often the long ones come
    assert [row for row in later if "perf/pause_s" in row] == []
    elapsed_s = sum(interval / row["perf/steps_per_sec"] for row in later)
    assert elapsed_s == pytest.approx(
        sum(seconds[60 // interval * interval : len(seconds) // interval * interval])
    )


def test_steps_that_become_long_for_good_are_no_pauses() -> None:
    """A hundred times as long: the first two seem pauses, the third is how it is now."""
    rows = train(a_meter(alone), [0.02] * 50 + [2.0] * 150, interval=10)

    assert ["perf/pause_s" in row for row in rows] == [False] * 5 + [True] + [False] * 14
    assert rows[-1]["perf/steps_per_sec"] == pytest.approx(0.5)


def test_steps_that_become_short_again_do_not_keep_pauses_unseen_for_long() -> None:
    """The median follows within half of what it is taken of."""
    rows = train(a_meter(alone), [2.0] * 100 + [0.02] * 50 + [2.02] + [0.02] * 9, interval=10)

    assert rows[-1]["perf/steps_per_sec"] == RATE


def test_before_anything_is_usual_nothing_is_a_pause() -> None:
    """The first steps after the first reading may be whatever they are."""
    rows = train(a_meter(alone), [2.0, 0.02, 0.02], interval=1)

    assert not any("perf/pause_s" in row for row in rows)


def test_recognising_pauses_can_be_switched_off() -> None:
    """Then only marked ones count."""
    row = train(a_meter(alone, find_pauses=False), steps_with({5: 2.0}, steps=10))[0]

    assert row["perf/steps_per_sec"] == pytest.approx(10 / 2.2)
    assert "perf/pause_s" not in row


@pytest.mark.parametrize("find_pauses", [True, False])
@pytest.mark.parametrize("interval", [1, 3, 10])
@pytest.mark.parametrize("paused_s", [0.001, 0.1, 2.0, 600.0])
def test_marked_pauses_are_left_out_to_the_microsecond(
    interval: int, paused_s: float, find_pauses: bool
) -> None:
    """However short, however often, of throughput and of step times."""
    where = (0, 7, 8, 9, 20, 29)
    rows = train(
        a_meter(alone, find_pauses=find_pauses),
        steps_with(dict.fromkeys(where, paused_s), steps=30),
        interval=interval,
        marked=dict.fromkeys(where, (0.01, paused_s)),
    )

    assert [row["perf/steps_per_sec"] for row in rows] == [pytest.approx(50.0)] * len(rows)
    assert [row["perf/step_time_ms/max"] for row in rows] == [pytest.approx(20.0)] * len(rows)
    assert sum(row.get("perf/pause_s", 0.0) for row in rows) == pytest.approx(6 * paused_s)


def test_pauses_within_one_another_count_once() -> None:
    """Nested, overlapping from another thread, and one over several steps."""
    meter = a_meter(alone)
    meter.measure(ticks(0.0))
    metrics = meter.measure(
        [
            (2.0, PausedSince(1.5)),
            (3.0, PausedSince(1.0)),
            (3.5, PausedSince(2.5)),
            (4.0, 8),
            (5.0, 8),
            (5.5, PausedSince(4.5)),
            (6.0, 8),
        ]
    )

    assert metrics["perf/pause_s"] == pytest.approx(3.5)
    assert metrics["perf/steps_per_sec"] == pytest.approx(3 / 2.5)
    assert metrics["perf/samples_per_sec"] == pytest.approx(24 / 2.5)
    assert metrics["perf/step_time_ms/max"] == pytest.approx(1500.0)


def test_a_pause_before_the_first_step_is_none_of_the_interval() -> None:
    """It was told as one of 1e-12 seconds."""
    first, *further = ticks(
        0.004, 1.275, 2.421, 2.804, 3.548, 4.223
    )  # the gaps do not add up to the whole

    metrics = a_meter(alone).measure([(first[0], PausedSince(0.0)), first, *further])

    assert "perf/steps_per_sec" in metrics
    assert "perf/pause_s" not in metrics


def test_a_pause_without_a_step_is_left_to_the_next_row() -> None:
    """Another thread's call took the reading."""
    meter = a_meter(alone)
    meter.measure(ticks(0.0))

    assert meter.measure([(1.0, PausedSince(0.5))]) == {}
    assert meter.steps == 0
    assert meter.measure(ticks(2.0))["perf/steps_per_sec"] == pytest.approx(0.5)


def test_an_interval_that_is_all_pause_has_no_throughput() -> None:
    """No division by zero."""
    meter = a_meter(alone)
    meter.measure(ticks(1.0))
    metrics = meter.measure([(2.0, PausedSince(0.5)), (2.0, 8)])

    assert metrics["perf/pause_s"] == pytest.approx(1.0)
    assert "perf/steps_per_sec" not in metrics
