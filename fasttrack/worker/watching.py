"""Who looks at every step, as the options ask for it; by default nobody, and nothing is loaded."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from fasttrack.hotpath.step_logger import StepLogger

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fasttrack.hotpath.gradients import GradientSource
    from fasttrack.notices import Notices
    from fasttrack.options import Options
    from fasttrack.worker.resolve import Resolver
    from fasttrack.worker.step_watch import StepWatch


def watch_steps(
    options: Options,
    segment: Path,
    resolver: Resolver,
    gradients: GradientSource,
    notices: Notices,
) -> StepWatch | None:
    """Return what looks at every step of the attempt that writes `segment`; None: nobody does."""
    kept, every = options.flight_recorder, options.layer_norms_every
    if not kept and not options.watch_nonfinite and every is None:
        return None
    from fasttrack.hotpath.trail import StepTrail  # few runs have these
    from fasttrack.worker.flight import FlightRecorder
    from fasttrack.worker.step_watch import StepWatch

    trail = StepTrail(kept)
    flight = FlightRecorder(kept, trail, segment, notices) if kept else None
    if every is None:
        return StepWatch(trail, resolver, notices, flight)
    from fasttrack.hotpath.layers import LayerSource
    from fasttrack.worker.layers import LayerNorms

    hold_limit_bytes = int(options.grad_hold_limit_gb * 2**30)
    source = LayerSource(every, hold_limit_bytes, gradients, notices.warn)
    layers = LayerNorms(source, resolver.streams, notices)
    return StepWatch(trail, resolver, notices, flight, layers)


def logger_for(watch: StepWatch | None) -> Callable[..., StepLogger]:
    """Return what makes the run's `StepLogger`."""
    if watch is None:
        return StepLogger
    from fasttrack.hotpath.every_step import EveryStepLogger

    layers = None if watch.layers is None else watch.layers.source
    return partial(EveryStepLogger, trail=watch.trail, layers=layers)
