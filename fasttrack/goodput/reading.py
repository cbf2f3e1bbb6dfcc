"""Read what tells of a run's goodput out of its segments: two numbers of each row.

A run may have a million of them, so a row is not taken to pieces: it is known to be one of a
training step by the names in it, and its first fields stand where they always do. Where all lines
of a piece are rows that begin with the loss, as most are, one pattern finds these fields. A line
that is spelled in another way is decoded, as everywhere else; one that is damaged is passed over.
"""

from __future__ import annotations

import re
from array import array
from typing import TYPE_CHECKING

from fasttrack.goodput.account import Account
from fasttrack.journal.entries import Finish, Pausing, Unlogged, entry_of
from fasttrack.journal.lines import line_blocks
from fasttrack.journal.reader import last_written_s, read_header
from fasttrack.journal.rows import Row
from fasttrack.journal.run_directory import attempt

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from fasttrack.goodput.figures import Goodput

_PAUSE, _PAUSE_KEY = "perf/pause_s", b'"perf/pause_s":'
_TRAINING = (b'"loss/total":', b'"perf/step_time_ms/p50":', b'"train/lr":')
"""Names of which a training step's row has one, nearly always the first."""
_BESIDE = tuple(b'"values":{"%b' % name for name in (b"host/", b"nodes/", b"ranks/"))
"""What rows begin with that no call has logged."""
_ROW, _ROW_END = b'{"kind":"row","seq":', b"}}"
_STEP, _TIME = b'"step":', b'"time":'
_TOLD = tuple(b'{"kind":"%b"' % kind.kind.encode() for kind in (Pausing, Unlogged, Finish))
_LARGEST_STEP, _LATEST_S = 2**53, 1e11
_ALIKE = re.compile(
    rb'^\{"kind":"row","seq":[0-9]+,"step":(-?[0-9]{1,15}),"time":([1-9][0-9]{0,9}\.[0-9]{1,9}),'
    rb'"values":\{"loss/total":[^\n]*\}\}\n',
    re.MULTILINE,
)
_BLOCK_BYTES = 2**18  # of lines that may all be alike


def read_goodput(segments: Sequence[Path], *, block_bytes: int = _BLOCK_BYTES) -> Goodput:
    """Return the goodput of the run that has these segments.

    Args:
        segments: of its attempts, the oldest first.
        block_bytes: about how much of a segment is read as one piece.

    Raises:
        OSError: a segment cannot be read.
    """
    goodput = _read(segments, block_bytes, all_rows=False)
    return goodput if goodput.steps else _read(segments, block_bytes, all_rows=True)


def _read(segments: Sequence[Path], block_bytes: int, *, all_rows: bool) -> Goodput:
    account = Account(all_rows=all_rows)
    for path in segments:
        segment = _Segment(account, all_rows)
        header = read_header(path)
        segment.begin(attempt(path), 0.0 if header is None else header.time_s)
        for block in line_blocks(path, block_bytes=block_bytes):
            segment.take(block)
        segment.end(last_written_s(path))
    return account.told()


class _Segment:
    """The rows of one attempt, on their way to the account."""

    def __init__(self, account: Account, all_rows: bool) -> None:
        self._account = account
        self._names = () if all_rows else _TRAINING
        self._number = 0
        self._begun = False
        self._finish: Finish | None = None
        self._steps = array("q")
        self._times_s = array("d")
        self._pauses_s: dict[int, float] = {}
        self._newest_s = 0.0

    def begin(self, number: int, began_s: float) -> None:
        """Begin attempt `number`; 0: its header does not say when it began."""
        self._number = number
        if began_s:
            self._begun = True
            self._account.begin(number, began_s)

    def take(self, block: bytes) -> None:
        """Take in whole lines."""
        if self._names and self._take_alike(block):
            return
        steps, times_s = self._steps, self._times_s
        first, *others = self._names or (b"",)
        for line in block.split(b"\n"):
            if not line.startswith(_ROW):
                if line.startswith(_TOLD):
                    self._take_told(line)
                continue
            if first not in line and not any(name in line for name in others):
                continue
            if not first and any(name in line for name in _BESIDE):
                continue
            try:
                _, _, step, time_s, _ = line.split(b",", 4)
                number, at_s = int(step[7:]), float(time_s[7:])
                if step[:7] != _STEP or time_s[:7] != _TIME or line[-2:] != _ROW_END:
                    raise ValueError
                if not (-_LARGEST_STEP <= number <= _LARGEST_STEP and 0 < at_s < _LATEST_S):
                    continue
            except ValueError:
                if (found := _row(line)) is None:
                    continue
                number, at_s = found.step, found.time_s
            if _PAUSE_KEY in line and (found := _row(line)) is not None:
                self._pauses_s[len(steps)] = found.values.get(_PAUSE, 0.0)
            steps.append(number)
            times_s.append(at_s)
        self._hand_over()

    def _take_alike(self, block: bytes) -> bool:
        """Take in lines that are all rows that begin with the loss; return whether they are."""
        found = _ALIKE.findall(block)
        if not found or len(found) != block.count(b"\n"):
            return False
        pauses_s: dict[int, float] = {}
        place = block.find(_PAUSE_KEY)
        while place >= 0:
            start, end = block.rfind(b"\n", 0, place) + 1, block.index(b"\n", place)
            if (row := _row(block[start:end])) is None:
                return False
            pauses_s[block.count(b"\n", 0, start)] = row.values.get(_PAUSE, 0.0)
            place = block.find(_PAUSE_KEY, end)
        self._pauses_s.update(pauses_s)
        steps, times_s = zip(*found, strict=True)
        self._steps.extend(map(int, steps))
        self._times_s.extend(map(float, times_s))
        self._hand_over()
        return True

    def _take_told(self, line: bytes) -> None:
        self._hand_over()
        entry = entry_of(line)
        if isinstance(entry, Finish):
            self._finish = entry
        elif self._begun and isinstance(entry, Pausing):
            self._account.take_pause(begins=entry.begins, time_s=entry.time_s)
        elif self._begun and isinstance(entry, Unlogged):
            self._account.take_unlogged(entry)

    def _hand_over(self) -> None:
        if not self._steps:
            return
        if not self._begun:  # without a whole header the first row tells
            self.begin(self._number, self._times_s[0])
        self._newest_s = max(self._newest_s, self._times_s[-1])
        self._account.take_rows(self._steps, self._times_s, self._pauses_s)
        del self._steps[:], self._times_s[:]
        self._pauses_s.clear()

    def end(self, ended_s: float) -> None:
        """End the attempt, of which the last line with a time has `ended_s`."""
        if self._begun:
            self._account.end(
                max(ended_s, self._newest_s),
                finished=self._finish is not None,
                last_step=None if self._finish is None else self._finish.last_step,
            )


def _row(line: bytes) -> Row | None:
    """Return the row that a line is; None: it is none, or damaged."""
    entry = entry_of(line)
    if not isinstance(entry, Row) or abs(entry.step) > _LARGEST_STEP:
        return None
    return entry if 0 < entry.time_s < _LATEST_S else None
