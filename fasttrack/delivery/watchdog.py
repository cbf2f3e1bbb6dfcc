"""Notice a client's call that does not come back, and see to it that delivery goes on.

Anything that a client does may hang for good: its import on a dead file system, its start-up when
its helper program (wandb-core) was killed at the wrong moment, a call whose helper was stopped.
Each call has a budget. One that exceeds it loses its helper first: with the other end gone, most
calls come back with an error, and delivery begins anew. One that still does not come back is given
up, and with it the process.

Time counts only while this process runs: a laptop that slept, a process that was stopped, and a
clock that was set cost no call anything.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fasttrack.delivery.children import children_of, kill_children

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_TICK_S = 1.0
_BEAT_EVERY_TICKS = 5
_DEAD_HELPER_S = 10.0  # what a call has to notice that its helper is gone
_STOPPED_HELPER_S = 20.0  # and what somebody has who stopped it, to let it go on
_GRACE_S = 15.0  # what a call has to come back once its helper was ended


@dataclass(eq=False)
class Call:
    """A call into a client that has not come back yet."""

    owner: str
    what: str
    budget_s: float
    helper: str | None
    left_s: float
    has_helper: bool = False  # it was seen
    idle_s: float = 0.0  # for so long its helper has not run
    cut: bool = False

    def progress(self) -> None:
        """Begin its time anew: something moves."""
        self.left_s = self.budget_s


class Watchdog:
    """Watch calls.

    Threads: `call` on any; it has a thread of its own, on which it says what it finds.
    """

    def __init__(
        self,
        *,
        on_cut: Callable[[str, str], None] = lambda owner, why: None,
        on_hang: Callable[[str, str], None] = lambda owner, why: None,
        on_beat: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Watch nothing before `start`.

        Args:
            on_cut: told whose call loses its helper, and in words why.
            on_hang: told whose call does not come back even so. It may end the process.
            on_beat: called every 5 s as long as this process runs.
            clock: seconds.
        """
        self._on_cut = on_cut
        self._on_hang = on_hang
        self._on_beat = on_beat
        self._clock = clock
        self._calls: list[Call] = []
        self._current = threading.local()
        self._ticks = 0
        self._ticked_at_s = clock()
        self._stopped = threading.Event()

    def start(self) -> None:
        """Begin to watch."""
        threading.Thread(target=self._run, name="watchdog", daemon=True).start()

    def stop(self) -> None:
        """Watch no more."""
        self._stopped.set()

    @contextlib.contextmanager
    def call(
        self, owner: str, what: str, budget_s: float, helper: str | None = None
    ) -> Iterator[Call]:
        """Watch what is done in this block.

        Args:
            owner: name of the backend whose call it is.
            what: the call, for messages.
            budget_s: seconds that it may take.
            helper: name of the client's helper program, a child of this process.
        """
        call = Call(owner, what, budget_s, helper, budget_s)
        around = getattr(self._current, "call", None)
        self._calls.append(call)
        self._current.call = call
        try:
            yield call
        finally:
            self._calls.remove(call)
            self._current.call = around

    def progress(self) -> None:
        """Begin the time of this thread's call anew: something moves in it."""
        call: Call | None = getattr(self._current, "call", None)
        if call is not None:
            call.progress()

    def _run(self) -> None:
        while not self._stopped.wait(_TICK_S):
            self.tick()

    def tick(self) -> None:
        """Look at all calls once."""
        now_s = self._clock()
        passed_s = min(now_s - self._ticked_at_s, 2 * _TICK_S)  # more, and we did not run
        self._ticked_at_s = now_s
        if self._ticks % _BEAT_EVERY_TICKS == 0:
            self._on_beat()
        self._ticks += 1
        for call in list(self._calls):
            call.left_s -= passed_s
            if call.helper is not None and not call.cut:
                self._look_for_helper(call, passed_s)
            if call.left_s <= 0 and not call.cut:
                self._cut(call)
            elif call.left_s <= -_GRACE_S and call in self._calls:
                call.left_s = call.budget_s  # of the next warning, where the process stays
                self._on_hang(call.owner, f"{call.what} did not come back")

    def _look_for_helper(self, call: Call, passed_s: float) -> None:
        helpers = [child for child in children_of(os.getpid()) if child.name == call.helper]
        call.has_helper = call.has_helper or bool(helpers)
        alive = [child for child in helpers if child.alive]
        idle = call.has_helper and all(child.stopped for child in alive)
        call.idle_s = call.idle_s + passed_s if idle else 0.0
        if call.idle_s >= (_STOPPED_HELPER_S if alive else _DEAD_HELPER_S):
            call.left_s = 0.0

    def _cut(self, call: Call) -> None:
        call.cut = True
        if call.helper is not None and kill_children(os.getpid(), call.helper):
            self._on_cut(call.owner, f"{call.what} did not come back; {call.helper} is ended")
