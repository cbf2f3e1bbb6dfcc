"""Read rows that are alike without taking their names to pieces again and again.

Most rows of a run have the same metrics in the same order. From a few such lines a pattern is made,
which finds the numbers of the next ones as they are spelled; what needs them as numbers turns them
into such (`Row.values`), and what only hands them on does not. A line that the pattern does not
match in every byte is read as JSON: a pattern says nothing new about what is a row.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

import orjson

from fasttrack.journal.entries import decode
from fasttrack.journal.rows import Names, Row

if TYPE_CHECKING:
    from fasttrack.journal.entries import Entry

_MOST_TRIED = 4  # patterns, newest first, before a line is read as JSON
_MOST_KNOWN = 256  # sets of names, counted or with a pattern
_WORTH_IT = 50  # lines after which a pattern is made: that takes as long as to read about as many
_WIDE = 16  # names, from which on a pattern is slow unless its groups are plain runs of characters
# JSON's numbers, as far as they are numbers of the same kind to Python.
_CHARACTERS = rb"([-+.0-9e]+)"
_INTEGER = rb"-?(?:0|[1-9][0-9]{0,17})"
_TIME = _INTEGER + rb"\.[0-9]{1,11}"  # with all of them no longer than `lines.py` is ready for
_NUMBER = _INTEGER + rb"(?:\.[0-9]+)?(?:e[-+]?[0-9]{1,2})?"
_VALID = re.compile(b"%b,%b,%b(?:,%b)*" % (_INTEGER, _INTEGER, _TIME, _NUMBER))


class RowShapes:
    """What is known of how rows are spelled.

    Threads: any; what two learn at a time, one may forget.
    """

    def __init__(self) -> None:
        """Know nothing."""
        self._counts: dict[tuple[str, ...], int] = {}
        self._known: dict[tuple[str, ...], _Shape] = {}
        self._tried: tuple[_Shape, ...] = ()

    def decode(self, line: bytes) -> Entry:
        """Return the entry of one line.

        Raises:
            ValueError: the line is not one that fasttrack wrote; says why, without its values.
        """
        tried = self._tried
        for shape in tried:
            if (found := shape.pattern.fullmatch(line)) is not None:
                if shape is not tried[0]:
                    self._tried = (shape, *(other for other in tried if other is not shape))
                spelled = found.groups()
                if shape.is_wide and _VALID.fullmatch(b",".join(spelled)) is None:
                    break
                seq, step, time_s = int(spelled[0]), int(spelled[1]), float(spelled[2])
                return Row(seq, step, time_s, None, shape.names, spelled)
        entry = decode(line)
        if type(entry) is Row:
            self._learn(tuple(entry.values), line)
        return entry

    def _learn(self, names: tuple[str, ...], line: bytes) -> None:
        shape = self._known.get(names)
        if shape is None:
            count = self._counts.get(names, 0) + 1
            if len(self._counts) >= _MOST_KNOWN:
                self._counts.clear()
            self._counts[names] = count
            if count != _WORTH_IT:
                return
            is_wide = len(names) > _WIDE
            shape = _Shape(re.compile(_pattern(names, is_wide)), Names(names), is_wide)
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[names] = shape
        if shape not in self._tried and shape.pattern.fullmatch(line) is not None:  # no NaN
            self._tried = (shape, *self._tried)[:_MOST_TRIED]


class _Shape(NamedTuple):
    pattern: re.Pattern[bytes]
    names: Names
    is_wide: bool


def _pattern(names: tuple[str, ...], is_wide: bool) -> bytes:
    if is_wide:
        integer = time = number = _CHARACTERS
    else:
        integer, time, number = (b"(%b)" % one for one in (_INTEGER, _TIME, _NUMBER))
    values = b",".join(re.escape(orjson.dumps(name)) + b":" + number for name in names)
    start = rb'\{"kind":"row","seq":%b,"step":%b,"time":%b,"values":\{' % (integer, integer, time)
    return start + values + rb"\}\}"


decode_line = RowShapes().decode  # one for the process: a segment is read more than once
