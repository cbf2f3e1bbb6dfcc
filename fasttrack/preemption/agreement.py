"""All ranks answer `should_stop()` alike: a thread on each looks whether one was asked to stop."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from typing import TYPE_CHECKING

from fasttrack.latch import Bell, Latch
from fasttrack.preemption.ballot import Ballot
from fasttrack.preemption.calls import GO_ON

if TYPE_CHECKING:
    from collections.abc import Callable

    from fasttrack.preemption.ballot import Store
    from fasttrack.preemption.calls import Calls

LOOK_EVERY_S = 1.0
"""How often each rank asks the store, one round trip, while nobody was asked to stop."""
AHEAD_S = 1.5
"""The calls of so many seconds are still free once a rank hears of it: the decision takes about
`LOOK_EVERY_S`, and training goes on meanwhile."""
WAIT_S = 30.0
"""How long a call waits for the decision before nobody stops."""
KNOWN_S = 5.0
"""How long the call that answers True waits until all ranks know: the store may be this process's,
and leave with it."""

_DECIDING_POLL_S = 0.05
_LAST_WORDS_S = 1.0  # that the thread may take to end once it does nothing more


class Agreement:
    """This rank's part in the decision of `ballot.py`.

    Threads: `answer` is called on the one that trains, `request` on any, also in a signal handler;
    the rest is done on a thread of its own.
    """

    def __init__(
        self,
        connect: Callable[[], Store],
        key: str,
        rank: int,
        ranks: int,
        calls: Calls,
        *,
        warn: Callable[[str], None],
    ) -> None:
        """Start the thread; do not wait for it.

        Args:
            connect: returns the store that all ranks share, for this object's thread alone.
            key: the same on all ranks, and nobody else's.
            rank: of this process.
            ranks: how many there are.
            calls: this rank's, counted from the first on as all others count theirs.
            warn: told once if the ranks do not come to a decision.
        """
        self._connect = connect
        self._key = key
        self._rank = rank
        self._ranks = ranks
        self._calls = calls
        self._warn = warn
        self._pid = os.getpid()
        # caller thread
        self._blocked_since_s: float | None = None
        # own thread writes, the caller's reads
        self.reason: str | None = None
        """Why to stop, once it is decided where."""
        self._over = False
        self._all_know = Latch()
        self._ended = Latch()
        # any thread
        self._requested: str | None = None
        self._closing = False
        self._wake = Bell()
        # own thread
        self._last_look = (-1, time.monotonic())
        self._rate = 0.0  # calls per second
        self._promised = False  # once, whatever happens to the connection
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="fasttrack-stop", daemon=True)
        self._thread.start()

    def request(self, reason: str) -> None:
        """Have all ranks stop, soon. Never waits."""
        if self._requested is None:
            self._requested = reason
            self._wake.ring()

    def answer(self, number: int) -> bool:
        """Return whether to stop at call `number`, which is not below `limit`.

        Waits until the ranks have decided; after `WAIT_S` nobody stops, which is said.
        """
        if os.getpid() != self._pid:  # a fork: the thread and the connection are its parent's
            return False
        self._blocked_since_s = time.monotonic()
        while self.reason is None and not self._over:
            if self._ended.is_open or self._blocked_s() > WAIT_S + KNOWN_S:
                self._give_up(f"torch.distributed's store does not answer ({self._error})")
                break
            time.sleep(_DECIDING_POLL_S)
        self._blocked_since_s = None
        if self._over:
            self._calls.limit = GO_ON
            return False
        if number < self._calls.limit:
            return False
        self._all_know.wait(KNOWN_S)
        self._all_know.open()  # later calls don't wait
        return True

    @property
    def in_vain(self) -> bool:
        """Whether nobody will stop any more, whoever is asked to."""
        return self._over

    def _blocked_s(self) -> float:
        since_s = self._blocked_since_s
        return 0.0 if since_s is None else time.monotonic() - since_s

    def _give_up(self, why: str) -> None:
        self._end_in_vain()
        if not self._closing:
            self._warn(
                f"should_stop: the ranks cannot agree where to stop ({why}); training goes on, and "
                "should_stop() stays False; it must be called on every rank, equally often. A "
                "further SIGTERM ends the program"
            )

    def _end_in_vain(self) -> None:
        self._over = True
        self._calls.limit = 0  # the next call hears of it

    def close(self, timeout_s: float = 5.0) -> None:
        """End the thread. Waits for a call of the store that it is in, up to `timeout_s`."""
        self._closing = True
        self._wake.ring()
        self._all_know.open()
        if os.getpid() == self._pid and self._ended.wait(timeout_s):
            self._thread.join(_LAST_WORDS_S)

    # --- own thread -----------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._try_until_over()
        finally:
            self._ended.open()

    def _try_until_over(self) -> None:
        while not self._closing and not self._over:
            try:
                self._take_part(Ballot(self._connect(), self._key, self._rank, self._ranks))
                return
            except Exception as error:  # the store's own exceptions have no common base
                # Most often it went with the end of the training; a call that needs it says so.
                self._error = error
                self._wake.wait(LOOK_EVERY_S)

    def _take_part(self, ballot: Ballot) -> None:
        ballot.look()
        while ballot.state == "on" and not self._closing:
            self._note_rate()
            self._wake.wait(LOOK_EVERY_S)
            if self._requested is not None:
                ballot.ask(self._requested)
            else:
                ballot.look()
        if ballot.state == "on":
            ballot.leave()
        elif ballot.state == "stop" and self._promised:  # by a connection that broke
            ballot.decide()
        elif ballot.state == "stop":
            self._note_rate()
            self._promised = True
            ballot.promise(self._hold(int(self._rate * AHEAD_S)))
        while ballot.state == "stop" and not self._closing:
            time.sleep(_DECIDING_POLL_S)
            ballot.look()
            if self._blocked_s() > WAIT_S:
                ballot.annul()
        if ballot.state == "void":
            self._give_up(ballot.reason)
        elif ballot.state == "over" and not self._closing:  # a rank has left
            self._end_in_vain()
        elif ballot.state == "at":
            self._calls.limit, self.reason = ballot.stop_at, ballot.reason
            self._await_others(ballot)

    def _note_rate(self) -> None:
        calls, now_s = self._calls.newest, time.monotonic()
        before, then_s = self._last_look
        if now_s - then_s >= LOOK_EVERY_S / 2:
            self._rate = (calls - before) / (now_s - then_s)
            self._last_look = (calls, now_s)

    def _hold(self, ahead: int) -> int:
        """Have calls wait that are more than `ahead` away; return the number of the first."""
        while True:
            self._calls.limit = limit = self._calls.newest + 1 + ahead
            # The caller counts, and then compares: what it has not counted yet will see the limit.
            if self._calls.newest < limit:
                return limit

    def _await_others(self, ballot: Ballot) -> None:
        with contextlib.suppress(Exception):  # the store is gone: whoever had it knew
            ballot.acknowledge()
            while not self._all_know.is_open and not self._closing and not ballot.all_know():
                time.sleep(_DECIDING_POLL_S)
        self._all_know.open()
