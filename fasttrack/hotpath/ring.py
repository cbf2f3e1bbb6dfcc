"""A bounded queue from many caller threads to the one worker thread, without a lock.

"Lock-free" here means: `push` on a ring with room takes no lock, makes no system call and never
waits for another thread. Every push draws a ticket from `itertools.count`, one C call that no two
threads can share; ticket `t` owns slot `t % capacity`, which is free once the consumer has moved
past ticket `t - capacity`. Correctness needs only that a ticket is drawn atomically and that a
list slot is stored and read whole, which CPython guarantees (on a free-threaded build from 3.14,
where `itertools.count` is thread-safe).

A ticket whose record never arrives would stop the consumer for ever. So the ticket is drawn by a
`for` statement: CPython handles signals (which may raise KeyboardInterrupt) only at calls and
backward jumps, and between FOR_ITER and the store there is neither.
"""

from __future__ import annotations

import itertools
import time
from threading import RLock
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_POLL_S = 0.0005  # how often a caller that waits for room looks again


class Ring(Generic[T]):
    """Hold at most `capacity` items between their producers and the consumer.

    Threads: `push` from any thread, also from signal handlers; `pop` from one thread at a time.
    """

    __slots__ = (
        "_abandoned",
        "_clock",
        "_full",
        "_full_wait_s",
        "_head",
        "_lock",
        "_mask",
        "_pause",
        "_slots",
        "_tickets",
        "capacity",
        "dropped",
    )

    def __init__(
        self,
        capacity: int,
        full_wait_s: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], object] = time.sleep,
    ) -> None:
        """Allocate all slots.

        Args:
            capacity: number of slots; a power of two.
            full_wait_s: how long a push may wait, in seconds, when every slot is taken.
            clock: seconds; asked on a full ring only.
            pause: waits, in seconds.
        """
        # any thread
        self._slots: list[T | None] = [None] * capacity
        self._tickets = itertools.count()
        self.capacity = capacity
        self._mask = capacity - 1
        self._full_wait_s = full_wait_s
        self._clock = clock
        self._pause = pause
        self._full = False
        self._abandoned: set[int] = set()
        self._lock = RLock()  # for the count of drops; a signal handler may come in between
        self.dropped = 0
        # consumer thread
        self._head = 0

    def push(self, item: T) -> bool:
        """Put `item` in; return False where it was dropped because the ring stayed full.

        Returns at once while there is room. On a full ring it waits up to `full_wait_s` (a burst
        loses nothing); when that was in vain, further pushes drop at once until the consumer has
        taken something.
        """
        if self._full:
            return self._drop()
        for ticket in self._tickets:
            if ticket - self._head < self.capacity:
                self._slots[ticket & self._mask] = item
                return True
            try:
                return self._push_when_free(ticket, item)
            except BaseException:  # Ctrl-C while it waited: the consumer must not wait for it
                self._abandoned.add(ticket)
                raise
        raise AssertionError("a count never ends")

    def _push_when_free(self, ticket: int, item: T) -> bool:
        deadline = self._clock() + self._full_wait_s
        while ticket - self._head >= self.capacity:
            if self._clock() >= deadline or self._full:
                self._full = True
                self._abandoned.add(ticket)
                return self._drop()
            self._pause(_POLL_S)
        self._slots[ticket & self._mask] = item
        return True

    def _drop(self) -> bool:
        with self._lock:
            self.dropped += 1
        return False

    def count(self) -> int:
        """Return how many items are in it. Looks at every slot: for the end of a run."""
        return sum(item is not None for item in self._slots)

    def pop(self, at_most: int) -> list[T]:
        """Take up to `at_most` items, oldest first. Never waits."""
        items: list[T] = []
        head, mask, slots = self._head, self._mask, self._slots
        while len(items) < at_most:
            item = slots[head & mask]
            if item is not None:
                slots[head & mask] = None
                items.append(item)
            elif head in self._abandoned:
                self._abandoned.discard(head)
            else:
                break
            head += 1
            self._head = head
        self._full = False
        return items
