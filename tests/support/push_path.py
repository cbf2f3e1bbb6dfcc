"""What the scripts of test_hotpath_gates.py share: a tracker at rest, and who calls what."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from support.runs import make_tracker, wait_until

from fasttrack import Options

if TYPE_CHECKING:
    from collections.abc import Callable

    from fasttrack import ExperimentTracker

_LOCKS = ("lock", "RLock")
_SYSTEM = ("posix", "select", "_io", "_socket", "_queue", "_posixsubprocess")


def resting_tracker(**options: Any) -> ExperimentTracker:
    """Return a tracker whose worker only works when it is told to flush."""
    quiet = Options(backends=("none",), flush_interval_s=3600, console=False, **options)
    return make_tracker(options=quiet, log_interval=10, gpu_stats_interval=1000)


def rest(*trackers: ExperimentTracker) -> None:
    """Have the workers write everything; wait until no thread but this one will run by itself."""
    others = [thread for thread in threading.enumerate() if thread is not threading.main_thread()]
    for thread in others:
        if thread.name == "fasttrack-recorder":
            thread.join()
    for tracker in trackers:
        assert tracker.flush()
    statuses = [Path(f"/proc/self/task/{t.native_id}/status") for t in others if t.is_alive()]
    looks: list[list[str]] = [[]]

    def asleep() -> bool:
        looks.append([path.read_text() for path in statuses])  # their switches are counted there
        return looks[-1] == looks[-2] and all("State:\tS" in text for text in looks[-1])

    wait_until(asleep)


def training_calls(tracker: ExperimentTracker) -> list[Callable[[int], None]]:
    """Return what a training loop may call: a logged step, one that is not, and `log_metrics`."""
    torch.set_num_threads(1)
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 1))
    optimizer = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    loss = model(torch.ones(1, 8)).square().sum()
    metrics = {"a": loss, "b": 0.5, "c": 1, "d": 2.5, "e": torch.tensor(3)}
    return [
        lambda step: tracker.log_training_step(loss, 10 * step, 32, optimizer, model),
        lambda step: tracker.log_training_step(loss, 10 * step + 1, 32, optimizer, model),
        lambda step: tracker.log_metrics(metrics, 10 * step + 2),
    ]


def forbidden_calls(run: Callable[[], None]) -> set[str]:
    """Return the C functions that `run` calls on this thread and that may wait for something."""
    found = set()

    def profile(frame: Any, event: str, function: Any) -> None:
        if event != "c_call":
            return
        owner = type(getattr(function, "__self__", None)).__name__
        module = getattr(function, "__module__", None) or type(function.__self__).__module__
        if owner in _LOCKS or module in _SYSTEM or function.__name__ == "sleep":
            found.add(f"{owner if owner in _LOCKS else module}.{function.__name__}")

    sys.setprofile(profile)
    try:
        run()
    finally:
        sys.setprofile(None)
    return found
