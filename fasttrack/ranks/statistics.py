"""What one rank sees of its own training, in windows of steps that are the same on all ranks."""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Any

from fasttrack.hotpath.records import GRAD_NORM, LARGEST_STEP, LOSS, TICKS, VALUES
from fasttrack.ranks.messages import Window
from fasttrack.worker.meters import StepMeter
from fasttrack.worker.resolve import METRICS_FIELDS, STEP_FIELDS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fasttrack.hotpath.records import RawRecord

_MOST_WINDOWS = 256  # that wait to be told; the newest, if there are more
_MOST_NOTED = 4096  # intervals whose record has not come; hardly ever one


def window_width(log_interval: int, gpu_stats_interval: int) -> int:
    """Return how many steps a window has: `gpu_stats_interval`, rounded up to logged ones."""
    return math.ceil(gpu_stats_interval / log_interval) * log_interval


class RankMeter(StepMeter):
    """A `StepMeter` that also notes how long the steps of each interval took.

    Threads: worker only.
    """

    def __init__(
        self,
        world_size: Callable[[], int],
        refuse: Callable[[str, str], None],
        *,
        find_pauses: bool = True,
    ) -> None:
        """Meter steps; see `StepMeter`."""
        super().__init__(world_size, refuse, find_pauses=find_pauses)
        self.noted: deque[tuple[float, Sequence[float]]] = deque(maxlen=_MOST_NOTED)
        """Of each interval when it ended (`perf_counter`), and the seconds of its steps."""

    def add_usual(self, metrics: dict[str, float], at_s: float, batch_size: Any) -> bool:
        """Do what `StepMeter.add_usual` does."""
        before_s = self.last_s
        if not super().add_usual(metrics, at_s, batch_size):
            return False
        assert before_s is not None
        self.noted.append((at_s, (at_s - before_s,)))
        return True

    def _rates(
        self, trained_s: float, durations: list[float], batches: Sequence[Any]
    ) -> dict[str, float]:
        assert self.last_s is not None
        self.noted.append((self.last_s, durations))
        return super()._rates(trained_s, durations, batches)


class WindowStatistics:
    """Sum up the training steps of this rank, a window at a time.

    Threads: `take` and `close` on one at a time; `windows` and `steps` are read by any, and any one
    thread takes from the beginning of `windows`.
    """

    def __init__(
        self, width: int, meter: RankMeter, memory_peak_gb: Callable[[], float | None]
    ) -> None:
        """Begin with nothing.

        Args:
            width: of a window, in steps.
            meter: the one that has measured the records' intervals.
            memory_peak_gb: returns the most device memory that was ever allocated, in GiB; None
                where there is no device. Asked once per window.
        """
        self.width = width
        self._meter = meter
        self._memory_peak_gb = memory_peak_gb
        # worker thread writes, any reads
        self.windows: deque[Window] = deque(maxlen=_MOST_WINDOWS)
        """Those that are complete."""
        self.steps = 0
        """Training steps that have ended."""
        # worker thread
        self._turn = 0
        self._index: int | None = None
        self._last = 0
        self._losses: list[float] = []
        self._norms: list[float] = []
        self._durations: list[float] = []
        self._non_finite = 0

    def take(self, records: Sequence[RawRecord]) -> None:
        """Take in records whose tensors have become numbers, and whose ticks were measured."""
        for raw in records:
            record: Any = raw
            if abs(record[0]) > LARGEST_STEP:  # it is in no row, either
                continue
            if len(record) == STEP_FIELDS:
                self._move_to(record[0])
                self._add_loss(record[VALUES])
                at_s = record[1]
            elif len(record) == METRICS_FIELDS or record[TICKS] is None:
                continue
            else:
                self._move_to(record[0])
                self._add_values(record[VALUES])
                at_s = record[TICKS][-1][0]
            self._add_times(at_s)

    def close(self) -> None:
        """End the open window as it is: no more steps will come."""
        index, self._index = self._index, None
        if index is None:
            return
        values = {"non_finite": float(self._non_finite)}
        _add_mean(values, "loss", self._losses)
        _add_mean(values, "grad_norm", self._norms)
        if self._durations:
            _add_mean(values, "step_time_ms", [1e3 * seconds for seconds in self._durations])
            values["step_time_max_ms"] = 1e3 * max(self._durations)
        if (peak_gb := self._memory_peak_gb()) is not None:
            values["memory_peak_gb"] = peak_gb
        self.windows.append(Window(self._turn, index, self._last, values))
        self._losses, self._norms, self._durations, self._non_finite = [], [], [], 0

    def _move_to(self, step: int) -> None:
        index = step // self.width
        if index != self._index:
            before = self._index
            self.close()
            if before is not None and index < before:
                self._turn += 1
            self._index = index
        self._last = step

    def _add_loss(self, loss: float) -> None:
        if loss - loss == 0:
            self._losses.append(loss)
        else:
            self._non_finite += 1

    def _add_values(self, values: dict[str, Any]) -> None:
        if (loss := values.get(LOSS)) is not None:
            self._add_loss(float(loss))
        norm = values.get(GRAD_NORM)
        if norm is None:
            return
        if norm - norm == 0:
            self._norms.append(float(norm))
        else:
            self._non_finite += 1

    def _add_times(self, at_s: float) -> None:
        noted = self._meter.noted
        while noted and noted[0][0] <= at_s:
            _, durations = noted.popleft()
            self._durations += durations
            self.steps += len(durations)


def _add_mean(values: dict[str, float], name: str, numbers: list[float]) -> None:
    """Add the mean of finite numbers; none where there are none, or their sum is too large."""
    if numbers:
        try:
            values[name] = math.fsum(numbers) / len(numbers)
        except OverflowError:
            pass
