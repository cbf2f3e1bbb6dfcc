"""A bounded queue from many caller threads to the one worker thread, without a lock.

"Lock-free" here means: `push` on a ring with room takes no lock, makes no system call and never
waits for another thread. It is a look at the length of a list and an append to it; the consumer
copies the list's beginning, then deletes that. Correctness needs only that each of these three is
whole, which CPython guarantees (on a free-threaded build the list has a lock of its own for it).

Nothing is lost or left half done where a signal handler raises, or logs, between the look and the
append. But threads that look at once may all find the last place free: there may be one item more
than `capacity` for each other thread that pushes.

A list's `append` is the cheapest call that Python has: after a training step, when nothing is in
the caches, a ring of numbered slots cost three times as much.
"""

from __future__ import annotations

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
        "_clock",
        "_full",
        "_full_wait_s",
        "_lock",
        "_pause",
        "capacity",
        "dropped",
        "items",
    )

    def __init__(
        self,
        capacity: int,
        full_wait_s: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], object] = time.sleep,
    ) -> None:
        """Begin empty.

        Args:
            capacity: most items.
            full_wait_s: how long a push may wait, in seconds, when there are that many.
            clock: seconds; asked on a full ring only.
            pause: waits, in seconds.
        """
        # any thread
        self.items: list[T] = []
        """What it holds, oldest first. While it is shorter than `capacity`, appending is pushing"""
        self.capacity = capacity
        self._full_wait_s = full_wait_s
        self._clock = clock
        self._pause = pause
        self._full = False
        self._lock = RLock()  # for the count of drops; a signal handler may come in between
        self.dropped = 0

    def push(self, item: T) -> bool:
        """Put `item` in; return False where it was dropped because the ring stayed full.

        Returns at once while there is room. On a full ring it waits up to `full_wait_s` (a burst
        loses nothing); when that was in vain, further pushes drop at once until the consumer has
        taken something.
        """
        if len(self.items) >= self.capacity and not self._gets_room():
            with self._lock:
                self.dropped += 1
            return False
        self.items.append(item)
        return True

    def _gets_room(self) -> bool:
        if self._full:
            return False
        deadline = self._clock() + self._full_wait_s
        while len(self.items) >= self.capacity:
            if self._clock() >= deadline or self._full:
                self._full = True
                return False
            self._pause(_POLL_S)
        return True

    def count(self) -> int:
        """Return how many items are in it."""
        return len(self.items)

    def pop(self, at_most: int) -> list[T]:
        """Take up to `at_most` items, oldest first. Never waits."""
        taken = self.items[:at_most]
        del self.items[: len(taken)]
        self._full = False
        return taken
