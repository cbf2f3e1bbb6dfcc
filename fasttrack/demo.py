"""Train the digits example, tracked, and measure what tracking cost: `fasttrack demo`."""

from __future__ import annotations

import contextlib
import importlib
import io
import math
import tempfile
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch

from fasttrack import ExperimentTracker, Options, is_main_process
from fasttrack.errors import FasttrackError

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

LOG_INTERVAL = 5  # short: the run is
_TAGS = {"model": "cnn", "dataset": "digits", "objective": "ce", "experiment_group": "demo"}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a demo left behind, and what its tracking cost."""

    run_dir: Path
    url: str | None
    rows: int
    costs_s: list[float]
    """How long each call of `log_training_step` took."""
    steps_s: list[float]
    """How long each step took, its call included."""


class TimedTracker(ExperimentTracker):
    """A tracker that notes what its calls cost the training loop.

    Threads: those of `ExperimentTracker`, but `log_training_step` from one only.
    """

    def __init__(self, **arguments: Any) -> None:
        """Open the run."""
        super().__init__(**arguments)
        self.on_step: Callable[[], object] = lambda: None
        """Called after every step, outside the times taken."""
        self.costs_s: list[float] = []
        self.steps_s: list[float] = []
        self._began_s = perf_counter()

    def log_training_step(self, *args: Any, **kwargs: Any) -> None:
        """Queue this step's metrics, as any tracker does, and note the time."""
        entered_s = perf_counter()
        super().log_training_step(*args, **kwargs)
        left_s = perf_counter()
        self.costs_s.append(left_s - entered_s)
        self.steps_s.append(left_s - self._began_s)
        self.on_step()
        self._began_s = perf_counter()


def run_demo(
    epochs: int,
    mode: str,
    *,
    watch: Callable[[int], AbstractContextManager[Callable[[], object]]],
) -> Outcome | None:
    """Train the digits example for `epochs`; return what came of it, on the main process only.

    Blocks until the run is delivered or, offline, its files are complete.

    Args:
        epochs: how often it sees the data.
        mode: "online" or "offline".
        watch: entered with the number of steps for as long as it trains; gives what is called
            after each.

    Raises:
        FasttrackError: the example needs scikit-learn, or the run could not be opened.
    """
    digits = _load_example()
    torch.set_num_threads(1)  # faster for so small a model, above all where others compute too
    with contextlib.ExitStack() as stack:
        if not is_main_process():
            stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        checkpoints = stack.enter_context(tempfile.TemporaryDirectory(prefix="fasttrack-demo-"))
        args = digits.parse_args(["--mode", mode, "--checkpoint-dir", checkpoints])
        args.epochs, args.log_interval = epochs, LOG_INTERVAL
        batches = math.ceil(len(digits.load_data()[0]) / args.batch_size)
        tracker = TimedTracker(
            project="fasttrack-examples",
            config=vars(args),
            tags=_TAGS,
            mode=mode,
            log_interval=LOG_INTERVAL,
            options=Options(wait_for_delivery="finish"),
        )
        with tracker, watch(epochs * batches) as tracker.on_step:
            digits.train(args, tracker, None)
    run_dir = tracker.get_run_dir()
    if run_dir is None:
        return None
    return Outcome(
        run_dir=run_dir,
        url=tracker.get_run_url(),
        rows=tracker.stats().rows_written,
        costs_s=tracker.costs_s,
        steps_s=tracker.steps_s,
    )


def _load_example() -> Any:
    try:
        return importlib.import_module("fasttrack.examples.digits")
    except ModuleNotFoundError as error:
        raise FasttrackError(
            f"the demo needs more: pip install 'fasttrack[examples]' ({error})"
        ) from error
