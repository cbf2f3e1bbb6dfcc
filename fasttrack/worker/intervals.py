"""The ticks of one log interval, sorted by what they tell of; and how long its phases took."""

from __future__ import annotations

import itertools
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from fasttrack.hotpath.records import FellOut, PausedSince, PhaseMark

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fasttrack.hotpath.records import Ticks

    Span = tuple[float, float]


class Interval(NamedTuple):
    """What the ticks of an interval tell."""

    times: list[float]
    """When each step ended, by `time.perf_counter()`."""
    batches: list[Any]
    """What was passed as each step's batch size, or `WithTokens`."""
    pauses: list[Span]
    """When each marked pause began and ended; they may overlap. By their beginning."""
    marks: list[tuple[float, PhaseMark]]
    fell_out: bool
    """Whether steps are missing before the first."""


def sort_ticks(ticks: Ticks) -> Interval:
    """Return what `ticks` tell."""
    fell_out = bool(ticks) and ticks[0][1] is FellOut
    if fell_out:
        ticks = ticks[1:]
    batches = [batch_size for _, batch_size in ticks]
    times = [at_s for at_s, _ in ticks]
    pauses: list[Span] = []
    marks: list[tuple[float, PhaseMark]] = []
    kinds = set(map(type, batches))
    if PausedSince in kinds or PhaseMark in kinds:
        pauses = sorted([(float(b), at_s) for at_s, b in ticks if type(b) is PausedSince])
        marks = [(at_s, b) for at_s, b in ticks if type(b) is PhaseMark]
        steps = [tick for tick in ticks if type(tick[1]) not in (PausedSince, PhaseMark)]
        times, batches = [at_s for at_s, _ in steps], [batch_size for _, batch_size in steps]
    return Interval(times, batches, pauses, marks, fell_out)


def gaps(times: list[float], pauses: list[Span]) -> tuple[list[float], float]:
    """Return the seconds from each of `times` to the next, without those in `pauses`; and these.

    Pauses are ordered by their beginning; they may hold or overlap one another, and steps.
    """
    if not pauses:
        return [b - a for a, b in itertools.pairwise(times)], 0.0
    merged = merge(pauses)
    found, all_paused_s = [], 0.0
    first = 0
    for a, b in itertools.pairwise(times):
        while first < len(merged) and merged[first][1] <= a:
            first += 1
        paused_s = 0.0
        for began_s, ended_s in itertools.islice(merged, first, None):
            if began_s >= b:
                break
            paused_s += min(b, ended_s) - max(a, began_s)
        found.append(b - a - paused_s)
        all_paused_s += paused_s
    return found, all_paused_s


def merge(spans: Sequence[Span]) -> list[Span]:
    """Return spans that are ordered by their beginning without any overlap."""
    merged: list[Span] = []
    for began_s, ended_s in spans:
        if merged and began_s <= merged[-1][1]:
            began_s, ended_s = merged[-1][0], max(merged.pop()[1], ended_s)
        merged.append((began_s, ended_s))
    return merged


class PhaseTimes:
    """How long each phase is open, from interval to interval.

    A phase that a logged step lies in goes on behind it.

    Threads: worker only.
    """

    def __init__(self) -> None:
        """Begin without a phase."""
        self._open: dict[str, int] = {}  # of each that there was: how often it is open now

    def __bool__(self) -> bool:
        """Return whether there was a phase."""
        return bool(self._open)

    def forget_open(self) -> None:
        """Take all phases as ended: that some have may be what is missing."""
        self._open = dict.fromkeys(self._open, 0)

    def take(
        self, marks: list[tuple[float, PhaseMark]], times: list[float], pauses: list[Span]
    ) -> tuple[dict[str, float], list[float]]:
        """Follow `marks`, and return the seconds that lie between the first and last of `times`.

        Args:
            marks: where phases begin and end.
            times: where an interval begins and each of its steps ends.
            pauses: when those that are no training began and ended, by their beginning.

        Returns:
            The seconds in each phase that there ever was, and of each step those in any.
        """
        edges: list[tuple[float, Any]] = [(at_s, None) for at_s in times]
        edges += marks
        for began_s, ended_s in pauses:
            edges += ((began_s, 1), (ended_s, -1))
        edges.sort(key=itemgetter(0))
        is_open = self._open
        in_phases = dict.fromkeys(is_open, 0.0)
        in_steps = [0.0] * max(0, len(times) - 1)
        step, paused, last_s = -1, 0, edges[0][0] if edges else 0.0
        for at_s, edge in edges:
            if at_s > last_s and 0 <= step < len(in_steps) and not paused:
                phases = [name for name, depth in is_open.items() if depth]
                for name in phases:
                    in_phases[name] += at_s - last_s
                if phases:
                    in_steps[step] += at_s - last_s
            last_s = at_s
            if edge is None:
                step += 1
            elif type(edge) is int:
                paused += edge
            else:  # an end without its beginning, which fell out, ends nothing
                is_open[edge.name] = max(0, is_open.get(edge.name, 0) + edge.change)
                in_phases.setdefault(edge.name, 0.0)
        return in_phases, in_steps
