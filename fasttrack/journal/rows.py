"""The journal's rows: what one holds, and how it is written and read.

A row is a line of kind "row" (see `entries.py`) with the keys `seq`, `step`, `time` and `values`.
Training writes one for each logged call, so they are made, and mostly read, in few steps.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeAlias

import orjson

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Number: TypeAlias = "float | int"

_ROW_START = b'{"kind":"row"'
MEDIA_START = b'{"kind":"media"'
_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_NUMBERS = frozenset((float, int, bool))


class Names:
    """The metrics of rows that are alike: there is one object for all of them.

    Threads: any.
    """

    __slots__ = ("as_set", "in_order")

    def __init__(self, in_order: tuple[str, ...]) -> None:
        """Be these names."""
        self.in_order = in_order
        self.as_set = frozenset(in_order)


class Row:
    """The metrics of one logged call. Nobody changes one; its values are read when asked for.

    Threads: any; two that ask at a time find the same.
    """

    kind: ClassVar[str] = "row"
    __slots__ = ("_values", "names", "seq", "spelled", "step", "time_s")

    def __init__(
        self,
        seq: int,
        step: int,
        time_s: float,
        values: dict[str, Number] | None = None,
        names: Names | None = None,
        spelled: tuple[bytes, ...] | None = None,
    ) -> None:
        """Be a row.

        Args:
            seq: the row's number in its segment, from 0.
            step: the user's training step.
            time_s: "time": when it was logged.
            values: metric name to number; None: they stand in `spelled`.
            names: those of its metrics, where they are known to many rows.
            spelled: number, step, time and the values of `names`, each as the journal spells it.
        """
        self.seq: Final = seq
        self.step: Final = step
        self.time_s: Final = time_s
        self.names: Final = names
        self.spelled: Final = spelled
        self._values = values

    @property
    def values(self) -> dict[str, Number]:
        """Metric name to number."""
        if self._values is None:
            assert self.names is not None
            assert self.spelled is not None
            numbers = map(_read_number, self.spelled[3:])
            self._values = dict(zip(self.names.in_order, numbers, strict=True))
        return self._values

    def with_values(self, values: dict[str, Number]) -> Row:
        """Return the same row with other values."""
        return Row(self.seq, self.step, self.time_s, values)

    def only(self, names: Iterable[str]) -> Row:
        """Return the same row with some of its values."""
        return self.with_values({name: self.values[name] for name in names})

    def __eq__(self, other: object) -> bool:
        """Compare all that the journal holds of it."""
        if not isinstance(other, Row):
            return NotImplemented
        mine = (self.seq, self.step, self.time_s, self.values)
        return mine == (other.seq, other.step, other.time_s, other.values)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        """Return it as it is written in code."""
        return f"Row({self.seq}, {self.step}, {self.time_s}, {self.values})"


def encode_row(seq: int, step: int, time_s: float, values: dict[str, Number]) -> bytes:
    """Return the line of one row; the fields are those of `Row`, which the worker need not make.

    Raises:
        TypeError: a key is not a string, or an integer exceeds 64 bits.
    """
    row = {"kind": "row", "seq": seq, "step": step, "time": time_s, "values": values}
    line = orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)
    # orjson writes a non-finite float as null; `rfind` costs half of what `find` and `in` do.
    if line.rfind(b'":null') >= 0:
        row["values"] = spell_non_finite(values)
        line = orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)
    return line


def encode_rows(
    first_seq: int, rows: Sequence[tuple[int, float, dict[str, Number]]]
) -> bytes | None:
    """Return the lines of rows that follow one another: those of `encode_row`, at half the cost.

    Args:
        first_seq: the number of the first.
        rows: of each the step, the time and the values.

    Returns:
        None where it looks as if a number were not finite: they are to be encoded one by one.

    Raises:
        TypeError: as in `encode_row`, because of one of them.
    """
    array = orjson.dumps(
        [
            {"kind": "row", "seq": seq, "step": step, "time": time_s, "values": values}
            for seq, (step, time_s, values) in enumerate(rows, first_seq)
        ]
    )
    if array.rfind(b'":null') >= 0:
        return None
    # Only between rows: quotes in a name are escaped, and values are numbers.
    return array[1:-1].replace(b"," + _ROW_START, b"\n" + _ROW_START) + b"\n"


def row_of(found: dict[str, Any]) -> Row:
    """Return the row that a line's JSON object holds.

    Raises:
        ValueError: its number, step or time, or a value, is none.
        KeyError: one of them is missing.
        AttributeError: its values are no object.
    """
    seq, step, time_s = found["seq"], found["step"], found["time"]
    values = found["values"]
    if not _NUMBERS.issuperset(map(type, values.values())):
        values = {name: _as_number(value) for name, value in values.items()}
    if type(seq) is not int or type(step) is not int or type(time_s) not in _NUMBERS:
        raise ValueError("its number, step or time is none")
    return Row(seq, step, time_s, values)


def _read_number(text: bytes) -> Number:
    return int(text) if text.lstrip(b"-").isdigit() else float(text)


def _as_number(value: Any) -> Number:
    """Return a value of a row, which may be one that JSON knows no number for."""
    if type(value) is str and value in _NON_FINITE:
        return _NON_FINITE[value]
    if type(value) not in _NUMBERS:
        raise ValueError("a value is no number")
    return value  # type: ignore[no-any-return]


def is_row(line: bytes) -> bool:
    """Return whether a whole, undamaged line is a row's with numbers. Parses nothing."""
    return line.startswith(_ROW_START)


def counts_as_row(line: bytes) -> bool:
    """Return whether a whole, undamaged line is a row's: with numbers, or of media."""
    return line.startswith((_ROW_START, MEDIA_START))


def count_row_lines(lines: bytes) -> int:
    """Return how many rows stand in whole lines, the first of which is preceded by a newline.

    Media count, too.
    """
    return lines.count(b"\n" + _ROW_START) + lines.count(b"\n" + MEDIA_START)


def spell_non_finite(value: Any) -> Any:
    """Return `value` with strings for the floats that JSON does not know, at every depth."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, dict):
        return {name: spell_non_finite(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [spell_non_finite(inner) for inner in value]
    return value
