"""Rows against what a destination holds: by content, whatever the order and however it is cut."""

from __future__ import annotations

import math
import random
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.journals import row, write_attempt

from fasttrack.delivery.contents import (
    Held,
    Known,
    Numbered,
    compare,
    numbered_rows,
    spell_steps,
    step_ranges,
)
from fasttrack.journal.rows import Row

SEGMENT = Path("segment-0001.jsonl")


def numbered(*rows: Row) -> list[Numbered]:
    """Return rows as those of one segment."""
    return [Numbered(SEGMENT, number, one) for number, one in enumerate(rows)]


def rows_of_steps(*steps: int) -> list[Row]:
    """Return a row of two metrics for each step."""
    return [row(seq, step, 0.0, a=float(step), b=0.5) for seq, step in enumerate(steps)]


def held(*rows: Row) -> list[Held]:
    """Return rows as a destination holds them."""
    return [(one.step, one.values) for one in rows]


def test_merged_cut_and_reordered_rows_are_all_there() -> None:
    """A destination's lines are not the journal's rows; their values are."""
    ours = [row(0, 3, a=1.0), row(1, 3, b=2.0), row(2, 5, a=3.0, b=4.0, c=5.0), row(3, 4, a=0.0)]
    theirs: list[Held] = [
        (4, {"a": 0.0, "_step": 9, "step": 4}),
        (5, {"c": 5.0}),
        (5, {"b": 4, "a": 3}),
        (3, {"a": 1, "b": 2}),
    ]

    found = compare(lambda: numbered(*ours), lambda: theirs)

    assert (found.rows, found.values, found.lines) == (4, 6, 4)
    assert (found.missing, found.doubled.total(), found.others.total()) == ([], 0, 0)
    assert all(one.journal == one.held for one in found.metrics.values())


@pytest.mark.parametrize(
    ("logged", "kept"),
    [
        (math.nan, math.nan),
        (math.nan, "NaN"),
        (-math.inf, "-Infinity"),
        (1.0, 1),
        (-0.0, 0.0),
        (True, 1),
        (2**64 - 1, 1.8446744073709552e19),
    ],
)
def test_a_number_is_the_same_however_it_is_written(logged: float, kept: object) -> None:
    """JSON, Go and Python spell numbers in different ways."""
    found = compare(lambda: numbered(row(0, 1, a=logged)), lambda: [(1, {"a": kept})])

    assert found.missing == []


def test_a_row_that_is_not_there_is_named_with_its_metrics() -> None:
    """What stands in its place is told from a gap."""
    ours = rows_of_steps(0, 1, 2, 3)
    theirs = [*held(ours[0], ours[2]), (1, {"a": 1.0}), (3, {"a": 99.0, "b": 0.5})]

    found = compare(lambda: numbered(*ours), lambda: theirs)

    assert [(one.number, one.step, one.metrics, one.replaced) for one in found.missing] == [
        (1, 1, ("b",), False),
        (3, 3, ("a",), True),
    ]
    assert (found.replaced, found.others) == (1, {3: 1})
    assert found.gaps() == "2 of 4 rows are not there (steps 1, 3)"


def test_what_was_logged_twice_must_be_there_twice_and_not_thrice() -> None:
    """Equal values of one metric at one step count, one by one."""
    ours = [row(0, 7, a=1.0), row(1, 7, a=1.0)]

    once = compare(lambda: numbered(*ours), lambda: held(*ours[:1]))
    thrice = compare(lambda: numbered(*ours), lambda: held(*ours, ours[0]))

    assert [one.number for one in once.missing] == [1]
    assert (thrice.missing, thrice.doubled) == ([], {7: 1})


def test_values_that_metrics_have_swapped_differ() -> None:
    """The same numbers at the same step, under each other's names."""
    ours = [row(0, 1, a=1.0, b=2.0)]

    found = compare(lambda: numbered(*ours), lambda: [(1, {"a": 2.0, "b": 1.0})])

    assert found.missing[0].metrics == ("a", "b")


@pytest.mark.parametrize("seed", range(20))
def test_any_rows_that_are_taken_away_are_found(seed: int) -> None:
    """Against the plain way to do it, with all rows in memory."""
    rng = random.Random(seed)
    ours = [
        row(seq, rng.randrange(-5, 5000), a=rng.choice((0.0, 1.0)), b=rng.random())
        for seq in range(2000)
    ]
    gone = set(rng.sample(range(2000), rng.choice((1, 3, 500))))
    theirs = held(*(one for one in ours if one.seq not in gone))
    rng.shuffle(theirs)

    found = compare(lambda: numbered(*ours), lambda: theirs)

    assert {one.step for one in found.missing} == {ours[seq].step for seq in gone}
    assert sum("b" in one.metrics for one in found.missing) == len(gone)
    assert {one.number for one in found.missing if "b" in one.metrics} == gone


def test_equal_contents_are_read_once() -> None:
    """A second pass is for what differs; a server is not asked twice for nothing."""
    ours, asked = rows_of_steps(*range(100)), []

    def theirs() -> list[Held]:
        asked.append(1)
        return held(*ours)

    compare(lambda: numbered(*ours), theirs)

    assert asked == [1]


def test_only_what_is_lacking_is_handed_over_again() -> None:
    """Of a row that is there in part, the rest; of one that came later, all of it."""
    ours = rows_of_steps(0, 1)
    known = Known(compare(lambda: numbered(*ours), lambda: [(0, ours[0].values), (1, {"a": 1.0})]))

    assert known.lacking(SEGMENT.name, 0, ours[0]) is None
    assert known.lacking(SEGMENT.name, 1, ours[1]) == Row(1, 1, 0.0, {"b": 0.5})
    assert known.lacking(SEGMENT.name, 2, ours[1]) is ours[1]
    assert Known().lacking(SEGMENT.name, 0, ours[0]) is ours[0]


def test_rows_are_numbered_in_their_segment_from_any_one_on(tmp_path: Path) -> None:
    """Damaged lines have no number."""
    first = write_attempt(tmp_path, "r", *rows_of_steps(0, 1, 2))
    second = write_attempt(tmp_path, "r", *rows_of_steps(5))
    first.write_bytes(first.read_bytes().replace(b'"seq":1', b'"seq":x'))

    found = numbered_rows([first, second], lambda path: 1 if path == first else 0)

    assert [(one.segment, one.number, one.row.step) for one in found] == [
        (first, 1, 2),
        (second, 0, 5),
    ]


def test_steps_are_spelled_as_a_few_ranges() -> None:
    """A gap of thousands is one range."""
    assert step_ranges([5, 1, 2, 3, 2]) == [[1, 3], [5, 5]]
    assert spell_steps(range(4000)) == "0 to 3999"
    assert spell_steps([9, 1, 3, 5]) == "1, 3, 5, ..."


@pytest.mark.parametrize(
    ("logged", "other"), [(-1.0, -2.0), (math.inf, 314159.0), (1.0, 2.0**61), (0.5, 2.0**60)]
)
def test_numbers_of_one_python_hash_are_told_apart(logged: float, other: float) -> None:
    """Another's reward of -2 stands where ours was -1."""
    found = compare(lambda: numbered(row(0, 1, a=logged)), lambda: [(1, {"a": other})])

    assert [one.replaced for one in found.missing] == [True]
    assert found.metrics["a"].journal != found.metrics["a"].held


def test_many_lost_rows_are_kept_as_numbers() -> None:
    """A million rows that a server has lost filled a gigabyte; each is kept in bytes now."""
    count, names = 5000, [f"metric/{number}" for number in range(20)]

    def journal() -> Iterator[Numbered]:
        for number in range(count):
            yield Numbered(SEGMENT, number, Row(number, number, 0.0, dict.fromkeys(names, 0.5)))

    tracemalloc.start()
    found = compare(journal, list)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert len(found.missing) == count
    assert found.missing[-1].metrics == tuple(names)
    assert peak_bytes / count < 400
