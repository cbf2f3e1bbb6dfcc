"""Rows that are alike, read by a pattern: the same as by JSON, line for line."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING

import pytest

from fasttrack.journal.entries import decode
from fasttrack.journal.rows import Row, encode_row
from fasttrack.journal.shapes import RowShapes

if TYPE_CHECKING:
    from fasttrack.journal.entries import Entry

VALUES = [
    *[0.0, -0.0, 1e16, 1e-7, 1.5e300, 5e-324, 123456789.123456789, 1e15, 1e17, 1e21, 1e-5],
    *[0, -1, 2**53 + 1, 2**62, 2**63, 2**64 - 1, -(2**63), 10**17, 10**18],
    *[math.nan, math.inf, -math.inf, 1e99, 1e100, 1.7976931348623157e308],
]
NAMES = ["loss/total", 'quo"te', "back\\slash", "a.0,", "é", "{}", "", "\n", "1e5", "x" * 70]


def line_of(step: int, values: dict[str, float | int]) -> bytes:
    """Return a row's line without its newline."""
    return encode_row(step, step, 1e9 + step / 3, values)[:-1]


def trained(names: list[str]) -> RowShapes:
    """Return shapes that have seen many rows of `names`."""
    shapes = RowShapes()
    for step in range(60):
        shapes.decode(line_of(step, dict.fromkeys(names, step / 7)))
    entry = shapes.decode(line_of(60, dict.fromkeys(names, 0.5)))
    assert isinstance(entry, Row)
    assert entry.spelled is not None
    return shapes


def outcome(decoder: object, line: bytes) -> Entry | str:
    """Return what a decoder says of a line, its refusal in words."""
    try:
        entry: Entry = decoder(line)  # type: ignore[operator]
    except ValueError:
        return "refused"
    return entry


def spelled(entry: Entry | str) -> str:
    """Return an entry so that NaN equals NaN, and 1 is not 1.0."""
    return repr(entry)


@pytest.mark.parametrize("more", [0, 40])
def test_every_number_is_read_as_by_json(more: int) -> None:
    """Integers stay integers, the sign of zero stays, and what is no JSON number is read, too."""
    names = NAMES + [f"layer.{n}" for n in range(more)]
    shapes = trained(names)
    rng = random.Random(1)
    for step in range(2000):
        line = line_of(step - 500, {name: rng.choice(VALUES[:17]) for name in names})
        if step % 2:
            line = line_of(step - 500, {name: rng.choice(VALUES) for name in names})

        assert spelled(shapes.decode(line)) == spelled(decode(line))


@pytest.mark.parametrize("count", [2, 20])
def test_a_damaged_line_is_refused_as_by_json(count: int) -> None:
    """A pattern is no second opinion on what is a row."""
    names = [f"n{n}" for n in range(count)]
    shapes = trained(names)
    rng = random.Random(2)
    whole = line_of(17, {name: (10.25, -3)[n % 2] for n, name in enumerate(names)})
    for _ in range(10_000):
        line = bytearray(whole)
        for _ in range(rng.randint(1, 3)):
            line[rng.randrange(len(line))] = rng.choice(b'0123456789.-+e,:"{}[]x \x00')

        found, expected = (outcome(way, bytes(line)) for way in (shapes.decode, decode))
        assert spelled(found) == spelled(expected), bytes(line)


@pytest.mark.parametrize("count", [2, 5, 300])
def test_rows_of_many_kinds_in_turn_are_read_right(count: int) -> None:
    """Evaluations, samples of the GPU, every layer's norm: kinds come and go."""
    shapes = RowShapes()
    kinds = [[f"k{kind}/{n}" for n in range(1 + kind % 4)] for kind in range(count)]
    for step in range(100 * min(count, 20)):
        line = line_of(step, dict.fromkeys(kinds[step % count], step / 3))

        assert spelled(shapes.decode(line)) == spelled(decode(line))


def test_a_row_that_was_read_so_is_equal_to_the_row_itself() -> None:
    """Whoever compares rows need not know how they were read."""
    entry = trained(["a"]).decode(line_of(3, {"a": 0.5}))

    assert entry == Row(3, 3, 1e9 + 1, {"a": 0.5})
    assert entry != Row(3, 3, 1e9 + 1, {"a": 0.25})
