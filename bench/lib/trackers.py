"""Trackers with their delivery in hand: waited for, stopped, cut short; and rows, counted."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bench.lib.processes import descendants, kill_descendants
from bench.lib.scalars import TAGS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fasttrack import ExperimentTracker

_START_TIMEOUT_S = 60.0


def offline_runs() -> set[Path]:
    """Return the files of the offline runs in `WANDB_DIR`."""
    return set(Path(os.environ["WANDB_DIR"]).glob("wandb/offline-run-*/run-*.wandb"))


def wait_for_delivery(runs_before: set[Path]) -> None:
    """Wait until delivery, which imports wandb at first, has opened an offline run.

    Raises:
        TimeoutError: it has not, in a minute.
    """
    deadline_s = time.monotonic() + _START_TIMEOUT_S
    while offline_runs() <= runs_before:
        if time.monotonic() > deadline_s:
            raise TimeoutError("delivery did not start")
        time.sleep(0.05)
    time.sleep(0.5)


def signal_delivery(number: signal.Signals) -> None:
    """Send a signal, SIGSTOP say, to the delivery processes that this process has started."""
    for pid in descendants(os.getpid()):
        with contextlib.suppress(OSError):  # it has just ended
            if b"fasttrack.delivery" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, number)


@contextlib.contextmanager
def cut_short() -> Iterator[ExperimentTracker]:
    """Give an offline tracker; at the end, stop its delivery instead of waiting for it.

    For more rows than anyone wants to wait for. Delivery runs beside the measurement as it would.
    """
    from fasttrack import ExperimentTracker, Options

    options = Options(finish_timeout_s=1, wait_for_delivery="finish")
    tracker = ExperimentTracker(tags=TAGS, mode="offline", log_interval=1, options=options)
    try:
        yield tracker
    finally:
        signal_delivery(signal.SIGSTOP)  # not killed yet: it would be started again
        tracker.finish()
        kill_descendants()


@contextlib.contextmanager
def held_back() -> Iterator[ExperimentTracker]:
    """Give an offline tracker whose delivery is stopped: nothing runs beside the measurement."""
    with cut_short() as tracker:
        signal_delivery(signal.SIGSTOP)
        yield tracker


def rows_in_journal(run_dir: Path) -> int:
    """Return how many rows the run's segments hold, counted in the files."""
    from bench.lib.internals import count_rows, segments

    return sum(map(count_rows, segments(run_dir)))
