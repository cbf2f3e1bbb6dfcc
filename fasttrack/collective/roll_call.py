"""Whether all ranks make a call, asked before the first of its kind enters a collective.

A collective that only some ranks begin waits until its group's timeout (30 minutes of gloo's, 10 of
NCCL's), and then ends the job. Here they meet in torch.distributed's key-value store first, once
for each kind of call: the last to come says "go", who waits in vain says "no", and the store keeps
the first answer, so that all act alike, those that come later, too.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
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
_EVERY_RANK = (
    "every rank must make it, those that do not record, too; take it out of what only some of them "
    "run, such as `if rank == 0`"
)


class RollCall:
    """Ask once for each kind of call whether all of its ranks make it.

    Threads: that of the calls.
    """

    def __init__(self, patience_s: float = PATIENCE_S) -> None:
        """Wait at most so many seconds."""
        self._patience_s = patience_s
        self._answers: dict[Hashable, str | None] = {}

    def why_not(
        self, kind: Hashable, name: str, ranks: Callable[[], Sequence[int] | None]
    ) -> str | None:
        """Return why the collective must not be entered; None where all ranks are there.

        The first time of a kind it waits for the slowest rank, as the collective would.

        Args:
            kind: of call, for this rank.
            name: the same on all ranks that make this call, and on no others.
            ranks: gives who must make it, this one included; None: that is not known.
        """
        if kind not in self._answers:
            expected = ranks()
            self._answers[kind] = None if expected is None else self._ask(name, expected)
        return self._answers[kind]

    def _ask(self, name: str, ranks: Sequence[int]) -> str | None:
        if default_store() is None or len(ranks) < 2:
            return None
        text = f"{name}/{','.join(map(str, ranks))}"
        key = f"roll_call/{hashlib.sha256(text.encode()).hexdigest()[:24]}"
        deadline_s = time.monotonic() + self._patience_s
        try:
            return self._agree(key, ranks, deadline_s)
        except RuntimeError:  # the store's process is gone; the collective says it better
            return None

    def _agree(self, key: str, ranks: Sequence[int], deadline_s: float) -> str | None:
        leader = min(ranks)
        store = _await_group(leader, len(ranks), deadline_s)
        if store is None:
            if default_store() is None:  # destroyed meanwhile
                return None
            when_group_is_known(lambda: _say_no(key, leader), leader)
            return self._refusal(str(leader), len(ranks))
        store.set(f"{key}/{get_rank()}", "here")
        if store.add(f"{key}/number", 1) >= len(ranks):
            came = store.compare_set(key, "", "go") == b"go"
        else:
            came = self._wait(store, key, len(ranks), deadline_s)
        return None if came else self._refusal(_absent(store, key, ranks), len(ranks))

    def _refusal(self, absent: str, number: int) -> str:
        which = f"rank {absent}" if absent else "some"  # all came, but one of them too late
        return (
            f"{which} of {number} ranks did not make this call within {self._patience_s:g} s "
            f"of the first; {_EVERY_RANK}"
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


def _await_group(leader: int, number: int, deadline_s: float) -> Any:
    """Return the store of the group that `leader` names; None where it does not come in time."""
    pause_s = _FIRST_PAUSE_S
    while (store := group_store(leader)) is None and default_store() is not None:
        if time.monotonic() >= deadline_s:
            return None
        time.sleep(pause_s + number * _PAUSE_OF_A_RANK_S)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
    return store


def _say_no(key: str, leader: int) -> None:
    """Tell a leader that comes too late, and who comes after it."""
    with contextlib.suppress(RuntimeError):  # the store's process is gone
        group_store(leader).compare_set(key, "", "no")


def _absent(store: Any, key: str, ranks: Sequence[int]) -> str:
    """Return who has not come yet, for people: "1, 2 and others"."""
    absent = []
    for rank in ranks:
        if not store.check([f"{key}/{rank}"]):
            absent.append(str(rank))
        if len(absent) > _MOST_NAMED:
            return f"{', '.join(absent[:-1])} and others"
    return ", ".join(absent)
