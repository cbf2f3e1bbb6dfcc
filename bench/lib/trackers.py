"""Trackers with their delivery in hand: waited for, stopped, cut short; and rows, counted."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.lib.processes import DescendantsWatch, descendants, kill_descendants
from bench.lib.scalars import TAGS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fasttrack import ExperimentTracker, Options

WORKER = "fasttrack-worker"
"""The name of the worker's thread."""
_START_TIMEOUT_S = 60.0
_LOOK_S, _AT_REST_S = 0.4, 0.01  # so much CPU time in so long is what it takes to wait for rows


def known_options(**wanted: Any) -> Options:
    """Return `Options` with what is wanted, less those that the build measured does not have."""
    from fasttrack import Options

    known = {field.name for field in fields(Options)}
    return Options(**{name: value for name, value in wanted.items() if name in known})


def run_files(mode: str = "offline") -> set[Path]:
    """Return the files of the runs in `WANDB_DIR` that are offline, or online."""
    folder = "offline-run-*" if mode == "offline" else "run-*"
    return set(Path(os.environ["WANDB_DIR"]).glob(f"wandb/{folder}/run-*.wandb"))


def wait_for_delivery(runs_before: set[Path], mode: str = "offline") -> None:
    """Wait until delivery, which imports wandb at first, has opened a run and is at rest.

    Raises:
        TimeoutError: it has not, in a minute.
    """
    deadline_s = time.monotonic() + _START_TIMEOUT_S
    while run_files(mode) <= runs_before:
        if time.monotonic() > deadline_s:
            raise TimeoutError("delivery did not start")
        time.sleep(0.05)
    watch, used_s = DescendantsWatch(), -1.0
    while used_s < 0 or watch.total().cpu_s - used_s > _AT_REST_S:
        if time.monotonic() > deadline_s:
            raise TimeoutError("delivery does not come to rest")
        used_s = watch.total().cpu_s
        time.sleep(_LOOK_S)
        watch.look()


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
    from fasttrack import ExperimentTracker

    options = known_options(finish_timeout_s=1, wait_for_delivery="finish")
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
