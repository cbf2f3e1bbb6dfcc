"""fasttrack's own cost as metrics, and the budget that stretches the log interval."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
from support.runs import journal_rows, make_tracker, wait_until

from fasttrack import ConfigurationError, Options
from fasttrack.hotpath.call_meter import LOGGED, METRICS, SKIPPED, CallMeter
from fasttrack.worker.overhead import Overhead, needed_interval

if TYPE_CHECKING:
    from pathlib import Path

OWN = {
    "fasttrack/call_us_p50",
    "fasttrack/call_us_p99",
    "fasttrack/worker_cpu_pct",
    "fasttrack/ring_high_water",
    "fasttrack/dropped",
    "fasttrack/stale",
    "fasttrack/delivery_lag_rows",
}
STEP_S = 1e-3


class Bench:
    """An Overhead whose training steps take a millisecond of nobody's time."""

    def __init__(self, budget: float | None = 0.01, log_interval: int = 10) -> None:
        """Watch calls under `budget`."""
        self.calls = CallMeter()
        self.intervals: list[int] = []
        self.warnings: dict[str, str] = {}
        self.overhead = Overhead(
            self.calls,
            budget=budget,
            log_interval=log_interval,
            set_interval=self.intervals.append,
            warn=self.warn,
        )
        self.step = 0
        self.now_s = 0.0
        self.costs: dict[int, float] = {}

    def warn(self, key: str, text: str) -> None:
        """Keep what the user is told, each thing once."""
        self.warnings.setdefault(key, text)

    def train(self, seconds: float, step_s: float = STEP_S) -> None:
        """Train for so long, logging every tenth step."""
        for _ in range(round(seconds / step_s / 10)):
            self.step += 10
            self.calls.timed.extend(
                (kind, seconds, self.now_s) for kind, seconds in self.costs.items()
            )
            first_s = self.now_s
            self.now_s += 10 * step_s
            self.overhead.add_steps(self.step, first_s, self.now_s - step_s, 10)

    def call(self, kind: int, seconds: float) -> None:
        """Let calls of one kind take so long from now on."""
        self.costs[kind] = seconds


def test_within_the_budget_nothing_changes() -> None:
    """20 us in ten steps of 1 ms are 0.2%."""
    bench = Bench()
    bench.call(LOGGED, 20e-6)
    bench.train(10)

    assert bench.intervals == []
    assert bench.warnings == {}


def test_beyond_the_budget_the_interval_grows_to_what_is_needed() -> None:
    """300 us in ten steps are 3%: every 30th step is 1%. It is said, once."""
    bench = Bench()
    bench.call(LOGGED, 300e-6)
    bench.train(10)

    assert bench.intervals == [30]
    assert bench.overhead.effective_interval == 30
    assert "3.00%" in bench.warnings["budget"]
    assert "every 30th step" in bench.warnings["budget"]


def test_it_shrinks_again_when_there_is_room() -> None:
    """Calls that became cheap bring the user's interval back, and nothing more is said."""
    bench = Bench()
    bench.call(LOGGED, 300e-6)
    bench.train(5)
    said = dict(bench.warnings)
    bench.call(LOGGED, 20e-6)
    bench.train(5)

    assert bench.intervals[0] == 30
    assert bench.intervals[-1] == 10
    assert bench.intervals == sorted(bench.intervals, reverse=True)
    assert bench.warnings == said


def test_pauses_are_no_step_time() -> None:
    """300 us in ten steps of 1 ms are 3%, also where an evaluation of a second stands between."""
    bench = Bench()
    bench.call(LOGGED, 300e-6)
    for _ in range(10):
        bench.train(1)
        bench.now_s += 1.0
        bench.step += 10
        bench.overhead.add_steps(bench.step, bench.now_s, bench.now_s, 1, paused_s=1.0 - STEP_S)

    assert bench.intervals == [30]
    assert "3.0" in bench.warnings["budget"]


def test_it_does_not_swing_to_and_fro() -> None:
    """Noise around the needed interval changes nothing."""
    bench = Bench()
    bench.call(LOGGED, 300e-6)
    bench.train(3)
    for microseconds in (290, 260, 300, 240, 280):
        bench.call(LOGGED, microseconds * 1e-6)
        bench.train(3)

    assert bench.intervals == [30]


def test_what_cannot_be_saved_counts_and_bounds_the_stretch() -> None:
    """Calls that log nothing already exceed the budget: the interval goes to its limit, no more."""
    bench = Bench()
    bench.call(LOGGED, 300e-6)
    bench.call(SKIPPED, 20e-6)
    bench.train(10)

    assert bench.intervals == [1000]


def test_earlier_calls_will_do_where_none_was_timed_for_long() -> None:
    """Of few logged steps, far apart, hardly one is timed; the interval came down after minutes."""
    bench = Bench()
    bench.call(LOGGED, 2000e-6)
    bench.train(3)
    bench.costs.clear()
    bench.train(10, step_s=30e-3)

    assert bench.intervals[0] == 200
    assert bench.intervals[-1] == 10


def test_log_metrics_counts_against_the_budget() -> None:
    """One call of 5 us a step leaves half of the 10 us."""
    bench = Bench()
    bench.call(LOGGED, 100e-6)
    bench.call(METRICS, 5e-6)
    bench.overhead.add_metrics_calls(4000)
    bench.train(4.1)

    assert bench.intervals[0] >= 20


def test_without_a_budget_the_interval_is_the_users() -> None:
    """The default changes nothing, whatever the calls take."""
    bench = Bench(budget=None)
    bench.call(LOGGED, 1.0)
    bench.train(10)

    assert bench.intervals == []
    assert "fasttrack/effective_interval" not in bench.overhead.metrics()


@pytest.mark.parametrize(
    ("extra_s", "room_s", "steps"),
    [(1e-4, 1e-5, 10.0), (0.0, -1.0, 1), (-1e-6, 1e-6, 1), (1e-6, 0.0, float("inf"))],
)
def test_needed_interval(extra_s: float, room_s: float, steps: float) -> None:
    """The cost of one logged step, spread over enough steps."""
    assert needed_interval(extra_s, room_s) == pytest.approx(steps)


@pytest.mark.parametrize("budget", [0, 1, 1.5, -0.1, "1%", True])
def test_a_budget_that_is_no_share_is_refused(budget: Any) -> None:
    """The message names the option and what it means."""
    with pytest.raises(ConfigurationError, match=r"Options\.overhead_budget"):
        Options(overhead_budget=budget)


def test_a_run_records_what_it_costs(tmp_path: Path) -> None:
    """Once per gpu_stats_interval after the first; `stats()` tells the same without a row."""
    with make_tracker(mode="offline", log_interval=5, gpu_stats_interval=20) as tracker:
        for step in range(60):
            tracker.log_training_step(loss=0.5, step=step)
            tracker.log_metrics({"a": 1.0}, step=step)
            tracker.flush()
        stats = tracker.stats()

    rows = journal_rows(tmp_path, tracker.get_run_id())
    with_own = [row.step for row in rows if OWN & row.values.keys()]
    assert with_own == [20, 40]
    for row in rows:
        own = {key: value for key, value in row.values.items() if key.startswith("fasttrack/")}
        if own:
            assert own.keys() == OWN
            assert 0 < own["fasttrack/call_us_p50"] <= own["fasttrack/call_us_p99"]
            assert own["fasttrack/worker_cpu_pct"] > 0
            assert own["fasttrack/ring_high_water"] >= 1
            assert own["fasttrack/dropped"] == own["fasttrack/stale"] == 0
            assert own["fasttrack/delivery_lag_rows"] >= 0
    assert 0 < stats.call_us_p50 <= stats.call_us_p99
    assert stats.effective_interval == 5
    assert stats.delivery_lag_rows <= stats.rows_written


def test_the_interval_follows_the_budget_in_a_real_loop(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Steps of a millisecond exceed a small budget; slower ones leave room for more rows."""
    options = Options(overhead_budget=0.002)
    with make_tracker(
        mode="offline", log_interval=1, gpu_stats_interval=50, options=options
    ) as tracker:
        step = 0

        def train(step_s: float) -> int:
            nonlocal step
            for _ in range(10):
                tracker.log_training_step(loss=0.5, step=step)
                step += 1
                time.sleep(step_s)
            return tracker.stats().effective_interval

        wait_until(lambda: train(0.001) > 1)
        raised = tracker.stats().effective_interval
        wait_until(lambda: train(0.03) < raised)

    values = [row.values for row in journal_rows(tmp_path, tracker.get_run_id())]
    intervals = [v["fasttrack/effective_interval"] for v in values if OWN & v.keys()]
    assert intervals[0] == 1
    assert max(intervals) > 1
    assert capsys.readouterr().err.count("overhead_budget=0.002") == 1
