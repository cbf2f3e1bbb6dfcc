"""Who holds the GIL, and for how long at a time."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable


class Burst(NamedTuple):
    """A time for which a thread held the GIL: from getting it to giving it up by itself."""

    start_s: float  # time.perf_counter()
    end_s: float
    cpu_s: float


class GilBursts:
    """Note each burst of one thread under the GIL.

    A thread gives the GIL up by itself only where a C function does so around something that may
    wait. Those that fasttrack's worker calls are wrapped here: `os.write`, `os.read`, `time.sleep`,
    and `acquire` of a lock that is taken. Between two of them it holds the GIL, unless another
    thread has asked for it for longer than the switch interval (5 ms). What counts is the thread's
    CPU time in between: a thread that the system has taken off its core while it held the GIL looks
    slow on the wall clock, through no fault of its own. A release that is not in the list (torch's
    kernels, `waitpid`) joins two bursts: the figures are an upper bound.

    The wrappers cost about 1 us per release, most of it outside of the bursts. Install them before
    the tracker is made, in a process of its own: they stay.

    Threads: `watch` and `bursts` on any; the rest on the watched one.
    """

    def __init__(self) -> None:
        """Replace the functions."""
        self._thread_id: int | None = None
        self._start_s = self._start_cpu_s = 0.0
        self._bursts: list[tuple[float, float, float]] = []
        os.write, os.read = self._wrapped(os.write), self._wrapped(os.read)
        time.sleep = self._wrapped(time.sleep)
        make_lock = threading.Lock
        threading.Lock = lambda: _WatchedLock(make_lock(), self)  # type: ignore[assignment,return-value]

    def watch(self, thread_name: str) -> None:
        """Note from now on, and anew, the bursts of the thread of that name."""
        (thread,) = (t for t in threading.enumerate() if t.name == thread_name)
        self._thread_id = None
        self._bursts = []
        self._start_s = 0.0
        self._thread_id = thread.ident

    def bursts(self) -> list[Burst]:
        """Stop, and return what was noted, oldest first."""
        self._thread_id = None
        return [Burst(*times) for times in self._bursts.copy()]

    def released(self) -> None:
        """Note that the calling thread is about to give up the GIL."""
        cpu_s, now_s = time.thread_time(), time.perf_counter()
        if self._start_s:
            self._bursts.append((self._start_s, now_s, cpu_s - self._start_cpu_s))

    def taken(self) -> None:
        """Note that the calling thread has the GIL again."""
        self._start_s = time.perf_counter()
        self._start_cpu_s = time.thread_time()

    def is_watched(self) -> bool:
        """Return whether the calling thread is the one."""
        return threading.get_ident() == self._thread_id

    def _wrapped(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if not self.is_watched():
                return function(*arguments, **named)
            self.released()
            try:
                return function(*arguments, **named)
            finally:
                self.taken()

        return call


class _WatchedLock:
    """A lock whose `acquire` tells `GilBursts` when it has to wait."""

    def __init__(self, lock: Any, bursts: GilBursts) -> None:
        self._lock = lock
        self._bursts = bursts

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if self._lock.acquire(False):
            return True
        if not blocking or timeout == 0:
            return False
        watched = self._bursts.is_watched()
        if watched:
            self._bursts.released()
        try:
            return bool(self._lock.acquire(True, timeout))
        finally:
            if watched:
                self._bursts.taken()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *exc_info: object) -> None:
        self._lock.release()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lock, name)
