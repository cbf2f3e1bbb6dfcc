"""The delivery process's own part, in tight loops; for wandb's see targets/delivery.py."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from bench.lib.internals import StepMapper, encode_row, make_writer, read_segment
from bench.lib.scalars import FIVE

if TYPE_CHECKING:
    from pathlib import Path

    from bench.micro.conftest import Measure

_ROWS = 1000


def test_reader_x1000(measure: Measure, tmp_path: Path) -> None:
    writer = make_writer(tmp_path)
    writer.append([encode_row(seq, seq, time.time(), FIVE) for seq in range(_ROWS)])
    writer.close()

    entries = measure(read_segment, writer.path, of=_ROWS)

    assert len(entries) == 1 + _ROWS


def test_step_mapper_x1000(measure: Measure) -> None:
    def place() -> None:
        mapper = StepMapper(-1)
        for step in range(_ROWS):
            mapper.place(step, FIVE)

    measure(place, of=_ROWS)
