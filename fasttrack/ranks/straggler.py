"""Which rank holds the others up: the one that is found at work of its own while they wait.

Each rank tells how often its training thread was found in what no other rank can have caused
(`own_time.py`), out of how many looks. A rank whose share of such looks stays far above that of the
others makes them wait, for the difference between the two. A rank that waits has a small share,
however long its steps take.

A *chronic* straggler is one whose share, averaged over some seconds (EWMA), is at least `MARGIN`
above the median of the other ranks', by more than chance would make of one among so many ranks, and
so in most of its newest spans, each of which holds a step at least. A single long step (a
checkpoint, a stall) is no more than a one-off, which is counted.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from statistics import median
from typing import TYPE_CHECKING, Final

from fasttrack.ranks.figures import figures_of
from fasttrack.ranks.messages import Span

if TYPE_CHECKING:
    from collections.abc import Collection

MARGIN: Final = 0.25
"""Of the training time that the others wait for a rank, from which it is a straggler."""
_AVERAGE_S = 5.0
_FEWEST_SAMPLES = 15.0  # of a rank, after decay, below which nothing is known of it
_NEWEST = 4  # spans of a rank that are looked at one by one
_MOSTLY = 3  # of them
_SHORTEST_SPAN_S = 0.8
_ONE_OFF_S = 1.0  # that others wait for a rank in one span
_JUDGEMENTS = 1000.0  # of each rank, in all of which chance alone is hardly ever to name one


class _Rank:
    """What is known of one rank. Threads: one at a time."""

    __slots__ = ("average", "ended", "newest", "one_off", "span", "squares")

    def __init__(self) -> None:
        """Know nothing."""
        self.span = Span()  # that is not long enough yet
        self.average = Span()  # decayed
        self.squares = 0.0  # of the samples' weights in that: what tells how far it is by chance
        self.newest: deque[float] = deque(maxlen=_NEWEST)
        """By how much the share was above the others', in the newest spans."""
        self.one_off = False
        """Whether the newest span may be a one-off."""
        self.ended = False

    @property
    def known(self) -> bool:
        """Whether there are enough looks to judge by."""
        return self.average.samples >= _FEWEST_SAMPLES

    @property
    def share(self) -> float:
        """Of the time that it is at work of its own."""
        return self.average.own / self.average.samples

    def scatter(self, usual: float) -> float:
        """Return by how much its share would differ from `usual` by chance."""
        return _scatter(usual, self.average.samples, self.squares)

    def settle(self) -> Span | None:
        """Return the span, and begin another, where it holds at least a step and some time."""
        span = self.span
        if span.elapsed_s < _SHORTEST_SPAN_S or not span.steps:
            return None
        self.span = Span()
        if not span.samples:  # a pause, from beginning to end
            return None
        kept = math.exp(-span.elapsed_s / _AVERAGE_S)
        self.average.keep(kept)
        self.average.add(span)
        self.squares = self.squares * kept * kept + span.samples
        return span


def _scatter(usual: float, samples: float, squares: float) -> float:
    """Return one sigma of the share of own time, in looks that are random.

    Args:
        usual: the share that is expected.
        samples: the weights of the looks together.
        squares: their squares.
    """
    return math.sqrt(max(0.0, usual * (1 - usual)) * squares) / samples


class Stragglers:
    """Judge all ranks.

    Threads: one at a time.
    """

    def __init__(self) -> None:
        """Know of no rank."""
        self._known: dict[int, _Rank] = {}
        self._settled: list[tuple[int, Span]] = []
        self.chronic: set[int] = set()
        """The ranks that hold the others up, all the time."""
        self.one_offs = 0
        """How often a rank has held the others up once."""

    def take(self, rank: int, span: Span) -> None:
        """Take in what a rank's thread was seen doing."""
        known = self._known.get(rank)
        if known is None:
            known = self._known[rank] = _Rank()
        known.span.add(span)
        if (settled := known.settle()) is not None:
            self._settled.append((rank, settled))

    def end(self, rank: int) -> None:
        """Note that a rank says nothing more: from now on it holds nobody up."""
        self.chronic.discard(rank)
        if rank in self._known:
            self._known[rank].ended = True

    def forget(self, rank: int) -> None:
        """Know nothing of a rank of which nothing is heard."""
        self.chronic.discard(rank)
        self._known.pop(rank, None)

    def judge(self) -> frozenset[int]:
        """Look at the ranks that have told something since the last time.

        Returns:
            Those that hold the others up now.
        """
        settled, self._settled = self._settled, []
        shares = {}
        for rank, known in self._known.items():
            mean = known.average
            if mean.samples >= _FEWEST_SAMPLES and not known.ended:
                shares[rank] = mean.own / mean.samples
        if len(shares) < 2:  # nobody is left whom a rank could hold up
            self.chronic.clear()
            return frozenset()
        sigmas = math.sqrt(2 * math.log(_JUDGEMENTS * len(shares)))
        usual = _Medians(list(shares.values()))
        for rank, span in settled:
            if rank in shares:
                self._judge(rank, span, usual.without(shares[rank]), sigmas)
        return frozenset(self.chronic)

    def _judge(self, rank: int, span: Span, others: float, sigmas: float) -> None:
        known = self._known[rank]
        above = span.own / span.samples - others
        known.newest.append(above)
        beyond = known.share - others
        if (
            beyond >= MARGIN
            and beyond >= sigmas * known.scatter(others)
            and sum(each >= MARGIN for each in known.newest) >= _MOSTLY
        ):
            self.chronic.add(rank)
            known.one_off = False
            return
        if beyond < MARGIN / 2:
            self.chronic.discard(rank)
        if known.one_off and above < MARGIN and rank not in self.chronic:
            self.one_offs += 1
        known.one_off = (
            above >= MARGIN
            and above * span.elapsed_s >= _ONE_OFF_S
            and above >= sigmas * _scatter(others, span.samples, span.samples)
        )

    @property
    def worst(self) -> int | None:
        """The chronic straggler that takes most; the lowest of several that do."""
        return max(self.chronic, key=lambda rank: (self._known[rank].share, -rank), default=None)

    def describe(self, rank: int) -> str:
        """Return in words what a rank is at while others wait."""
        known = self._known[rank]
        mean = known.average
        others = [
            each.share for number, each in self._known.items() if number != rank and each.known
        ]
        usual = median(others) if others else 0.0
        data = f", waiting for data {mean.data / mean.samples:.0%}" if mean.data else ""
        return (
            f"it is at work of its own {known.share:.0%} of the time{data}, the others {usual:.0%}"
        )

    def figures(self) -> dict[str, float]:
        """Return over all ranks, per step, the milliseconds of own time and of waiting for data.

        As they stand in a row; empty where no rank is known.
        """
        ranks: list[int] = []
        values: dict[str, list[float]] = {"own_time_ms": [], "data_wait_ms": []}
        for rank, known in self._known.items():
            mean = known.average
            if mean.samples < _FEWEST_SAMPLES or not mean.steps:
                continue
            step_ms = 1e3 * mean.elapsed_s / mean.steps
            ranks.append(rank)
            values["own_time_ms"].append(mean.own / mean.samples * step_ms)
            values["data_wait_ms"].append(mean.data / mean.samples * step_ms)
        row: dict[str, float] = {}
        if ranks:
            for name, each in values.items():
                row.update(figures_of(name, ranks, each))
        return row


class _Medians:
    """Medians of all values but one, each from one sorting. Threads: one at a time."""

    def __init__(self, values: Collection[float]) -> None:
        """Sort at least two values."""
        self._sorted = sorted(values)

    def without(self, value: float) -> float:
        """Return the median of the others, where `value` is one of them."""
        ordered = self._sorted
        at = bisect_left(ordered, value)
        left = len(ordered) - 1
        low, high = (left - 1) // 2, left // 2
        return (ordered[low + (low >= at)] + ordered[high + (high >= at)]) / 2
