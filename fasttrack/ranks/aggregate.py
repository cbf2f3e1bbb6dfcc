"""What the ranks' messages make together: rows, once a window is whole or too late to be.

No thread, no clock of its own, no store: messages go in, rows come out. What is done per message is
little, since thousands may come in a second: values are only kept, and added up once per window.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fasttrack.journal.trouble import RanksStanding
from fasttrack.ranks.figures import figures_of
from fasttrack.ranks.straggler import Stragglers

if TYPE_CHECKING:
    from collections.abc import Callable

    from fasttrack.ranks.messages import Message, Window
    from fasttrack.ranks.node_message import NodeMessage, NodeWindow

DEADLINE_S: Final = 10.0
"""How long a window waits for the ranks that have not told of it, from the first that has."""
SILENT_S: Final = 10.0
"""After which a rank counts as missing that was heard of before."""
NEVER_HEARD_S: Final = 60.0
"""After which one does that was not."""
_MOST_OPEN = 512  # windows; the oldest goes, if there are more
_MOST_TOLD = 400_000  # windows of single ranks, of some 300 bytes each, in all that are open
_NAMED = 8  # ranks in one notice
_LISTED = 64  # of those that are missing, or hold others up, in the journal

Row = dict[str, float]


class _Open:
    """A window that some ranks have told of. Threads: one at a time."""

    __slots__ = ("last", "ranks", "since_s", "values")

    def __init__(self, since_s: float) -> None:
        """Hold nothing."""
        self.since_s = since_s
        self.last = 0
        self.ranks: set[int] = set()
        self.values: dict[str, tuple[list[int], list[float]]] = {}
        """By metric: the ranks that have one, and their values."""

    def add(self, rank: int, told: Window) -> None:
        """Take one rank in; what it tells twice counts once."""
        if rank in self.ranks:
            return
        self.last = max(self.last, told.last) if self.ranks else told.last
        self.ranks.add(rank)
        for name, value in told.values.items():
            found = self.values.get(name)
            if found is None:
                found = self.values[name] = ([], [])
            found[0].append(rank)
            found[1].append(value)

    def add_node(self, told: NodeWindow) -> None:
        """Take ranks of a node in."""
        whole = not any(None in each for each in told.values.values())
        if not (whole and self.ranks.isdisjoint(told.ranks)):
            for rank, window in told.apart():
                self.add(rank, window)
            return
        self.last = max(self.last, told.last) if self.ranks else told.last
        self.ranks.update(told.ranks)
        for name, values in told.values.items():
            found = self.values.get(name)
            if found is None:
                found = self.values[name] = ([], [])
            found[0].extend(told.ranks)
            found[1].extend(values)  # type: ignore[arg-type]  # None is in none of them


class Aggregator:
    """Put together what all ranks tell.

    Threads: one at a time.
    """

    def __init__(
        self,
        ranks: int,
        width: int,
        *,
        warn: Callable[[str, str], None],
        clock: Callable[[], float],
        deadline_s: float = DEADLINE_S,
    ) -> None:
        """Expect messages of ranks 0 to below `ranks`.

        Args:
            ranks: how many there are.
            width: of a window, in steps.
            warn: called with (key, text) for what the user should hear once.
            clock: seconds.
            deadline_s: how long a window waits for the slowest rank.
        """
        self._ranks = ranks
        self._most_open = max(16, min(_MOST_OPEN, _MOST_TOLD // ranks))
        self._width = width
        self._warn = warn
        self._clock = clock
        self._deadline_s = deadline_s
        self._began_s = clock()
        self._open: dict[tuple[int, int], _Open] = {}
        self._written: tuple[int, int] = (-1, 0)  # the newest window that is a row
        self._heard_s: dict[int, float] = {}
        self._ended: set[int] = set()
        self._missing: frozenset[int] = frozenset()
        self._places: dict[int, str] = {}
        self._stragglers = Stragglers()
        self._chronic: frozenset[int] = frozenset()  # as it was at the last look
        self.changes = 0
        """How often the ranks that are missing, or hold the others up, have become others."""
        self.late = 0
        """Windows of ranks that came after their row was written."""
        self.straggler: str | None = None
        """The newest rank that was named as a straggler, and where it runs."""

    def take(self, rank: int, message: Message) -> None:
        """Take in what one rank tells."""
        now_s = self._clock()
        if self._hear(rank, message, now_s):
            for told in message.windows:
                if (window := self._window((told.turn, told.index), 1, now_s)) is not None:
                    window.add(rank, told)

    def take_node(self, message: NodeMessage) -> None:
        """Take in what one rank tells for its node."""
        now_s = self._clock()
        for rank, told in message.told:
            self._hear(rank, told, now_s)
        for each in message.windows:
            if each.width == self._width:
                window = self._window((each.turn, each.index), len(each.ranks), now_s)
                if window is not None:
                    window.add_node(each)

    def _hear(self, rank: int, message: Message, now_s: float) -> bool:
        """Take in all but the windows; return whether they are as long as here."""
        self._heard_s[rank] = now_s
        place = self._places.get(rank)
        if place is None or message.gpu not in place:  # it may be known later
            self._places[rank] = _place(rank, message)
        self._stragglers.take(rank, message.span)
        if message.ended:
            self._ended.add(rank)
            self._stragglers.end(rank)
        if message.width != self._width:
            self._warn(
                "ranks_width",
                f"ranks='all': rank {rank} has another log_interval or gpu_stats_interval than the "
                "rank that records; its metrics are left out",
            )
            return False
        return True

    def _window(self, key: tuple[int, int], ranks: int, now_s: float) -> _Open | None:
        """Return the window that so many ranks tell of; None where it is written already."""
        if key <= self._written:
            self.late += ranks
            return None
        window = self._open.get(key)
        if window is None:
            window = self._open[key] = _Open(now_s)
        return window

    def look(self) -> list[Row]:
        """Return the rows that are due, oldest first."""
        now_s = self._clock()
        news = self._note_missing(now_s)
        news |= self._note_stragglers()
        self.changes += news
        rows: list[Row] = []
        for key in sorted(self._open):
            window = self._open[key]
            whole = len(window.ranks) >= self._ranks
            late = now_s - window.since_s >= self._deadline_s
            many = len(self._open) > self._most_open
            if not (whole or late or many or self._nobody_comes(window)):
                break  # rows stay in order
            rows.append(self._close(key))
        if news and not rows:
            rows.append(self._common())
        return rows

    def finish(self) -> list[Row]:
        """Return the rows of all that is open, as it is: nobody is waited for any more."""
        return [self._close(key) for key in sorted(self._open)]

    def standing(self, time_s: float) -> RanksStanding:
        """Return who is missing and who holds the others up, as of the last look."""
        slow = sorted(self._chronic & self._stragglers.chronic)[:_LISTED]
        return RanksStanding(
            missing=tuple(map(self._place_of, sorted(self._missing)[:_LISTED])),
            missing_ranks=len(self._missing),
            stragglers={self._place_of(rank): self._stragglers.describe(rank) for rank in slow},
            time_s=time_s,
        )

    @property
    def all_ended(self) -> bool:
        """Whether no rank says anything more."""
        return len(self._ended | self._missing) >= self._ranks

    def _nobody_comes(self, window: _Open) -> bool:
        gone = self._ended | self._missing
        return len(window.ranks | gone) >= self._ranks

    def _close(self, key: tuple[int, int]) -> Row:
        window = self._open.pop(key)
        self._written = key
        row: Row = {"ranks/step": window.last}
        for name, (ranks, values) in window.values.items():
            row.update(figures_of(name, ranks, values))
        row.update(self._common())
        row["ranks/missing"] = self._ranks - len(window.ranks)
        return row

    def _common(self) -> Row:
        """Return what is known at any time."""
        row: Row = {"ranks/missing": len(self._missing)}
        row.update(self._stragglers.figures())
        row["ranks/stragglers"] = len(self._stragglers.chronic)
        row["ranks/one_off_stragglers"] = self._stragglers.one_offs
        if (worst := self._stragglers.worst) is not None:
            row["ranks/straggler"] = worst
        if self.late:
            row["ranks/late_windows"] = self.late
        return row

    def _note_missing(self, now_s: float) -> bool:
        """Look who has fallen silent; return whether that is news."""
        silent = [rank for rank in range(self._ranks) if self._is_silent(rank, now_s)]
        for rank in silent:
            self._stragglers.forget(rank)
        missing = frozenset(silent) - self._ended
        new = missing - self._missing
        news = missing != self._missing
        self._missing = missing
        for never in (False, True):
            ranks = sorted(rank for rank in new if (rank not in self._heard_s) is never)
            if not ranks:
                continue
            listed = ", ".join(map(self._place_of, ranks[:_NAMED]))
            more = f" and {len(ranks) - _NAMED} more" if len(ranks) > _NAMED else ""
            since = f"within {NEVER_HEARD_S:g} s" if never else f"for {SILENT_S:g} s"
            hint = " (has each Options(ranks='all')?)" if never else ""
            self._warn(
                f"ranks_missing:{never}:{ranks[0]}",
                f"nothing was heard of {listed}{more} {since}{hint}; nobody waits for that",
            )
        return news

    def _place_of(self, rank: int) -> str:
        return self._places.get(rank, f"rank {rank}")

    def _is_silent(self, rank: int, now_s: float) -> bool:
        heard_s = self._heard_s.get(rank)
        if heard_s is None:
            return now_s - self._began_s >= NEVER_HEARD_S
        return now_s - heard_s >= SILENT_S

    def _note_stragglers(self) -> bool:
        """Look who has become slow, or is no more; return whether that is news."""
        before, self._chronic = self._chronic, self._stragglers.judge()
        new = sorted(self._chronic - before)
        for rank in new[:_NAMED]:
            self.straggler = self._place_of(rank)
            self._warn(
                f"straggler:{rank}",
                f"{self.straggler} holds the other ranks up: {self._stragglers.describe(rank)}",
            )
        if len(new) > _NAMED:
            self._warn(f"stragglers:{new[_NAMED]}", f"so do {len(new) - _NAMED} more ranks")
        return self._chronic != before


def _place(rank: int, message: Message) -> str:
    where = ", ".join(part for part in (message.host, message.gpu) if part)
    return f"rank {rank} ({where})" if where else f"rank {rank}"
