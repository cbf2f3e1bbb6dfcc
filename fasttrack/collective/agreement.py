"""Whether all ranks are about to enter the same collective, asked each time before one is entered.

Where a collective is part of an ordinary call, nobody thinks of it when he puts that call behind an
`if`. So no rank relies on the others: they meet in torch.distributed's key-value store, each time.
The last to come says "go"; who waits in vain, or makes another call than the first to come, says
"no". The store keeps the first answer, and all act by it. What begins has every rank; what lacks
one begins nowhere.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from typing import TYPE_CHECKING, Any

from fasttrack.collective.roll_call import EVERY_RANK, absent_ranks, await_group, say_later
from fasttrack.context.distributed import get_rank
from fasttrack.context.stores import default_store

if TYPE_CHECKING:
    from collections.abc import Sequence

PATIENCE_S = 120.0
"""How long a rank waits for the others; no process group's usual timeout is as short."""

_GO, _LATE, _OTHER = b"go", b"late", b"other"
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 100e-6, 0.05
_PAUSE_OF_A_RANK_S = 20e-6  # so that the store answers at most some 50,000 questions a second
_LONG_S = 1.0  # after which a rank leaves its name, for those that give up


class Agreement:
    """The meetings of some ranks, one after another.

    Threads: that of the calls.
    """

    def __init__(self, name: str, ranks: Sequence[int], patience_s: float) -> None:
        """Have not met yet.

        Args:
            name: of these meetings; the same on all ranks.
            ranks: who meet, this one included.
            patience_s: how long one waits for the others.
        """
        which = hashlib.sha256(",".join(map(str, ranks)).encode()).hexdigest()[:16]
        self._key = f"together/{name}/{which}"
        self._ranks = ranks
        self._patience_s = patience_s
        self._number = 0

    def why_not(self, call: str) -> str | None:
        """Return why the collectives of `call` must not be entered; None where all ranks do.

        Waits for the slowest rank, as the collective would. Once refused, do not ask again: those
        who had not come may never.

        Args:
            call: what is about to be done; alike on all ranks that do the same.
        """
        if default_store() is None:
            return "torch.distributed is not initialised"
        number, self._number = self._number, self._number + 1
        leader, deadline_s = min(self._ranks), time.monotonic() + self._patience_s
        try:
            store = await_group(leader, len(self._ranks), deadline_s)
            if store is None:
                say_later(leader, f"{self._key}/{number}", _LATE.decode())
                return self._refusal(str(leader))
            answer = self._meet(store, f"{self._key}/{number}", call)
            if answer == _GO:
                return None
            if answer == _OTHER:
                return f"the ranks made different calls, this one {call}; {EVERY_RANK}"
            absent = absent_ranks(store, f"{self._key}/{number}", self._ranks)
        except RuntimeError as error:  # the store's process is gone
            return f"the other ranks cannot be asked: {error}"
        return self._refusal(absent)

    def _refusal(self, absent: str) -> str:
        which = f"rank {absent}" if absent else "some"
        return (
            f"{which} of {len(self._ranks)} ranks did not make this call within "
            f"{self._patience_s:g} s of the first; {EVERY_RANK}"
        )

    def _meet(self, store: Any, key: str, call: str) -> bytes:
        digest = hashlib.sha256(call.encode()).hexdigest()[:16]
        answer: bytes
        if store.compare_set(f"{key}/call", "", digest) != digest.encode():
            store.set(f"{key}/{get_rank()}", "here")
            answer = store.compare_set(key, "", _OTHER.decode())
        elif store.add(f"{key}/number", 1) >= len(self._ranks):
            answer = store.compare_set(key, "", _GO.decode())
            self._forget_the_one_before(store)
        else:
            answer = self._wait(store, key)
        return answer

    def _wait(self, store: Any, key: str) -> bytes:
        began_s = time.monotonic()
        pause_s = _FIRST_PAUSE_S
        waits_long = False
        # Not store.wait(): the store's client serves one caller at a time, and a process group may
        # need it meanwhile.
        while not store.check([key]):
            waited_s = time.monotonic() - began_s
            if not waits_long and waited_s >= min(_LONG_S, self._patience_s):
                store.set(f"{key}/{get_rank()}", "here")
                waits_long = True
            if waited_s >= self._patience_s:
                store.compare_set(key, "", _LATE.decode())
                break
            time.sleep(pause_s + len(self._ranks) * _PAUSE_OF_A_RANK_S)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        answer: bytes = store.get(key)
        if waits_long and answer == _GO:
            with contextlib.suppress(RuntimeError):
                store.delete_key(f"{key}/{get_rank()}")
        return answer

    def _forget_the_one_before(self, store: Any) -> None:
        """Delete what the last meeting left: all have come to this one, and know its answer."""
        if self._number < 2:  # this is the first
            return
        before = f"{self._key}/{self._number - 2}"
        with contextlib.suppress(RuntimeError):  # of a store that cannot
            for key in (before, f"{before}/call", f"{before}/number"):
                store.delete_key(key)
