"""Compare the journal's rows with what a destination holds: by count and by content.

A destination may merge rows of one step, or cut one in two, and give them steps of its own. So what
is compared are values: a number of a metric at a step of the user's, as often as it was logged. One
pass over both sides sums a checksum of them, whatever their order, for every metric and for every
bucket of steps; only where buckets differ are their values compared one by one, in a second pass.
Memory does not grow with the run, but with what differs.
"""

from __future__ import annotations

import itertools
import math
import struct
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, TypeVar

from fasttrack.journal.follower import Follower
from fasttrack.journal.rows import Row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

Held: TypeAlias = "tuple[int, Mapping[str, object]]"
"""The user's step of something that a destination holds, and its metrics."""

T = TypeVar("T")

_BUCKETS = 4096
_MASK = 2**64 - 1
_MOST_NAMED = 3
_TWO_INTEGERS = struct.Struct("=II")
_NUMBER = struct.Struct("=d")
_SPELLED = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class Numbered(NamedTuple):
    """A row of the journal, and where it stands."""

    segment: Path
    number: int
    """Of the row in its segment, from 0."""
    row: Row


def numbered_rows(
    paths: Sequence[Path],
    first: Callable[[Path], int] = lambda path: 0,
    end: Callable[[Path], int | None] = lambda path: None,
) -> Iterator[Numbered]:
    """Yield the rows of segments, oldest first.

    Args:
        paths: the segments.
        first: returns of each the number of the first row.
        end: returns of each how many rows count, as a segment may grow meanwhile; None: all.

    Raises:
        OSError: a segment cannot be read.
    """
    for path in paths:
        with Follower.of_segments([path]) as follower:
            rows = _numbered(path, follower)
            yield from itertools.islice(rows, first(path), end(path))


def _numbered(path: Path, follower: Follower) -> Iterator[Numbered]:
    number = -1
    for batch in follower.batches():
        for entry in batch.entries:
            if isinstance(entry, Row):
                number += 1
                yield Numbered(path, number, entry)


def watched(items: Iterable[T], moved: Callable[[], None]) -> Iterator[T]:
    """Yield `items`, and call `moved` with each."""
    for item in items:
        moved()
        yield item


@dataclass(slots=True)
class Sum:
    """How many values there are, and a checksum that does not depend on their order."""

    count: int = 0
    checksum: int = 0

    def add(self, digest: int) -> None:
        """Take in one value."""
        self.count += 1
        self.checksum = (self.checksum + digest) & _MASK


@dataclass(slots=True)
class MetricComparison:
    """One metric on both sides."""

    factor: int
    """What tells its values from those of others in a bucket."""
    journal: Sum = field(default_factory=Sum)
    held: Sum = field(default_factory=Sum)


class MissingRow(NamedTuple):
    """A row of which not all values are there."""

    segment: str
    """The segment's name."""
    number: int
    """Of the row in its segment, from 0."""
    step: int
    metrics: tuple[str, ...]
    """Those whose values are not there."""
    replaced: bool
    """Whether other values of them stand at its step."""


@dataclass(slots=True)
class Comparison:
    """What became of the journal's rows at one destination."""

    rows: int = 0
    """In the journal."""
    values: int = 0
    """In these rows."""
    lines: int = 0
    """What the destination holds, in its own units."""
    missing: list[MissingRow] = field(default_factory=list)
    doubled: Counter[int] = field(default_factory=Counter)
    """Step -> values that are there more often than they were logged."""
    others: Counter[int] = field(default_factory=Counter)
    """Step -> values of the run's metrics that the journal does not have."""
    metrics: dict[str, MetricComparison] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    """Segment name -> how many rows it had."""

    @property
    def replaced(self) -> int:
        """How many rows are missing while others stand in their place."""
        return sum(row.replaced for row in self.missing)

    def gaps(self) -> str:
        """Return in words which rows are missing."""
        rows = f"{len(self.missing):,} of {self.rows:,} rows are not there"
        return f"{rows} (steps {spell_steps(row.step for row in self.missing)})"

    def surplus(self) -> str:
        """Return in words what is there too often."""
        values = f"{self.doubled.total():,} values are there more often than they were logged"
        return f"{values} (steps {spell_steps(self.doubled)})"


def step_ranges(steps: Iterable[int]) -> list[list[int]]:
    """Return steps as ranges, [first, last] each, in order."""
    ranges: list[list[int]] = []
    for step in sorted(set(steps)):
        if ranges and step == ranges[-1][1] + 1:
            ranges[-1][1] = step
        else:
            ranges.append([step, step])
    return ranges


def spell_steps(steps: Iterable[int]) -> str:
    """Return steps as ranges, such as "3, 17 to 20", not more than a few."""
    ranges = step_ranges(steps)
    told = [str(a) if a == b else f"{a} to {b}" for a, b in ranges[:_MOST_NAMED]]
    return ", ".join(told) + (", ..." if len(ranges) > _MOST_NAMED else "")


def canonical(value: object) -> object:
    """Return a value such that equal numbers are equal, however they were written; NaN is one."""
    if isinstance(value, str):
        value = _SPELLED.get(value, value)
    if isinstance(value, (int, float)):
        number = float(value)
        return () if math.isnan(number) else number + 0.0  # -0.0 is 0.0
    return repr(value)


def _digest(step: int, value: object) -> int:
    """Return what tells a value at a step from others; the same in every process for a number."""
    value = canonical(value)
    if isinstance(value, float):  # Python's own hash is the same for -1 and -2
        return hash((step, *_TWO_INTEGERS.unpack(_NUMBER.pack(value))))
    return hash((step, value))


def as_it_is(row: Row) -> Held:
    """Return a row for a destination that keeps it as it is."""
    return row.step, row.values


def compare(
    journal: Callable[[], Iterable[Numbered]],
    held: Callable[[], Iterable[Held]],
    *,
    kept: Callable[[Row], Held] = as_it_is,
) -> Comparison:
    """Find out which of the journal's values a destination holds.

    Args:
        journal: returns the rows, the same ones at every call.
        held: returns what the destination holds; called a second time where something differs.
        kept: returns of a row what the destination can be expected to hold.

    Raises:
        Exception: whatever `journal` or `held` raise.
    """
    found = Comparison()
    ours, theirs = [0] * _BUCKETS, [0] * _BUCKETS
    metrics = found.metrics
    for segment, number, row in journal():
        found.rows += 1
        found.counts[segment.name] = number + 1
        step, values = kept(row)
        bucket = step % _BUCKETS
        for name, value in values.items():
            digest = _digest(step, value)
            metric = metrics.get(name)
            if metric is None:
                metric = metrics[name] = MetricComparison(hash(name) | 1)
            metric.journal.add(digest)
            ours[bucket] += digest * metric.factor
            found.values += 1
    for step, told in held():
        found.lines += 1
        bucket = step % _BUCKETS
        for name, value in told.items():
            if (metric := metrics.get(name)) is not None:
                digest = _digest(step, value)
                metric.held.add(digest)
                theirs[bucket] += digest * metric.factor
    differing = {n for n, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b}
    if differing:
        _find_differences(found, differing, journal, held, kept)
    return found


def _find_differences(
    found: Comparison,
    buckets: set[int],
    journal: Callable[[], Iterable[Numbered]],
    held: Callable[[], Iterable[Held]],
    kept: Callable[[Row], Held],
) -> None:
    left = Counter(
        (step, name, canonical(value))
        for step, told in held()
        if step % _BUCKETS in buckets
        for name, value in told.items()
        if name in found.metrics
    )
    doubled: set[tuple[int, str, object]] = set()  # as long as they are left
    steps: list[int] = []  # of the rows in `found.missing`, as they were looked for
    same: dict[tuple[str, ...], tuple[str, ...]] = {}  # a million rows lack the same few metrics
    for segment, number, row in journal():
        step, values = kept(row)
        if step % _BUCKETS not in buckets:
            continue
        gone = []
        for name, value in values.items():
            key = (step, name, canonical(value))
            count = left.get(key, 0)
            if not count:
                gone.append(name)
            elif count > 1:
                left[key] = count - 1
                doubled.add(key)
            else:
                del left[key]
                doubled.discard(key)
        if gone:
            names = tuple(gone)
            names = same.setdefault(names, names)
            found.missing.append(MissingRow(segment.name, number, row.step, names, replaced=False))
            steps.append(step)
    for key, count in left.items():
        (found.doubled if key in doubled else found.others)[key[0]] += count
    placed = {(step, name) for step, name, _ in left}
    for place, step in enumerate(steps if placed else ()):
        lost = found.missing[place]
        if any((step, name) in placed for name in lost.metrics):
            found.missing[place] = lost._replace(replaced=True)


class Known:
    """Which rows of pending segments the destination has, as `settle` found them."""

    def __init__(self, found: Comparison | None = None) -> None:
        """Know what `found` tells; without it nothing."""
        self._counts = {} if found is None else found.counts
        missing = () if found is None else found.missing
        self._missing: dict[str, dict[int, tuple[str, ...]]] = {}
        for row in missing:
            self._missing.setdefault(row.segment, {})[row.number] = row.metrics

    def lacking(self, segment: str, number: int, row: Row) -> Row | None:
        """Return what the destination lacks of a segment's row `number`; None: nothing."""
        if number >= self._counts.get(segment, 0):
            return row
        gone = self._missing.get(segment, {}).get(number)
        if gone is None:
            return None
        return row.only(gone)
