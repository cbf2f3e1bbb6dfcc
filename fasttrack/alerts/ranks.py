"""Watch how it stands with the ranks of a job: who holds the others up, who is not heard of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from fasttrack.journal.trouble import RanksStanding

_NAMED = 8  # ranks in one text
_MOST = 10_000  # ranks that are known; more of them are not told of


class RanksNews(NamedTuple):
    """What is new of ranks, in words."""

    kind: str
    """"straggler" or "missing"."""
    first: str
    """The first rank that it is about, without a colon: what tells it from other news."""
    title: str
    text: str


class RanksWatch:
    """Tell of every rank once: that it holds the others up; in each attempt, that it is missing.

    A node of which nothing is heard is one piece of news, however many ranks it has.

    Threads: one at a time.
    """

    def __init__(self) -> None:
        """Know of no trouble."""
        self._slow: set[str] = set()
        self._missing: set[str] = set()

    def begin(self) -> None:
        """Note that another attempt begins: its ranks have been started anew."""
        self._missing.clear()

    def see(self, standing: RanksStanding) -> list[RanksNews]:
        """Take in how it stands; return what is new."""
        found = []
        for where, what in standing.stragglers.items():
            if _is_new(where, self._slow):
                rank = _rank_of(where)
                text = f"{where} holds the other ranks up: {what}"
                found.append(RanksNews("straggler", _plain(where), f"{rank} is slow", text))
        unheard = len(standing.missing)
        gone = [where for where in standing.missing if _is_new(where, self._missing)]
        if gone:
            more = max(0, len(gone) - _NAMED) + max(0, standing.missing_ranks - unheard)
            count = min(len(gone), _NAMED) + more
            who = f"{_rank_of(gone[0])} is" if count == 1 else f"{count} ranks are"
            named = ", ".join(gone[:_NAMED]) + (f" and {more} more" if more else "")
            text = f"nothing is heard of {named}"
            found.append(RanksNews("missing", _plain(gone[0]), f"{who} missing", text))
        return found

    def state(self) -> dict[str, Any]:
        """Return what it knows, as JSON takes it."""
        return {"slow": sorted(self._slow), "missing": sorted(self._missing)}

    def restore(self, state: dict[str, Any]) -> None:
        """Know what `state` returned.

        Raises:
            TypeError, KeyError: it did not.
        """
        slow, missing = ({str(where) for where in state[name]} for name in ("slow", "missing"))
        self._slow, self._missing = slow, missing


def _is_new(where: str, known: set[str]) -> bool:
    if where in known or len(known) >= _MOST:
        return False
    known.add(where)
    return True


def _rank_of(where: str) -> str:
    return where.partition(" (")[0]


def _plain(where: str) -> str:
    return where.replace(":", "")
