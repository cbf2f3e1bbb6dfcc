"""A run's rows as columns, many at once: what tables are made of.

Rows that are alike differ in their numbers only. So a block of such lines is split at its commas,
as a table without quotes is; what stands before each number is compared, byte by byte, with how the
first line spells it, and the rest read as a number. pyarrow does all three, and lets other threads
run meanwhile. A block of rows of several kinds is sorted by kind first; what still does not fit is
read line by line, as everywhere else. So what is a row is decided as `decode` does it, but for two
kinds of damage: a number that JSON does not know and pyarrow does ("05", "+1") is taken as one, and
of what is not asked for the number is not looked at.
"""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson
import pyarrow as pa
from pyarrow import compute, csv

from fasttrack.journal.entries import decode
from fasttrack.journal.lines import BLOCK_BYTES, line_blocks
from fasttrack.journal.rows import Row, is_row
from fasttrack.journal.run_directory import attempt
from fasttrack.runs.blocks import Block, block_of_rows, in_order

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Future

    from fasttrack.runs.local import LocalRun

_MOST_THREADS = 4
_FEW_LINES = 32  # to parse so many as a table takes as long as to read them one by one
_START, _END = b'{"kind":"row"', b"}}"
_NO_STOP = 2**31  # without one pyarrow 26 refuses to cut an even number of texts
_SEQ, _STEP, _TIME, _VALUES = 1, 2, 3, 4  # columns; metrics begin with the last
_KINDS: tuple[Callable[[bytes], object], ...] = (  # by which rows are sorted, the quickest first
    lambda line: line.count(b","),
    lambda line: line.translate(None, b"0123456789.-+e"),
)
_SPELLED = (b"NaN", b"Infinity", b"-Infinity")
_INT64 = 2**63


def read_blocks(
    run: LocalRun,
    is_wanted: Callable[[str], bool],
    *,
    steps_only: bool = False,
    threads: int | None = None,
    block_bytes: int = BLOCK_BYTES,
) -> Iterator[Block]:
    """Yield all rows that `run` has by now, in order.

    Args:
        run: the run.
        is_wanted: of a metric's name, whether its values are asked for.
        steps_only: whether neither the numbers nor the times of rows are asked for.
        threads: how many read at a time; None: as many as there are processors, up to four.
        block_bytes: about how much of a segment is read as one block.

    Raises:
        OSError: a segment cannot be read.
    """
    threads = min(_MOST_THREADS, os.cpu_count() or 1) if threads is None else threads
    parser = _Parser(is_wanted, steps_only)
    if threads == 1:  # in that of the caller: what was just read is in its processor's caches
        for path in run.segments:
            for lines in line_blocks(path, block_bytes=block_bytes):
                yield parser.parse(attempt(path), lines)
        return
    with ThreadPoolExecutor(threads, "fasttrack-columns") as pool:
        waiting: deque[Future[Block]] = deque()
        for path in run.segments:
            number = attempt(path)
            for lines in line_blocks(path, block_bytes=block_bytes):
                waiting.append(pool.submit(parser.parse, number, lines))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


class _Unlike(Exception):
    """Lines are not all rows of one layout."""


@dataclass(frozen=True, slots=True)
class _Layout:
    """How rows of the same metrics in the same order are spelled."""

    names: tuple[str, ...]
    heads: tuple[bytes, ...]
    """What stands before the number in each column but the first."""

    @classmethod
    def of(cls, names: tuple[str, ...]) -> _Layout | None:
        """Return the layout of rows of these metrics; None: they cannot be split at commas."""
        spelled = [orjson.dumps(name) + b":" for name in names]
        if not names or b"," in b"".join(spelled):
            return None
        spelled[0] = b'"values":{' + spelled[0]
        return cls(names, (b'"seq":', b'"step":', b'"time":', *spelled))

    def split(self, lines: bytes) -> _Texts:
        """Return the columns of `lines`.

        Raises:
            _Unlike: a line is not spelled so.
        """
        names = [str(place) for place in range(1 + len(self.heads))]
        types = {**dict.fromkeys(names, pa.binary()), names[0]: pa.binary(len(_START))}
        try:
            table = csv.read_csv(
                pa.BufferReader(lines),
                csv.ReadOptions(column_names=names, use_threads=False, block_size=len(lines) + 1),
                csv.ParseOptions(quote_char=False, double_quote=False, ignore_empty_lines=False),
                csv.ConvertOptions(
                    column_types=types,
                    null_values=[],
                    strings_can_be_null=False,
                    check_utf8=False,
                ),
            )
        except pa.ArrowInvalid:
            raise _Unlike from None
        columns = [column.chunk(0) for column in table.columns]  # as it was read as one block
        if not (
            _is_constant(columns[0], _START)
            and all(map(_all_start_with, columns[1:], self.heads))
            and compute.all(compute.ends_with(columns[-1], _END)).as_py()
        ):
            raise _Unlike
        return _Texts(self, columns)


@dataclass(frozen=True, slots=True)
class _Texts:
    """The columns of rows that are alike, as they are spelled."""

    layout: _Layout
    columns: list[Any]

    def numbers(self, place: int, kind: Any) -> Any:
        """Return what stands in a column as numbers of a type of Arrow's.

        Raises:
            _Unlike: one of them is none.
        """
        start = len(self.layout.heads[place - 1])
        stop = -len(_END) if place == len(self.columns) - 1 else _NO_STOP
        text = compute.binary_slice(self.columns[place], start, stop).view(pa.string())
        try:
            return text.cast(kind)
        except pa.ArrowInvalid:
            raise _Unlike from None

    def metric(self, place: int, *, whole: bool) -> Any:
        """Return a metric's values.

        Args:
            place: of the metric in the layout.
            whole: whether the first is an integer.

        Raises:
            _Unlike: they cannot be read so.
        """
        place += _VALUES
        if whole:
            try:
                return self.numbers(place, pa.int64())
            except _Unlike:  # not all are whole, or one needs another type
                pass
        values = self.numbers(place, pa.float64())
        if whole and compute.max(compute.abs(values)).as_py() >= _INT64:
            raise _Unlike
        return values


def _rows_between(lines: bytes) -> tuple[int, int]:
    """Return where the first row begins in whole lines, and where the last one ends.

    A segment begins with lines that are none, and ends with one: a few, which are looked at one by
    one, would have all the others sorted.
    """
    start = 0
    if not is_row(lines) and not (start := lines.find(b"\n" + _START) + 1):
        return 0, 0
    end = len(lines)
    for _ in range(_FEW_LINES):
        last = lines.rfind(b"\n", start, end - 1) + 1 or start
        if is_row(lines[last : last + len(_START)]):
            return start, end
        end = last
    return start, start


def _all_start_with(column: Any, head: bytes) -> bool:
    found: bool = compute.all(compute.starts_with(column, head)).as_py()
    return found


def _is_constant(column: Any, value: bytes) -> bool:
    """Return whether a column of binaries of one size holds one value only."""
    whole = value * len(column)
    found: bool = column.buffers()[1].slice(0, len(whole)).equals(pa.py_buffer(whole))
    return found


class _Parser:
    """Parse pieces of segments.

    Threads: any.
    """

    def __init__(self, is_wanted: Callable[[str], bool], steps_only: bool) -> None:
        self._is_wanted = is_wanted
        self._steps_only = steps_only
        self._layouts: dict[tuple[str, ...], _Layout | None] = {}

    def parse(self, number: int, lines: bytes) -> Block:
        """Return the rows in whole lines of the segment of attempt `number`."""
        start, end = _rows_between(lines)
        if start < end:
            try:
                block = self._parse_alike(number, lines[start:end])
            except _Unlike:
                pass
            else:
                return self._with_ends(number, block, lines[:start], lines[end:])
        return self._parse_mixed(number, lines.split(b"\n")[:-1])

    def _with_ends(self, number: int, block: Block, before: bytes, after: bytes) -> Block:
        """Return a block with what is in the lines before it and after it: mostly no rows."""
        ends = [
            self._decode(number, piece, list(range(len(piece))))[1]
            for piece in (before.split(b"\n")[:-1], after.split(b"\n")[:-1])
        ]
        block.bad_lines = sum(end.bad_lines for end in ends)
        if not any(end.count for end in ends):
            return block
        found, first = [], 0
        for piece in (ends[0], block, ends[1]):
            found.append((list(range(first, first + piece.count)), piece))
            first += piece.count
        return in_order(number, found, block.bad_lines)

    def _parse_mixed(self, number: int, lines: list[bytes]) -> Block:
        """Read rows of several kinds, and others' lines between them; put them in order again."""
        rows = [place for place, line in enumerate(lines) if line.startswith(_START)]
        others = sorted(set(range(len(lines))).difference(rows)) if len(rows) < len(lines) else []
        found: list[tuple[list[int], Block]] = []
        self._sort(number, lines, rows, _KINDS, found, others)
        places, block = self._decode(number, lines, sorted(others))
        found.append((places, block))
        return in_order(number, found, block.bad_lines)

    def _sort(
        self,
        number: int,
        lines: list[bytes],
        places: list[int],
        kinds: Sequence[Callable[[bytes], object]],
        found: list[tuple[list[int], Block]],
        others: list[int],
    ) -> None:
        """Read the lines at `places` kind by kind; what is not `found` so goes to `others`."""
        sorted_by: dict[object, list[int]] = {}
        for place in places:
            sorted_by.setdefault(kinds[0](lines[place]), []).append(place)
        for group in sorted_by.values():
            if len(group) < _FEW_LINES:
                others += group
                continue
            joined = b"\n".join([lines[place] for place in group]) + b"\n"
            try:
                found.append((group, self._parse_alike(number, joined)))
            except _Unlike:
                if len(kinds) > 1:
                    self._sort(number, lines, group, kinds[1:], found, others)
                else:
                    others += group

    def _decode(
        self, number: int, lines: list[bytes], places: list[int]
    ) -> tuple[list[int], Block]:
        rows: list[Row] = []
        kept: list[int] = []
        bad_lines = 0
        for place in places:
            try:
                entry = decode(lines[place])
            except ValueError:
                bad_lines += 1
                continue
            if type(entry) is Row:
                rows.append(entry)
                kept.append(place)
        block = block_of_rows(number, rows, self._is_wanted)
        block.bad_lines = bad_lines
        if self._steps_only:
            block.seq = block.time_s = None
        return kept, block

    def _parse_alike(self, number: int, lines: bytes) -> Block:
        """Return rows that are spelled like the first of them.

        Raises:
            _Unlike: they are not.
        """
        try:
            first = decode(lines[: lines.index(b"\n")])
        except ValueError:
            raise _Unlike from None
        if not isinstance(first, Row) or b"\r" in lines:  # which would end a line, too
            raise _Unlike
        layout = self._layout(tuple(first.values))
        if layout is None:
            raise _Unlike
        texts = layout.split(_bare_non_finite(lines))
        return Block(
            number,
            None if self._steps_only else texts.numbers(_SEQ, pa.int64()),
            texts.numbers(_STEP, pa.int64()),
            None if self._steps_only else texts.numbers(_TIME, pa.float64()),
            {
                name: texts.metric(place, whole=type(first.values[name]) is int)
                for place, name in enumerate(layout.names)
                if self._is_wanted(name)
            },
        )

    def _layout(self, names: tuple[str, ...]) -> _Layout | None:
        if names not in self._layouts:
            self._layouts[names] = _Layout.of(names)
        return self._layouts[names]


def _bare_non_finite(lines: bytes) -> bytes:
    """Return rows with their NaNs and infinities as a table has them: without quotes."""
    if b"N" not in lines and b"I" not in lines:
        return lines
    for spelled in _SPELLED:
        if b":" + spelled in lines:  # JSON does not know them so
            raise _Unlike
        lines = lines.replace(b':"%b"' % spelled, b":" + spelled)
    return lines
