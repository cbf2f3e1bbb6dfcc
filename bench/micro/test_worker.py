"""The worker's thread, part by part, in tight loops. `_x32`: one reading is 32 rows."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING

import pytest
import torch

from bench.lib.internals import (
    Capture,
    Notices,
    Ring,
    StepMeter,
    encode_row,
    fused_norm,
    make_record,
    make_resolver,
    make_worker,
    make_writer,
)
from bench.lib.scalars import FIVE, five_scalars
from bench.lib.workload import Workload

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from bench.micro.conftest import Measure

_ROWS = 32


def _records(capture: Capture) -> list[Any]:
    loss = torch.tensor(0.5)
    return [
        make_record(capture, step, time.time(), dict(five_scalars(loss, step)))
        for step in range(_ROWS)
    ]


@pytest.mark.parametrize("mode", ["snapshot", "reference"])
def test_resolve_x32(measure: Measure, mode: str) -> None:
    capture = Capture(mode)
    measure(make_resolver(capture).resolve, of=_ROWS, prepare=lambda: (_records(capture),))


def test_grad_norm(measure: Measure) -> None:
    work = Workload()
    work.step(0)
    measure(fused_norm, [p.grad for p in work.model.parameters() if p.grad is not None])


def test_step_meter_over_10_steps(measure: Measure) -> None:
    meter, clock = StepMeter(lambda: 1, Notices().refuse), itertools.count()
    measure(meter.measure, prepare=lambda: ([(float(next(clock)), 32) for _ in range(10)],))


def test_encode_row(measure: Measure) -> None:
    measure(encode_row, 1000, 1000, time.time(), FIVE)


def test_journal_append_x32(measure: Measure, tmp_path: Path) -> None:
    writer = make_writer(tmp_path)
    lines = [encode_row(seq, seq, time.time(), FIVE) for seq in range(_ROWS)]

    measure(writer.append, of=_ROWS, prepare=lambda: (lines,))

    writer.close()


def test_worker_round_x32(measure: Measure, tmp_path: Path) -> None:
    """All of it: take from the ring, resolve, encode, append."""
    ring: Ring[Any] = Ring(64, 0.0)
    capture, writer = Capture("snapshot"), make_writer(tmp_path)
    worker = make_worker(ring, capture, writer)

    def fill() -> tuple[()]:
        for record in _records(capture):
            ring.push(record)
        return ()

    measure(worker.run_once, of=_ROWS, prepare=fill)

    writer.close()
