"""The worker's thread, part by part, in tight loops. `_x32`: one reading is 32 rows."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING

import pytest

from bench.conftest import ROWS, make_records
from bench.targets.tracking import FIVE, Nobody
from bench.workload import Workload
from fasttrack.hotpath.call_meter import CallMeter
from fasttrack.hotpath.capture import Capture
from fasttrack.hotpath.gradients import GradientSource, fused_norm
from fasttrack.hotpath.ring import Ring
from fasttrack.journal.entries import encode_row
from fasttrack.journal.writer import SegmentWriter
from fasttrack.notices import Notices
from fasttrack.worker.loop import Worker
from fasttrack.worker.meters import StepMeter
from fasttrack.worker.overhead import Overhead
from fasttrack.worker.resolve import Resolver

if TYPE_CHECKING:
    from pathlib import Path

    from bench.conftest import Measure
    from fasttrack.hotpath.records import RawRecord


def _resolver(capture: Capture) -> Resolver:
    notices = Notices()
    return Resolver(capture, GradientSource("off", 0, notices.warn), notices)


@pytest.mark.parametrize("mode", ["snapshot", "reference"])
def test_resolve_x32(measure: Measure, mode: str) -> None:
    capture = Capture(mode)
    measure(_resolver(capture).resolve, of=ROWS, prepare=lambda: (make_records(capture),))


def test_grad_norm(measure: Measure) -> None:
    work = Workload()
    work.step(0)
    measure(fused_norm, [p.grad for p in work.model.parameters() if p.grad is not None])


def test_step_meter_over_10_steps(measure: Measure) -> None:
    meter, clock = StepMeter(lambda: 1), itertools.count()
    measure(meter.measure, prepare=lambda: ([(float(next(clock)), 32) for _ in range(10)],))


def test_encode_row(measure: Measure) -> None:
    measure(encode_row, 1000, 1000, time.time(), FIVE)


def test_journal_append_x32(measure: Measure, tmp_path: Path) -> None:
    writer = SegmentWriter(tmp_path, {})
    lines = [encode_row(seq, seq, time.time(), FIVE) for seq in range(ROWS)]

    measure(writer.append, of=ROWS, prepare=lambda: (lines,))

    writer.close()


def test_worker_round_x32(measure: Measure, tmp_path: Path) -> None:
    """All of it: take from the ring, resolve, encode, append."""
    ring: Ring[RawRecord] = Ring(64, 0.0)
    capture = Capture("snapshot")
    writer = SegmentWriter(tmp_path, {})
    worker = Worker(
        ring,
        Ring(64, 0.0),
        _resolver(capture),
        writer,
        Notices(),
        delivery=Nobody(),
        overhead=Overhead(
            CallMeter(),
            budget=None,
            log_interval=1,
            set_interval=lambda steps: None,
            warn=lambda key, text: None,
        ),
        flush_interval_s=3600,
        gpu_stats_interval=50,
    )

    def fill() -> tuple[()]:
        for record in make_records(capture):
            ring.push(record)
        return ()

    measure(worker.run_once, of=ROWS, prepare=fill)

    writer.close()
