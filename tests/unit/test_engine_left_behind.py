"""What `finish()` leaves behind where a device does not come back in time is counted."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import torch
from support.trackers import journal_only, written_values

if TYPE_CHECKING:
    import pytest
    from support.trackers import Trackers

    from fasttrack import ExperimentTracker

HANG_GUARD_S = 120.0


class Slow(torch.Tensor):
    """A value that a device computes when the gate opens."""

    gate: threading.Event

    def item(self) -> Any:
        """Wait for the device."""
        assert self.gate.wait(HANG_GUARD_S)
        return self.as_subclass(torch.Tensor).item()


def make_slow(make: Trackers, finish_timeout_s: float) -> ExperimentTracker:
    """Return a tracker whose worker has to wait for the values, as it does on a device."""
    options = journal_only(capture="reference", finish_timeout_s=finish_timeout_s)
    return make(options=options, log_interval=1)


def test_rows_that_finish_leaves_behind_are_counted_and_said(
    make: Trackers, capsys: pytest.CaptureFixture[str]
) -> None:
    """They stood in no counter: neither those in the ring nor those in the worker's hands."""
    Slow.gate = threading.Event()
    tracker = make_slow(make, 0.5)
    tracker.log_metrics({"fast": 1.0}, 0)
    assert written_values(tracker) == [{"fast": 1.0}]
    for step in range(1, 101):
        tracker.log_metrics({"slow": torch.tensor(float(step)).as_subclass(Slow)}, step)
    tracker.finish()
    stats = tracker.stats()
    said = capsys.readouterr().err
    Slow.gate.set()

    assert (stats.rows_written, stats.cut_off) == (1, 100)
    assert "100 records are left behind" in said
    assert "100 rows were lost (100 x the device or the disk did not come back" in said


def test_rows_that_come_after_all_are_counted_no_more(make: Trackers) -> None:
    """The process lives on, and so does the device: what is in the journal then is not lost."""
    Slow.gate = threading.Event()
    tracker = make_slow(make, 0.1)
    for step in range(50):
        tracker.log_metrics({"slow": torch.tensor(float(step)).as_subclass(Slow)}, step)
    tracker.finish()
    before = tracker.stats()
    Slow.gate.set()
    deadline = time.monotonic() + HANG_GUARD_S
    while (after := tracker.stats()).cut_off and time.monotonic() < deadline:
        time.sleep(0.01)

    assert (before.rows_written, before.cut_off) == (0, 50)
    assert (after.rows_written, after.cut_off) == (50, 0)


def test_nothing_is_left_behind_where_the_device_comes_back(make: Trackers) -> None:
    """The usual end."""
    Slow.gate = threading.Event()
    tracker = make_slow(make, HANG_GUARD_S)
    for step in range(50):
        tracker.log_metrics({"slow": torch.tensor(float(step)).as_subclass(Slow)}, step)
    threading.Timer(0.2, Slow.gate.set).start()
    tracker.finish()

    assert (tracker.stats().rows_written, tracker.stats().cut_off) == (50, 0)


def test_a_call_that_was_on_its_way_while_the_run_ended_is_counted(make: Trackers) -> None:
    """Another thread had looked for room before, and appended after the worker's last round."""
    tracker = make(options=journal_only())
    tracker.log_metrics({"a": 1.0}, 0)
    waiting = tracker._waiting
    tracker.finish()
    waiting.append((1, time.perf_counter(), {"a": 2.0}))

    assert (tracker.stats().rows_written, tracker.stats().cut_off) == (1, 1)
