"""Delivery gives way to training, and to nobody once training has ended."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from support.journals import write_attempt

from fasttrack.delivery.courtesy import NICENESS, Courtesy
from fasttrack.journal.entries import Finish, encode
from fasttrack.journal.reader import ends_with_finish
from fasttrack.journal.rows import Row, encode_row

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("ends_by", ["word", "death"])
def test_helpers_are_covered_while_training_goes_on_and_freed_at_its_end(
    tmp_path: Path, ends_by: str
) -> None:
    """A helper leads a session of its own; what is in this one's is covered with it."""
    segment = write_attempt(tmp_path, "r", Row(0, 0, 0.0, {"a": 1.0}))
    told: list[tuple[int, int]] = []
    alive = [True]
    courtesy = Courtesy(segment, lambda: alive[0], lambda *what: told.append(what))
    waiting = [sys.executable, "-c", "input()"]
    with subprocess.Popen(waiting, stdin=subprocess.PIPE, start_new_session=True) as helper:
        courtesy.start_here()
        assert courtesy.look()
        assert (helper.pid, NICENESS) in told
        assert (os.getpid(), NICENESS) in told
        told.clear()
        if ends_by == "word":
            with segment.open("ab") as file:
                file.write(encode(Finish(exit_code=0)))
        else:
            alive[0] = False

        assert not courtesy.look()
        assert {(os.getpid(), 0), (helper.pid, 0)} <= set(told)
        helper.communicate(b"\n")


def test_the_last_line_tells_the_end(tmp_path: Path) -> None:
    """A torn one does not, nor does a row that talks of it."""
    path = tmp_path / "segment-0001.jsonl"
    finish = encode(Finish(exit_code=0))
    row = encode_row(0, 0, 0.0, {'{"kind":"finish"': 1.0})
    assert not ends_with_finish(path)

    for content, ends in ((b"", False), (row, False), (row + finish[:-1], False)):
        path.write_bytes(content)
        assert ends_with_finish(path) is ends
    path.write_bytes(row * 100 + finish)
    assert ends_with_finish(path)
