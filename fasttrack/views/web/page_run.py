"""One run as the page has it, also while it goes on."""

from __future__ import annotations

import json
import os
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fasttrack.goodput import read_goodput
from fasttrack.journal.backwards import lines_backwards
from fasttrack.journal.entries import Config, Console, Header, Metadata, entry_of
from fasttrack.journal.lines import read_rare
from fasttrack.journal.reader import count_rows
from fasttrack.journal.rows import Row, spell_non_finite
from fasttrack.journal.run_directory import attempt
from fasttrack.runs.alerts import RunAlert, read_alerts
from fasttrack.runs.local import LocalRun, readable
from fasttrack.runs.speed import SpeedReading
from fasttrack.runs.status import find_status
from fasttrack.views.curves import Points, columns_pay, read_points, reading_threads
from fasttrack.views.goodput import tell_goodput
from fasttrack.views.report import flatten
from fasttrack.views.speed import tell_speed
from fasttrack.views.web.console import ENOUGH_LETTERS, last_lines
from fasttrack.views.web.lines import followed_by, line_of, places_for
from fasttrack.views.web.media import read_media
from fasttrack.views.web.payload import pack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from fasttrack.journal.entries import Entry
    from fasttrack.views.web.lines import Line

_MOST_TAIL_ROWS, _TAIL_SHARE = 5_000, 50  # the latter of the rows before it; beyond, all is read
_TAIL_PLACES = 4  # its share of a line's
_SMALL_BYTES = 8 * 2**20  # journals up to here are read for goodput whenever a page is made
_LONGEST_TEXT = 2_000  # letters of a setting's value


@dataclass(frozen=True, slots=True, kw_only=True)
class _Read:
    """A run up to some row."""

    newest: tuple[int, int]
    """Attempt and number of that row."""
    rows: int
    lines: dict[str, Line]
    said: list[Header | Config | Metadata]
    """Of the run itself; what comes again behind that row may be among them, too."""
    console: str
    bad_lines: int
    goodput: list[tuple[str, str]]


class PageRun:
    """What the page is handed of a run.

    A run that goes on is not read from its beginning each time: what was read stays, and the rows
    behind it are read from the end, until they have become too many.

    Threads: one at a time.
    """

    def __init__(
        self,
        run: LocalRun,
        key: str,
        is_wanted: Callable[[str], bool],
        *,
        pages: int = 1,
        with_media: bool = False,
    ) -> None:
        """Take a run.

        Args:
            run: it; what of it is damaged is noted there.
            key: what the page calls it by.
            is_wanted: of a metric's name, whether it is shown.
            pages: among how many runs like this one the page's room is shared.
            with_media: whether to hand over its media, too.
        """
        self._run = run
        self._key = key
        self._is_wanted = is_wanted
        self._pages = pages
        self._with_media = with_media
        self._read: _Read | None = None
        self._speed = SpeedReading()
        self.metrics: list[str] = []
        """The names of those that it had when it was packed last."""

    def pack(self) -> bytes:
        """Return the run as it is by now; see `payload.py`.

        Raises:
            RunUnreadableError: it cannot be read.
        """
        run = LocalRun(self._run.directory)  # with the headers that are there now
        with readable(run.directory):
            if not run.segments:
                raise FileNotFoundError("its journal is gone")
            read = self._read or self._read_all()
            newer = list(_entries_after(run, read.newest))[::-1]
            rows = sum(isinstance(entry, Row) for entry in newer)
            if rows > max(_MOST_TAIL_ROWS, read.rows // _TAIL_SHARE):
                read = self._read_all()
                newer = list(_entries_after(run, read.newest))[::-1]
            self._read = read
            lines = self._with_rows(read, [entry for entry in newer if isinstance(entry, Row)])
            self.metrics = list(lines)
            return pack(self._tell(run, read, newer), lines)

    def _read_all(self) -> _Read:
        run = self._run
        threads = reading_threads() if columns_pay([run]) else None
        found = read_points(run, self._is_wanted, times=True, threads=threads)
        places = places_for(len(found.pieces) * self._pages)
        return _Read(
            newest=found.newest,
            rows=_rows_until(run, found.newest),
            lines={name: line_of(points, places) for name, points in found.each()},
            said=[entry for path in run.segments for entry in read_rare(path)],
            console=_console_before(run, found.newest),
            bad_lines=run.bad_lines,
            goodput=_goodput(run),
        )

    def _with_rows(self, read: _Read, rows: list[Row]) -> dict[str, Line]:
        columns: dict[str, tuple[array[float], ...]] = {}
        for row in rows:
            for name, value in row.values.items():
                if not self._is_wanted(name):
                    continue
                if name not in columns:
                    columns[name] = tuple(array("d") for _ in range(3))
                for column, number in zip(
                    columns[name], (row.step, value, row.time_s), strict=True
                ):
                    column.append(number)
        lines = dict(read.lines)
        places = places_for(len(lines.keys() | columns) * self._pages)
        for name, column_of in columns.items():
            points = Points(*map(np.array, column_of))
            if name in lines:
                lines[name] = followed_by(lines[name], points, max(1, places // _TAIL_PLACES))
            else:
                lines[name] = line_of(points, places)
        return lines

    def _tell(self, run: LocalRun, read: _Read, newer: list[Entry]) -> dict[str, Any]:
        config: dict[str, Any] = {}
        metadata: dict[str, Any] = {}
        printed = [read.console]
        for entry in (*read.said, *newer):
            match entry:
                case Config():
                    config.update(entry.values)
                case Header():
                    config.update(entry.config)
                case Metadata():
                    metadata = entry.values
                case Console():
                    printed.append(entry.text)
        status = find_status(run)
        header = run.header
        return {
            "key": self._key,
            "id": run.run_id,
            "name": run.name,
            "project": run.project,
            "tags": [] if header is None else list(header.tags or ()),
            "notes": None if header is None else header.notes,
            "state": status.word,
            "exit_code": status.exit_code,
            "started_s": run.started_s,
            "ended_s": status.ended_s,
            "attempts": len(run.segments),
            "rows": read.rows + sum(isinstance(entry, Row) for entry in newer),
            "directory": os.fsencode(run.directory.absolute()).decode(errors="replace"),
            "speed": list(tell_speed(*self._speed.read_on(run), status).items()),
            "goodput": _goodput(run) if _is_small(run) else read.goodput,
            "config": _spelled(config),
            "metadata": _spelled(metadata),
            "console": last_lines("".join(printed)),
            "alerts": [_alert(alert) for alert in read_alerts(run.directory)],
            "bad_lines": read.bad_lines,
            **({"media": read_media(run.directory, self._pages)} if self._with_media else {}),
        }


def _goodput(run: LocalRun) -> list[tuple[str, str]]:
    return list(tell_goodput(read_goodput(run.segments)).items())


def _is_small(run: LocalRun) -> bool:
    return sum(path.stat().st_size for path in run.segments) <= _SMALL_BYTES


def _alert(alert: RunAlert) -> dict[str, object]:
    time_s, level, title, text, *_ = alert
    return {"time_s": time_s, "level": level, "title": title, "text": text, "step": alert.step}


def _rows_until(run: LocalRun, newest: tuple[int, int]) -> int:
    """Return how many rows there are up to one of them, media included."""
    number, seq = newest
    return seq + 1 + sum(count_rows(path) for path in run.segments if attempt(path) < number)


def _entries_after(run: LocalRun, newest: tuple[int, int]) -> Iterator[Entry]:
    """Yield what is written behind a row, the last first."""
    for path in reversed(run.segments):
        for line in lines_backwards(path):
            entry = entry_of(line)
            if entry is None:
                continue
            if isinstance(entry, Row) and (attempt(path), entry.seq) <= newest:
                return
            yield entry


def _console_before(run: LocalRun, newest: tuple[int, int]) -> str:
    """Return the last of what was printed up to a row."""
    number, seq = newest
    row_start = b'{"kind":"row","seq":%d,' % seq
    pieces: list[str] = []
    size = 0
    for path in reversed(run.segments):
        behind = attempt(path) == number  # lines behind the row are others' to tell
        if attempt(path) > number:
            continue
        for line in lines_backwards(path):
            if behind:
                behind = not line.startswith(row_start)
            elif line.startswith(b'{"kind":"console"') and (text := _printed(line)):
                pieces.append(text)
                size += len(text)
                if size > ENOUGH_LETTERS:
                    return "".join(reversed(pieces))
    return "".join(reversed(pieces))


def _printed(line: bytes) -> str:
    entry = entry_of(line)
    return entry.text if isinstance(entry, Console) else ""


def _spelled(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return settings by name, nested ones dotted, each value as text."""
    flat = flatten(values)
    return [(name, _text(flat[name])) for name in sorted(flat)]


def _text(value: Any) -> str:
    text = (
        value if isinstance(value, str) else json.dumps(spell_non_finite(value), ensure_ascii=False)
    )
    return text if len(text) <= _LONGEST_TEXT else text[: _LONGEST_TEXT - 3] + "..."
