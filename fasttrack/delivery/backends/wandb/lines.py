"""Lines of a run's history, as the bytes of wandb-core's own records.

A `history` record is what wandb-core itself makes of what `run.log` sends it: one line, finished.
It is written to the file and sent to the server as it stands, at a fraction of the cost. Numbers
are spelled as in the journal, and what does not change from line to line is put together once for
all rows that are alike.

The format is protobuf's: a field is its tag, its length and its content. Fields and their numbers
are W&B's `wandb_internal.proto`; they must stay as they are for files that exist to be read.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import TYPE_CHECKING

import orjson

from fasttrack.delivery.backends.wandb.history import LOGGED_AT, STEP_KEY
from fasttrack.journal.rows import spell_non_finite

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from fasttrack.journal.rows import Names, Number, Row

_FRAME = struct.Struct("<cI")  # of the client's socket: a letter and a length
_ITEM, _KEY, _VALUE = b"\x0a", b"\x0a", b"\x82\x01"  # HistoryRecord.item, its key and value_json;
# SummaryRecord.update is written alike.
_STEP, _NUM = b"\x12", b"\x08"  # HistoryRecord.step, its num
_HISTORY, _SUMMARY = b"\x12", b"\x1a"  # of a Record
_INFO, _STREAM = b"\xc2\x0c", b"\x0a"  # Record._info, its stream_id
_PUBLISH = b"\x0a"  # ServerRequest.record_publish
_LONGEST_KEY = 1000  # bytes of a name whose items are prepared for
_LONGEST = 32  # characters of a number that is prepared for; a journal's have at most 24


def varint(number: int) -> bytes:
    """Return a number that is not negative as protobuf writes it."""
    if number < 128:
        return bytes((number,))
    if number < 16384:
        return bytes((number & 127 | 128, number >> 7))
    return bytes((number & 127 | 128, number >> 7 & 127 | 128)) + varint(number >> 14)


class Column:
    """How items of one name are written.

    Threads: any.
    """

    def __init__(self, name: str) -> None:
        """Be ready for items called `name`."""
        key = name.encode()
        self._key = _KEY + varint(len(key)) + key + _VALUE
        prepared = _LONGEST if len(key) <= _LONGEST_KEY else 0
        self.starts = [self._start(length) for length in range(prepared)]
        """How an item begins, for each length of its number; none where that took much memory."""

    def _start(self, length: int) -> bytes:
        told = self._key + varint(length)
        return _ITEM + varint(len(told) + length) + told

    def item(self, text: bytes) -> bytes:
        """Return the item whose value is spelled `text`."""
        return self._start(len(text)) + text


_AXIS, _LOGGED_AT = Column(STEP_KEY), Column(LOGGED_AT)
_STEP_ITEM, _TIMESTAMP, _RUNTIME = Column("_step"), Column("_timestamp"), Column("_runtime")


@lru_cache(4096)
def _column(name: str) -> Column:
    return Column(name)


@lru_cache(256)
def _starts(names: Names) -> Sequence[Sequence[bytes]]:
    return [_column(name).starts for name in names.in_order]


def spell(value: Number) -> bytes:
    """Return a number as W&B's client spells it."""
    told = spell_non_finite(value)
    return told.encode() if isinstance(told, str) else orjson.dumps(told)


def items(row: Row, part: Mapping[str, Number] | None) -> bytes:
    """Return what a row has for a line, or a part of it."""
    spelled, names = row.spelled, row.names
    if part is None and spelled is not None and names is not None:
        try:
            pairs = zip(_starts(names), spelled[3:], strict=True)
            return b"".join([starts[len(text)] + text for starts, text in pairs])
        except IndexError:  # a long name; or so many digits, written by hand
            pass
    given = row.values if part is None else part
    return b"".join([_column(name).item(spell(value)) for name, value in given.items()])


class Line:
    """A line that may not be finished: other rows of its step may follow.

    Threads: one at a time.
    """

    __slots__ = ("items", "late", "rows", "step")

    def __init__(
        self, step: int, row: Row, part: Mapping[str, Number] | None, *, late: bool
    ) -> None:
        """Begin with a row.

        Args:
            step: the line's `_step`.
            row: the first row.
            part: what of it; None: all.
            late: whether it comes so late that it says when it was logged, as by `run.log`.
        """
        self.step = step
        self.rows = [(row, part)]
        self.items = items(row, part)
        self.late = late

    def join(self, row: Row, part: Mapping[str, Number] | None, *, late: bool) -> None:
        """Take in another row of the same step."""
        self.rows.append((row, part))
        self.items += items(row, part)
        self.late = self.late or late

    @property
    def kind(self) -> Hashable:
        """What is the same for all lines that have the same metrics in the same order."""
        if len(self.rows) == 1:
            row, part = self.rows[0]
            if row.names is not None and part is None:
                return row.names
        return tuple([tuple(row.values if part is None else part) for row, part in self.rows])

    def told(self) -> bytes:
        """Return all items that depend on the journal alone."""
        row = self.rows[-1][0]
        if row.spelled is None:
            axis, time_text = b"%d" % row.step, spell(row.time_s)
        else:
            _, axis, time_text, *_ = row.spelled
        step = axis if row.step == self.step else b"%d" % self.step
        return b"".join(
            (
                self.items,
                *(_AXIS.starts[len(axis)], axis),
                *(_STEP_ITEM.starts[len(step)], step),
                *(_TIMESTAMP.starts[len(time_text)], time_text),
            )
        )

    def all_items(self, runtime_s: float) -> bytes:
        """Return what is `told`, and what depends on when it is delivered."""
        runtime = b"%.3f" % runtime_s
        told = self.told() + _RUNTIME.starts[len(runtime)] + runtime
        if not self._says_when:
            return told
        return told + _LOGGED_AT.item(spell(self.rows[-1][0].time_s))

    @property
    def _says_when(self) -> bool:
        return self.late and not any(
            LOGGED_AT in (row.values if row.names is None else row.names.as_set)
            for row, _ in self.rows  # what the user logs under our name stays
        )

    def values(self) -> dict[str, Number]:
        """Return its metrics as `run.log` takes them."""
        values: dict[str, Number] = {}
        for row, part in self.rows:
            values |= row.values if part is None else part
        last = self.rows[-1][0]
        values[STEP_KEY] = last.step
        if self._says_when:
            values[LOGGED_AT] = last.time_s
        return values


class Lines:
    """Make lines of rows: those of one `_step` that follow one another are one.

    Threads: one at a time.
    """

    def __init__(self) -> None:
        """Begin without a line."""
        self.open: Line | None = None
        """The one that the next row may join."""

    def add(
        self, step: int, row: Row, part: Mapping[str, Number] | None, *, late: bool = False
    ) -> Line | None:
        """Take in a row, or a part of it; return the line that it has finished, if it has."""
        line = self.open
        if line is not None and line.step == step:
            line.join(row, part, late=late)
            return None
        self.open = Line(step, row, part, late=late)
        return line


class Framing:
    """Put records into what the client's socket carries, for one run.

    Threads: any.
    """

    def __init__(self, stream_id: str) -> None:
        """Be ready for records of the run that wandb-core knows as `stream_id`."""
        name = stream_id.encode()
        stream = _STREAM + varint(len(name)) + name
        self._info = _INFO + varint(len(stream)) + stream
        self._starts: dict[int, bytes] = {}  # of frames of history, by the record's length

    def history(self, items: bytes, step: int) -> bytes:
        """Return the frame of a `HistoryRecord`."""
        num = varint(step)
        length = len(items) + 3 + len(num)
        start = self._starts.get(length)
        if start is None:
            start = self._starts[length] = self._start(_HISTORY, length)
        return b"".join((start, items, _STEP, _SMALL[1 + len(num)], _NUM, num, self._info))

    def summary(self, items: bytes) -> bytes:
        """Return the frame of a `SummaryRecord`; of items of one name the last one counts."""
        return b"".join((self._start(_SUMMARY, len(items)), items, self._info))

    def _start(self, kind: bytes, length: int) -> bytes:
        """Return what stands in a frame before the content of its record, which is so long."""
        told = kind + varint(length)
        record_bytes = len(told) + length + len(self._info)
        told = _PUBLISH + varint(record_bytes) + told
        return _FRAME.pack(b"W", len(told) + length + len(self._info)) + told


_SMALL = [bytes((number,)) for number in range(128)]
