"""What bench/ uses of fasttrack beside its public interface: all of it stands here.

Import it late where what is measured must not have loaded more than a user's program would have.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fasttrack.delivery.backends.wandb.file import read_payloads
from fasttrack.delivery.backends.wandb.steps import StepMapper
from fasttrack.hotpath.call_meter import CallMeter
from fasttrack.hotpath.capture import Capture
from fasttrack.hotpath.gradients import GradientSource
from fasttrack.hotpath.norms import fused_norm
from fasttrack.hotpath.ring import Ring
from fasttrack.journal.entries import Finish, Header, encode
from fasttrack.journal.reader import count_rows, read_segment
from fasttrack.journal.rows import encode_row
from fasttrack.journal.run_directory import segments
from fasttrack.journal.writer import SegmentWriter
from fasttrack.notices import Notices
from fasttrack.worker.loop import Worker
from fasttrack.worker.meters import StepMeter
from fasttrack.worker.overhead import Overhead
from fasttrack.worker.resolve import Resolver
from fasttrack.worker.supervisor import NoDelivery

if TYPE_CHECKING:
    from pathlib import Path

    from fasttrack.hotpath.records import RawRecord

__all__ = [
    "Capture",
    "Finish",
    "GradientSource",
    "Notices",
    "Ring",
    "StepMapper",
    "StepMeter",
    "count_rows",
    "encode",
    "encode_row",
    "fused_norm",
    "make_record",
    "make_resolver",
    "make_worker",
    "make_writer",
    "read_payloads",
    "read_segment",
    "refuse",
    "segments",
]


def refuse(metric: str, why: str) -> None:
    """Fail: everything that is benchmarked can be logged."""
    raise AssertionError(f"{metric}: {why}")


def make_record(capture: Capture, step: int, time_s: float, values: dict[str, Any]) -> RawRecord:
    """Return what `ExperimentTracker.log_metrics` pushes for `values`, which it changes."""
    pending = capture.mapping(values, refuse)
    return (step, time_s, values, pending, None, None, ())


def make_resolver(capture: Capture) -> Resolver:
    """Return the worker's resolver of such records."""
    return Resolver(capture, GradientSource("off", 0, refuse), Notices())


def make_writer(run_dir: Path) -> SegmentWriter:
    """Return the writer of a new segment."""
    return SegmentWriter(run_dir, Header(run_id="bench"))


def make_worker(ring: Ring[RawRecord], capture: Capture, writer: SegmentWriter) -> Worker:
    """Return a worker to be run by hand: `run_once` carries what is in `ring` to `writer`."""
    overhead = Overhead(
        CallMeter(),
        budget=None,
        log_interval=1,
        set_interval=lambda steps: None,
        warn=refuse,
    )
    return Worker(
        ring,
        Ring(64, 0.0),
        make_resolver(capture),
        writer,
        Notices(),
        delivery=NoDelivery(),
        overhead=overhead,
        flush_interval_s=3600,
        gpu_stats_interval=50,
    )
