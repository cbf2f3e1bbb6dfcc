"""What fasttrack itself costs, as metrics of the run, and the budget that may hold it down."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from fasttrack.hotpath.call_meter import LOGGED, METRICS, SKIPPED

if TYPE_CHECKING:
    from collections.abc import Callable

    from fasttrack.hotpath.call_meter import CallMeter

_WINDOW_S = 2.0  # how long calls and steps are watched before the interval is judged
_PATIENCE_S = 4.0  # after which earlier calls will do, where none was timed since
_LONGEST = 100  # the effective interval's limit, in intervals that the user asked for


class Overhead:
    """Watch the calls and the worker; stretch the log interval while the calls exceed the budget.

    Threads: worker only, except `worker_cpu_pct` and `effective_interval`: read by any.
    """

    def __init__(
        self,
        calls: CallMeter,
        *,
        budget: float | None,
        log_interval: int,
        set_interval: Callable[[int], None],
        warn: Callable[[str, str], None],
    ) -> None:
        """Watch `calls`.

        Args:
            calls: what the caller's thread timed.
            budget: the share of the step time that the calls may take; None: any.
            log_interval: the user's.
            set_interval: told the new effective interval, in steps.
            warn: called with (key, text) for what the user should hear once.
        """
        self._calls = calls
        self._budget = budget
        self._log_interval = log_interval
        self._set_interval = set_interval
        self._warn = warn
        self.effective_interval = log_interval
        self.watches = budget is not None
        """Whether it wants to know of steps."""
        self._started_s = time.monotonic()
        self._cpu_s = 0.0
        self._reported_at_s = self._started_s
        self._reported_cpu_s = 0.0
        self._window_began_s: float | None = None
        self._paused_s = 0.0
        self._steps = 0
        self._metrics_calls = 0

    def note_cpu(self) -> None:
        """Read the worker thread's CPU clock."""
        self._cpu_s = time.thread_time()

    @property
    def worker_cpu_pct(self) -> float:
        """The worker's CPU time since it was started, in percent of one core."""
        return 100 * self._cpu_s / max(time.monotonic() - self._started_s, 1e-9)

    def add_metrics_calls(self, calls: int) -> None:
        """Count calls of `log_metrics`."""
        self._metrics_calls += calls

    def add_steps(
        self, step: int, first_s: float, last_s: float, steps: int, *, paused_s: float = 0.0
    ) -> None:
        """Count the training steps up to `step`, which ended at `first_s` to `last_s`."""
        if self._budget is None:
            return
        if self._window_began_s is None:
            self._window_began_s = first_s
            steps -= 1  # n readings of the clock are n - 1 steps
        self._steps += steps
        self._paused_s += paused_s
        elapsed_s = last_s - self._window_began_s - self._paused_s
        if elapsed_s < _WINDOW_S or not self._steps:
            return
        logged_s = self._calls.mean_s(LOGGED, self._window_began_s)
        if logged_s is None and elapsed_s >= _PATIENCE_S:  # few are logged, and not all are timed
            logged_s = self._calls.mean_s(LOGGED)
        if logged_s is None:  # the call that made this row may not have ended yet
            return
        self._judge(self._budget, elapsed_s / self._steps, logged_s)
        self._window_began_s = last_s
        self._paused_s = 0.0
        self._steps = self._metrics_calls = 0

    def _judge(self, budget: float, step_s: float, logged_s: float) -> None:
        skipped_s, metrics_s = self._calls.mean_s(SKIPPED), self._calls.mean_s(METRICS)
        skipped_s = skipped_s or 0.0
        fixed_s = skipped_s + (metrics_s or 0.0) * self._metrics_calls / self._steps
        needed = needed_interval(logged_s - skipped_s, budget * step_s - fixed_s)
        stretch = min(needed / self._log_interval, _LONGEST)
        chosen = self._log_interval * max(1, math.ceil(round(stretch, 1)))  # no finer than that
        current = self.effective_interval
        if current // 2 < chosen <= current:  # not to and fro for little
            return
        share = (fixed_s + (logged_s - skipped_s) / current) / step_s
        self.effective_interval = chosen
        self._set_interval(chosen)
        if chosen > current:
            self._warn(
                "budget",
                f"logging took {share:.2%} of the step time, more than overhead_budget="
                f"{budget:g}: every {chosen}th step is logged from now on; the metric "
                "fasttrack/effective_interval follows it",
            )

    def metrics(self) -> dict[str, float]:
        """Return the calls' percentiles and the worker's share since the last report."""
        self.note_cpu()
        now_s = time.monotonic()
        used_s, elapsed_s = self._cpu_s - self._reported_cpu_s, now_s - self._reported_at_s
        self._reported_cpu_s, self._reported_at_s = self._cpu_s, now_s
        values = {"fasttrack/worker_cpu_pct": 100 * used_s / max(elapsed_s, 1e-9)}
        percentiles = self._calls.percentiles_us()
        if percentiles is not None:
            values["fasttrack/call_us_p50"], values["fasttrack/call_us_p99"] = percentiles
        if self._budget is not None:
            values["fasttrack/effective_interval"] = self.effective_interval
        return values


def needed_interval(extra_s: float, room_s: float) -> float:
    """Return how many steps must share what one logged step costs beyond the others.

    Args:
        extra_s: seconds that a logged step's call takes beyond one that is not logged.
        room_s: seconds a step that the budget leaves for it.
    """
    if extra_s <= 0:
        return 1
    return extra_s / room_s if room_s > 0 else math.inf
