"""The decision at which call all ranks stop: words in torch.distributed's store, no collective.

Each rank numbers its calls of `should_stop()`. A rank that is asked to stop writes `stop`. Every
rank that reads this makes a *promise*: it answers "go on" to no call from number p on before the
decision is there. Whoever makes the last promise decides: all stop at the largest p. Hence,
whatever the delays:

* No rank has passed the decided call: before it read the decision it answered only calls below its
  own promise, and the decision is none smaller.
* Every rank stops there: its calls from the promise on wait for the decision.

A rank that waits in vain, because another makes no promise, writes `void` in place of `stop`, so
that either all ranks stop at one call or none stops. A rank that will not call again, because its
training is over, writes `over` in place of `on`: then there is nothing to stop. Each word follows
from the one before by the store's atomic compare-and-set:

    on -> stop REASON -> at NUMBER REASON, or void WHY
    on -> over
"""

from __future__ import annotations

from typing import Protocol


class Store(Protocol):
    """What this needs of a store of torch.distributed."""

    def compare_set(self, key: str, expected_value: str, desired_value: str, /) -> bytes:
        """Set `key` if it holds `expected_value` ("": nothing); return what it holds now."""

    def set(self, key: str, value: str, /) -> None:
        """Set `key`."""

    def get(self, key: str, /) -> bytes:
        """Return what `key` holds; it holds something."""

    def check(self, keys: list[str], /) -> bool:
        """Return whether all `keys` hold something."""

    def add(self, key: str, amount: int, /) -> int:
        """Add to a counter; return it."""


class Ballot:
    """The words as this rank last read them. Every method raises what the store raises.

    Threads: one at a time.
    """

    def __init__(self, store: Store, key: str, rank: int, ranks: int) -> None:
        """Know nothing yet; `key` is the same on all ranks, and nobody else's."""
        self._store = store
        self._key = key
        self._rank = rank
        self._ranks = ranks
        self._word = ""
        self.state = "on"
        """The word: "on", "stop", "at", "void" or "over"."""
        self.stop_at = -1
        """Once `state` is "at": the number of the call that all ranks answer with "stop"."""
        self.reason = ""
        """Why to stop; where it is void, why nobody does."""

    def look(self) -> None:
        """Read the word. One round trip."""
        self._swap(self._word, self._word or "on")

    def ask(self, reason: str) -> None:
        """Have all ranks make their promises, unless it is too late."""
        self.look()
        self._swap("on", f"stop {reason}")

    def leave(self) -> None:
        """Say that this rank makes no more calls, unless the ranks were asked to stop before."""
        self._swap("on", "over")

    def promise(self, number: int) -> None:
        """Promise to answer no call from `number` on without a decision; once, after "stop".

        Whose promise is the last one decides, with a round trip for each rank.
        """
        self._store.set(self._promise(self._rank), str(number))
        if self._store.add(f"{self._key}/promises", 1) == self._ranks:
            self.decide()

    def decide(self) -> None:
        """Decide, if all promises are there: whose was the last may have lost the store."""
        keys = [self._promise(rank) for rank in range(self._ranks)]
        if self._store.check(keys):
            number = max(int(self._store.get(key)) for key in keys)
            self._swap(f"stop {self.reason}", f"at {number} {self.reason}")

    def annul(self) -> None:
        """Have nobody stop, unless it can be decided; the reason then names who did not promise."""
        missing = [r for r in range(self._ranks) if not self._store.check([self._promise(r)])]
        if not missing:
            self.decide()
            return
        named = ", ".join(map(str, missing[:8])) + (", ..." if len(missing) > 8 else "")
        self._swap(f"stop {self.reason}", f"void rank {named} did not answer")

    def acknowledge(self) -> None:
        """Tell the others that this rank knows the decision."""
        self._store.add(f"{self._key}/knowing", 1)

    def all_know(self) -> bool:
        """Return whether every rank has said so."""
        return self._store.add(f"{self._key}/knowing", 0) >= self._ranks

    def _promise(self, rank: int) -> str:
        return f"{self._key}/promise/{rank}"

    def _swap(self, expected: str, word: str) -> None:
        self._word = self._store.compare_set(self._key, expected, word).decode()
        self.state, _, rest = self._word.partition(" ")
        if self.state == "at":
            number, _, rest = rest.partition(" ")
            self.stop_at = int(number)
        self.reason = rest
