"""A run's rows as columns, many at once: what tables are made of.

Rows that are alike differ in their numbers only. So a block of such lines is read as what it is
nearly, a table with commas between: pyarrow's parser of CSV takes the numbers, and everything
between them is compared, byte by byte, with how the first line spells it. A block of rows of
several kinds is sorted by kind first; what still does not fit is read line by line, as everywhere
else. So what is a row is decided as `decode` does it, with one exception: a number that damage has
turned into one that JSON does not know and pyarrow does ("05", "+1") is taken as a number.
"""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
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
_COMMAS = bytes.maketrans(b":}", b",,")
_DIGITS = b"0123456789.-+e"
_UNFIT = frozenset(b",:}\\\n\r")  # characters of a name that a table with commas cannot have
_FIXED_HEADS = (b'{"kind"', b'"row"', b'"seq"', None, b'"step"', None, b'"time"', None, b'"values"')
_FIXED_COLUMNS = ("3", "5", "7")  # number, step, time
_SPELLED = (b"NaN", b"Infinity", b"-Infinity")
_INT64 = 2**63


def read_blocks(
    run: LocalRun,
    is_wanted: Callable[[str], bool],
    *,
    threads: int | None = None,
    block_bytes: int = BLOCK_BYTES,
) -> Iterator[Block]:
    """Yield all rows that `run` has by now, in order.

    Args:
        run: the run.
        is_wanted: of a metric's name, whether its values are asked for.
        threads: how many read at a time; None: as many as there are processors, up to four.
        block_bytes: about how much of a segment is read as one block.

    Raises:
        OSError: a segment cannot be read.
    """
    threads = min(_MOST_THREADS, os.cpu_count() or 1) if threads is None else threads
    parser = _Parser(is_wanted)
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
    heads: tuple[bytes | None, ...]
    """What stands between two commas; None: a number."""
    columns: list[str] = field(init=False)
    """A name for each, and for what is behind the two braces at the end."""

    def __post_init__(self) -> None:
        """Name the columns."""
        object.__setattr__(self, "columns", [str(i) for i in range(len(self.heads) + 2)])

    @classmethod
    def of(cls, names: tuple[str, ...]) -> _Layout | None:
        """Return the layout of rows of these metrics; None: they cannot be read as a table."""
        heads = list(_FIXED_HEADS)
        for name in names:
            spelled = orjson.dumps(name)
            if not name or _UNFIT.intersection(spelled):
                return None
            heads += [spelled if name is not names[0] else b"{" + spelled, None]
        return cls(names, tuple(heads)) if names else None


class _Parser:
    """Parse pieces of segments.

    Threads: any.
    """

    def __init__(self, is_wanted: Callable[[str], bool]) -> None:
        self._is_wanted = is_wanted
        self._layouts: dict[tuple[str, ...], _Layout | None] = {}

    def parse(self, number: int, lines: bytes) -> Block:
        """Return the rows in whole lines of the segment of attempt `number`."""
        if is_row(lines):
            try:
                return self._parse_alike(number, lines)
            except _Unlike:
                pass
        return self._parse_mixed(number, lines.split(b"\n")[:-1])

    def _parse_mixed(self, number: int, lines: list[bytes]) -> Block:
        """Sort lines by what they are without their digits, and put the rows in order again."""
        kinds: dict[bytes, list[int]] = {}
        others: list[int] = []
        for place, line in enumerate(lines):
            if is_row(line):
                kinds.setdefault(line.translate(None, _DIGITS), []).append(place)
            else:
                others.append(place)
        found: list[tuple[list[int], Block]] = []
        for places in kinds.values():
            if len(places) < _FEW_LINES:
                others += places
                continue
            joined = b"\n".join([lines[place] for place in places]) + b"\n"
            try:
                found.append((places, self._parse_alike(number, joined)))
            except _Unlike:
                others += places
        places, block = self._decode(number, lines, sorted(others))
        found.append((places, block))
        return in_order(number, found, block.bad_lines)

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
        assert isinstance(first, Row)
        layout = self._layout(tuple(first.values))
        if layout is None:
            raise _Unlike
        table = _parse(_bare_non_finite(lines).translate(_COMMAS), layout, first, self._is_wanted)
        count = table.num_rows
        if lines.count(b":") != count * (len(layout.names) + 5) or lines.count(b"}") != 2 * count:
            raise _Unlike
        for column, head in zip(layout.columns, layout.heads, strict=False):
            if head is not None and not _is_constant(table.column(column), head):
                raise _Unlike
        values = {
            name: _numbers(table, _value_column(place))
            for place, name in enumerate(layout.names)
            if self._is_wanted(name)
        }
        seq, step, time_s = (_numbers(table, column) for column in _FIXED_COLUMNS)
        return Block(number, seq, step, time_s, values)

    def _layout(self, names: tuple[str, ...]) -> _Layout | None:
        if names not in self._layouts:
            self._layouts[names] = _Layout.of(names)
        return self._layouts[names]


def _value_column(metric: int) -> str:
    return str(len(_FIXED_HEADS) + 2 * metric + 1)


def _bare_non_finite(lines: bytes) -> bytes:
    """Return rows with their NaNs and infinities as a table has them: without quotes."""
    if b"N" not in lines and b"I" not in lines:
        return lines
    for spelled in _SPELLED:
        if b":" + spelled in lines:  # JSON does not know them so
            raise _Unlike
        lines = lines.replace(b':"%b"' % spelled, b":" + spelled)
    return lines


def _parse(data: bytes, layout: _Layout, first: Row, is_wanted: Callable[[str], bool]) -> Any:
    """Return the columns of `data`, which has commas between all.

    Raises:
        _Unlike: a line has other columns than the first.
    """
    types = dict(zip(_FIXED_COLUMNS, (pa.int64(), pa.int64(), pa.float64()), strict=True))
    for column, head in zip(layout.columns, layout.heads, strict=False):
        if head is not None:
            types[column] = pa.binary(len(head))
    integers: list[str] = []
    for place, name in enumerate(layout.names):
        if is_wanted(name):
            column = _value_column(place)
            is_integer = type(first.values[name]) is int
            types[column] = pa.int64() if is_integer else pa.float64()
            integers += [column] if is_integer else []
    try:
        return _read_csv(data, layout.columns, types)
    except pa.ArrowInvalid:
        if not integers:
            raise _Unlike from None
    try:  # the first is a whole number, others may not be
        table = _read_csv(data, layout.columns, types, inferred=integers)
    except pa.ArrowInvalid:
        raise _Unlike from None
    for column in integers:
        values = table.column(column)
        if values.type == pa.float64():
            greatest = compute.max(compute.abs(values)).as_py()
            if greatest >= _INT64:  # maybe integers that need another type
                raise _Unlike
        elif values.type != pa.int64():
            raise _Unlike
    return table


def _read_csv(
    data: bytes, columns: list[str], types: dict[str, Any], inferred: Sequence[str] = ()
) -> Any:
    return csv.read_csv(
        pa.BufferReader(data),
        csv.ReadOptions(column_names=columns, use_threads=False, block_size=len(data) + 1),
        csv.ParseOptions(quote_char=False, double_quote=False, ignore_empty_lines=False),
        csv.ConvertOptions(
            column_types={name: kind for name, kind in types.items() if name not in inferred},
            include_columns=list(types),
            null_values=[],
            strings_can_be_null=False,
            check_utf8=False,
        ),
    )


def _is_constant(column: Any, value: bytes) -> bool:
    """Return whether a column of binaries of one size holds one value only."""
    return all(
        chunk.buffers()[1]
        .slice(chunk.offset * len(value), len(chunk) * len(value))
        .equals(pa.py_buffer(value * len(chunk)))
        for chunk in column.chunks
    )


def _numbers(table: Any, column: str) -> Any:
    return table.column(column).combine_chunks()
