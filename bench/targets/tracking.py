"""Trackers for the targets: with delivery cut short, or none; and their rows, counted."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from bench.probes import kill_descendants
from fasttrack.journal.reader import count_rows
from fasttrack.journal.run_directory import segments
from fasttrack.worker.supervisor import DeliveryState

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fasttrack import ExperimentTracker

TAGS = {"model": "m", "dataset": "d", "objective": "o", "experiment_group": "bench"}
FIVE: dict[str, float] = {
    "loss/total": 0.123456789,
    "train/lr": 1e-4,
    "a": 1.25,
    "b": 4096.0,
    "c": 0.5,
}


@contextlib.contextmanager
def cut_short(**options: Any) -> Iterator[ExperimentTracker]:
    """Give an offline tracker; at the end, stop its delivery instead of waiting for it.

    For more rows than anyone wants to wait for. Delivery runs beside the measurement as it would.
    """
    from fasttrack import ExperimentTracker, Options

    quick_end = Options(finish_timeout_s=1, **options)
    tracker = ExperimentTracker(tags=TAGS, mode="offline", log_interval=1, options=quick_end)
    try:
        yield tracker
    finally:
        kill_descendants()
        tracker.finish()


class Nobody:
    """Delivery that delivers nothing and is done."""

    def __init__(self, segment: Path | None = None, warn: Any = None) -> None:
        self.state = DeliveryState(delivered=True, offline=True)

    def poll(self) -> None:
        """Nothing to look after."""

    def wait(self, timeout_s: float, upload_timeout_s: float) -> bool:
        """Be over."""
        return True

    def close(self) -> None:
        """Nothing to let go of."""


def undelivered(**options: Any) -> ExperimentTracker:
    """Return an offline tracker whose rows nobody delivers; for a process of its own."""
    import fasttrack.tracker

    fasttrack.tracker.DeliveryProcess = Nobody  # type: ignore[attr-defined,assignment]
    chosen = fasttrack.Options(**options)
    return fasttrack.ExperimentTracker(tags=TAGS, mode="offline", log_interval=1, options=chosen)


def rows_in_journal(run_dir: Path) -> int:
    """Return how many rows the run's segments hold, counted in the files."""
    rows = 0
    for segment in segments(run_dir):
        with segment.open("rb") as file:
            while lines := file.readlines(1 << 20):
                rows += count_rows(lines)
    return rows
