"""What a run's journal says of its ranks: who is not heard of, and who held the others up."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fasttrack.journal.entries import Header
from fasttrack.journal.rows import Row
from fasttrack.journal.trouble import RanksStanding

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from fasttrack.journal.entries import Entry
    from fasttrack.journal.media import MediaRow
    from fasttrack.journal.rows import Number

OF_RANKS = "ranks/missing"
"""The metric that is in every row that tells of ranks."""
_WINDOW = "ranks/step"  # in those that tell of a window of steps
_OWN, _DATA, _STEP_TIME = "ranks/own_time_ms", "ranks/data_wait_ms", "ranks/step_time_ms/mean"
_NAMED = 8  # in one line


@dataclass(frozen=True, slots=True, kw_only=True)
class Straggler:
    """A rank that held the others up."""

    where: str
    """Which, and where it ran: "rank 2 (node7, GPU 2: ...)"."""
    what: str
    """In words, what it was at meanwhile."""
    first_step: int | None
    """The newest step when it was named; None: there was none."""
    last_step: int | None
    """The newest step when it was one no more; None: it was to the end of what is known."""

    def tell(self, *, now: bool) -> str:
        """Return it in words; `now`: whether the run goes on."""
        since = "the beginning" if self.first_step is None else f"step {self.first_step}"
        if self.last_step is not None:
            return f"{self.where} held the others up from {since} to {self.last_step}: {self.what}"
        if now:
            return f"{self.where} holds the others up since {since}: {self.what}"
        return f"{self.where} held the others up from {since} to the end: {self.what}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RanksHealth:
    """How it stands with the ranks of a run, and what they waited for."""

    ranks: int
    missing_ranks: int
    """How many are not heard of, in the newest attempt, at the end of what is known."""
    missing: tuple[str, ...]
    """The first of them, and where they ran."""
    untold: int
    """How many told of no window of steps, in the newest attempt, though they may be heard of."""
    stragglers: tuple[Straggler, ...]
    """In the order in which they were named; of all attempts."""
    one_offs: int
    """How often the ranks waited for one of them just once, in all attempts."""
    data_pct: float | None
    """Percent of the training time that the ranks wait for their data, in the mean; None, as
    below: it is not known."""
    data_rank: str | None
    """The rank that waits for its data most, by `data_rank_pct` percent of the training time."""
    data_rank_pct: float | None
    others_pct: float | None
    """Percent of the training time that the others wait for ranks that hold them up."""
    others_rank: str | None
    """The rank that they wait for most; None: there is none."""
    others_rank_data_pct: float | None
    """Percent of the training time that this one waits for its data, while it holds them up."""

    def tell(self, *, now: bool) -> str:
        """Return it as a line; `now`: whether the run goes on."""
        told = [f"{self.ranks - self.missing_ranks} of {self.ranks} heard"]
        if self.missing_ranks:
            named = self.missing[:_NAMED]
            more = self.missing_ranks - len(named)
            told.append(f"missing: {', '.join(named)}" + (f" and {more} more" if more else ""))
        if self.untold > self.missing_ranks:
            told.append(f"{self.untold} tell of no steps")
        told += [each.tell(now=now) for each in self.stragglers[-_NAMED:]]
        if len(self.stragglers) > _NAMED:
            told.append(f"so did others before, {len(self.stragglers) - _NAMED} times")
        if self.one_offs:
            told.append(f"{self.one_offs} times one was waited for just once")
        return "; ".join(told)


class RanksReading:
    """Take in a journal's entries, in order, as far as they tell of ranks.

    Threads: one at a time.
    """

    def __init__(self) -> None:
        """Know nothing."""
        self._seen = False
        self._ranks = 1
        self._step: int | None = None
        self._standing = RanksStanding()
        self._untold: int | None = None
        self._slow: dict[str, Straggler] = {}
        self._were_slow: list[Straggler] = []
        self._places: dict[str, str] = {}  # "rank 2" -> with node and GPU
        self._one_offs = self._one_offs_before = 0
        self._windows = 0
        self._data_pct = self._data_most_pct = 0.0  # sums, as below
        self._data_ranks: defaultdict[str, float] = defaultdict(float)
        self._busiest: Counter[str] = Counter()  # the rank with the longest own time
        self._waited_pct: defaultdict[str, float] = defaultdict(float)  # that it has beyond others
        self._busiest_data_pct: defaultdict[str, float] = defaultdict(float)

    def take(self, entry: Entry | MediaRow) -> None:
        """Take in the next entry, of whatever kind."""
        if type(entry) is Row:
            values = entry.values
            if OF_RANKS in values:
                self._seen = True
                self._take_row(values)
            self._step = entry.step
        elif isinstance(entry, RanksStanding):
            self._seen = True
            self._take_standing(entry)
        elif isinstance(entry, Header):
            self._end(self._slow)
            self._ranks, self._standing, self._untold = entry.world_size, RanksStanding(), None
            self._one_offs_before += self._one_offs
            self._one_offs = 0

    def health(self) -> RanksHealth | None:
        """Return what is known by now; None where the run does not tell of its ranks."""
        if not self._seen:
            return None
        windows = self._windows
        stragglers = (*self._were_slow, *self._slow.values())
        # The busiest of many is so by chance, at times; one that was ever named is so in earnest.
        named = {_rank_of(one.where) for one in stragglers}
        waited_pct = {rank: pct for rank, pct in self._waited_pct.items() if rank in named}
        others = _most(waited_pct)
        return RanksHealth(
            ranks=self._ranks,
            missing_ranks=self._standing.missing_ranks,
            missing=self._standing.missing,
            untold=self._untold or 0,
            stragglers=stragglers,
            one_offs=self._one_offs_before + self._one_offs,
            data_pct=self._data_pct / windows if windows else None,
            data_rank=self._where(_most(self._data_ranks)),
            data_rank_pct=self._data_most_pct / windows if windows else None,
            others_pct=sum(waited_pct.values()) / windows if windows else None,
            others_rank=self._where(others),
            others_rank_data_pct=(
                None if others is None else self._busiest_data_pct[others] / self._busiest[others]
            ),
        )

    def _where(self, rank: str | None) -> str | None:
        return None if rank is None else self._places.get(rank, rank)

    def _take_standing(self, standing: RanksStanding) -> None:
        self._standing = standing
        self._end(where for where in self._slow if where not in standing.stragglers)
        for where, what in standing.stragglers.items():
            self._places[_rank_of(where)] = where
            if where not in self._slow:
                self._slow[where] = Straggler(
                    where=where, what=what, first_step=self._step, last_step=None
                )

    def _end(self, gone: Iterable[str]) -> None:
        for where in list(gone):
            one = self._slow.pop(where)
            self._were_slow.append(
                Straggler(
                    where=one.where,
                    what=one.what,
                    first_step=one.first_step,
                    last_step=self._step,
                )
            )

    def _take_row(self, values: Mapping[str, Number]) -> None:
        if not all(map(math.isfinite, values.values())):  # no row of ours
            return
        self._one_offs = max(self._one_offs, int(values.get("ranks/one_off_stragglers", 0)))
        step_ms = values.get(_STEP_TIME)
        if _WINDOW not in values:
            return
        missing = int(values[OF_RANKS])
        self._untold = missing if self._untold is None else min(self._untold, missing)
        if not step_ms or not all(
            f"{name}/{figure}" in values
            for name in (_OWN, _DATA)
            for figure in ("mean", "max", "argmax")
        ):
            return
        self._windows += 1
        data_rank = f"rank {values[f'{_DATA}/argmax']:.0f}"
        data_most_pct = _percent(values[f"{_DATA}/max"], step_ms)
        self._data_pct += _percent(values[f"{_DATA}/mean"], step_ms)
        self._data_most_pct += data_most_pct
        self._data_ranks[data_rank] += data_most_pct
        told = self._ranks - missing
        if told < 2:
            return
        own_ms = values[f"{_OWN}/max"]
        usual_ms = (values[f"{_OWN}/mean"] * told - own_ms) / (told - 1)
        busiest = f"rank {values[f'{_OWN}/argmax']:.0f}"
        self._waited_pct[busiest] += _percent(max(0.0, own_ms - usual_ms), step_ms)
        self._busiest[busiest] += 1
        if busiest == data_rank:
            self._busiest_data_pct[busiest] += data_most_pct


def _percent(part_ms: float, step_ms: float) -> float:
    """Return the share of a step; both are means, of not quite the same steps."""
    return min(100.0, 100.0 * part_ms / step_ms)


def _rank_of(where: str) -> str:
    """Return "rank 2" of "rank 2 (node7, GPU 2: ...)"."""
    return where.partition(" (")[0]


def _most(weights: Mapping[str, float]) -> str | None:
    heaviest = max(weights, key=weights.__getitem__, default=None)
    return heaviest if heaviest is not None and weights[heaviest] > 0 else None
