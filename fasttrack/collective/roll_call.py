"""Whether all ranks make a call, asked before the first of its kind enters a collective.

A collective that only some ranks begin waits until its group's timeout (30 minutes of gloo's, 10 of
NCCL's), and then ends the job. Here they meet in torch.distributed's key-value store first, once
for each kind of call of a tracker: the last to come says "go", who waits in vain says "no", and the
store keeps the first answer, so that all act alike, those that come later, too. A "go" is deleted
once all have read it.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from fasttrack.context.distributed import get_rank
from fasttrack.context.group_store import group_store, when_group_is_known
from fasttrack.context.stores import default_store

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

PATIENCE_S = 300.0
"""How long the first call of a kind waits for the other ranks: half of NCCL's timeout."""

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.001, 0.1
_PAUSE_OF_A_RANK_S = 20e-6  # so that the store answers at most some 50,000 questions a second
_MOST_NAMED = 8
_MOST_KINDS = 1000  # of the same ranks; names that change at every step must not fill the memory
EVERY_RANK = (
    "every rank must make it, those that do not record, too; take it out of what only some of them "
    "run, such as `if rank == 0`"
)
_asked: Counter[str] = Counter()
"""How often this process has asked for each call, as each of its trackers may: what an earlier one
heard is no answer to a later one."""


class RollCall:
    """Ask once for each kind of call whether all of its ranks make it.

    Threads: that of the calls.
    """

    def __init__(self, patience_s: float = PATIENCE_S) -> None:
        """Wait at most so many seconds."""
        self._patience_s = patience_s
        self._answers: dict[tuple[Hashable, str], str | None] = {}
        self._going: Counter[Hashable] = Counter()

    def why_not(
        self, members: Hashable, name: str, ranks: Callable[[], Sequence[int] | None]
    ) -> str | None:
        """Return why the collective must not be entered; None where all ranks are there.

        The first time of a name it waits for the slowest rank, as the collective would. Behind
        many names of the same members nobody is asked any more.

        Args:
            members: who they are, for this rank.
            name: of the call, the same on all ranks that make it, and on no others.
            ranks: gives who must make it, this one included; None: that is not known.
        """
        kind = (members, name)
        if kind in self._answers:
            return self._answers[kind]
        if self._going[members] >= _MOST_KINDS:  # on all of them: all were there each time
            return None
        expected = ranks()
        why = self._answers[kind] = None if expected is None else self._ask(name, expected)
        if why is None:
            self._going[members] += 1
        return why

    def _ask(self, name: str, ranks: Sequence[int]) -> str | None:
        if default_store() is None or len(ranks) < 2:
            return None
        text = f"{name}/{','.join(map(str, ranks))}"
        call = hashlib.sha256(text.encode()).hexdigest()[:24]
        key = f"roll_call/{call}/{_asked[call]}"
        _asked[call] += 1
        deadline_s = time.monotonic() + self._patience_s
        try:
            return self._agree(key, ranks, deadline_s)
        except RuntimeError:  # the store's process is gone; the collective says it better
            return None

    def _agree(self, key: str, ranks: Sequence[int], deadline_s: float) -> str | None:
        leader = min(ranks)
        store = await_group(leader, len(ranks), deadline_s)
        if store is None:
            if default_store() is None:  # destroyed meanwhile
                return None
            say_later(leader, key, "no")
            return self._refusal(str(leader), len(ranks))
        store.set(f"{key}/{get_rank()}", "here")
        if store.add(f"{key}/number", 1) >= len(ranks):
            came = store.compare_set(key, "", "go") == b"go"
        else:
            came = self._wait(store, key, len(ranks), deadline_s)
        if came:
            _leave(store, key, len(ranks))
            return None
        return self._refusal(absent_ranks(store, key, ranks), len(ranks))

    def _refusal(self, absent: str, number: int) -> str:
        which = f"rank {absent}" if absent else "some"  # all came, but one of them too late
        return (
            f"{which} of {number} ranks did not make this call within {self._patience_s:g} s "
            f"of the first; {EVERY_RANK}"
        )

    def _wait(self, store: Any, key: str, number: int, deadline_s: float) -> bool:
        pause_s = _FIRST_PAUSE_S
        # Not store.wait(): the store's client serves one caller at a time, and a process group may
        # need it meanwhile.
        while not store.check([key]):
            if time.monotonic() >= deadline_s:
                return bool(store.compare_set(key, "", "no") == b"go")
            time.sleep(pause_s + number * _PAUSE_OF_A_RANK_S)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        return bool(store.get(key) == b"go")


def await_group(leader: int, number: int, deadline_s: float) -> Any:
    """Return the store of the group that `leader` names; None where it does not come in time."""
    pause_s = _FIRST_PAUSE_S
    while (store := group_store(leader)) is None and default_store() is not None:
        if time.monotonic() >= deadline_s:
            return None
        time.sleep(pause_s + number * _PAUSE_OF_A_RANK_S)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
    return store


def say_later(leader: int, key: str, word: str) -> None:
    """Tell a leader that comes too late, and who comes after it: `key` gets its first word."""

    def say() -> None:
        with contextlib.suppress(RuntimeError):  # the store's process is gone
            if (store := group_store(leader)) is not None:
                store.compare_set(key, "", word)

    when_group_is_known(say, leader)


def _leave(store: Any, key: str, number: int) -> None:
    """Delete what all have read: each rank its own, the last one the rest."""
    with contextlib.suppress(RuntimeError):  # of a store that cannot
        store.delete_key(f"{key}/{get_rank()}")
        if store.add(f"{key}/left", 1) >= number:
            for each in (key, f"{key}/number", f"{key}/left"):
                store.delete_key(each)


def absent_ranks(store: Any, key: str, ranks: Sequence[int]) -> str:
    """Return who has not come yet, for people: "1, 2 and others"."""
    absent = []
    for rank in ranks:
        if not store.check([f"{key}/{rank}"]):
            absent.append(str(rank))
        if len(absent) > _MOST_NAMED:
            return f"{', '.join(absent[:-1])} and others"
    return ", ".join(absent)
