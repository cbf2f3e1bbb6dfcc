"""What bounds a run and how it stands with its ranks, read on as its journal grows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fasttrack.journal.entries import Header, entry_of
from fasttrack.journal.lines import line_blocks
from fasttrack.journal.rows import Row
from fasttrack.journal.trouble import RanksStanding
from fasttrack.runs.ranks import OF_RANKS, RanksReading
from fasttrack.runs.summary import Summary
from fasttrack.runs.verdict import PHASES, judge_run

if TYPE_CHECKING:
    from pathlib import Path

    from fasttrack.runs.local import LocalRun
    from fasttrack.runs.ranks import RanksHealth
    from fasttrack.runs.verdict import Verdict

_ROW = b'{"kind":"row"'
_CHANGES = tuple(b'{"kind":"%b"' % kind.kind.encode() for kind in (Header, RanksStanding))
_OF_RANKS = b'"%b":' % OF_RANKS.encode()
_OF_PHASES = {name: b'"%b":' % name.encode() for name in PHASES}


class SpeedReading:
    """Read what `show` tells of a run's speed, and decode no line that says nothing of it.

    Threads: one at a time.
    """

    def __init__(self) -> None:
        """Know nothing."""
        self._ranks = RanksReading()
        self._phases: dict[str, Summary] = {}
        self._read_bytes: dict[Path, int] = {}
        self._row = b""  # the newest row, of which only the step may be asked for

    def read_on(self, run: LocalRun) -> tuple[RanksHealth | None, Verdict | None]:
        """Read what `run` has by now behind what was read before; return what all of it says.

        Returns:
            How it stands with the ranks, and what bounds the run; None where it does not tell.

        Raises:
            OSError: a segment cannot be read.
        """
        for path in run.segments:
            for block in line_blocks(path, start=self._read_bytes.get(path, 0)):
                self._read_bytes[path] = self._read_bytes.get(path, 0) + len(block)
                self._take(block)
        health = self._ranks.health()
        ranks = 1 if run.header is None else run.header.world_size
        return health, judge_run(self._phases, ranks, health)

    def _take(self, block: bytes) -> None:
        """Take in whole lines."""
        if not any(told in block for told in (_OF_RANKS, *_OF_PHASES.values(), *_CHANGES)):
            start = block.rfind(b"\n" + _ROW) + 1
            if start or block.startswith(_ROW):
                self._row = block[start : block.index(b"\n", start)]
            return
        for line in block.split(b"\n"):
            if line.startswith(_ROW):
                if _OF_RANKS not in line and b"\\" not in line and line.endswith(b"}}"):
                    self._take_phases(line)
                    self._row = line
                    continue
            elif not line.startswith(_CHANGES):
                continue
            self._take_step()  # it is when that changed
            self._take_line(line)

    def _take_phases(self, line: bytes) -> None:
        """Take in a row that may have a million like it: it is not taken to pieces."""
        for name, spelled in _OF_PHASES.items():
            _, _, number = line.partition(spelled)
            if number:
                try:
                    self._add(name, float(number.partition(b",")[0].rstrip(b"}").strip(b'"')))
                except ValueError:  # as in `_take_line`
                    return

    def _add(self, phase: str, value: float) -> None:
        self._phases.setdefault(phase, Summary()).add(value)

    def _take_step(self) -> None:
        if self._row and (entry := entry_of(self._row)) is not None:
            self._ranks.take(entry)
        self._row = b""

    def _take_line(self, line: bytes) -> None:
        entry = entry_of(line)
        if entry is None:  # what reads the rows tells of damage
            return
        self._ranks.take(entry)
        if isinstance(entry, Row):
            for name in PHASES:
                if name in entry.values:
                    self._add(name, entry.values[name])
