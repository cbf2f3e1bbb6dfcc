"""accelerate: `accelerator.log` with our tracker, with its own for W&B, and with one that is idle.

Ours and the idle one follow a step by turns; then come as many steps with W&B's alone.
"""

from __future__ import annotations

from typing import Any

from accelerate import Accelerator
from accelerate.tracking import GeneralTracker

from bench.adapters.calls import Line, timed
from bench.lib.measure import US, percentile
from bench.lib.workload import Workload
from fasttrack import Options
from fasttrack.integrations.accelerate import FasttrackTracker

_LIMIT_US = 20
_VALUES = 3  # the loss, a tensor, and two floats


class _Nothing(GeneralTracker):  # type: ignore[misc]
    name = "nothing"
    requires_logging_directory = False
    tracker = None


def measure(steps: int, quick: bool) -> list[Line]:
    """Return what each costs, and how much of it accelerate's own way to a tracker."""
    tracker = FasttrackTracker("bench", options=Options(wait_for_delivery="finish"))
    ours, nothing, theirs = map(_made, (tracker, _Nothing(), "wandb"))
    taken = [timed(accelerator, "log")["log"] for accelerator in (ours, theirs, nothing)]
    workload = Workload()
    for accelerators in ((ours, nothing), (theirs,)):
        for step in range(steps):
            for accelerator in accelerators:
                values: dict[str, Any] = dict(list(workload.step(step).items())[:_VALUES])
                accelerator.log(values, step=step)
    for accelerator in (ours, theirs, nothing):
        accelerator.end_training()
    our_us, their_us, idle_us = (percentile(seconds, 50.0) * US for seconds in taken)
    return [
        Line(
            f"`accelerator.log` of {_VALUES} values, p50, limit {_LIMIT_US} us",
            [our_us],
            [their_us],
        ),
        Line("of it accelerate's own: a tracker that does nothing", [idle_us], [idle_us]),
    ]


def _made(tracker: Any) -> Accelerator:
    accelerator = Accelerator(cpu=True, log_with=tracker)
    accelerator.init_trackers("bench")
    return accelerator
