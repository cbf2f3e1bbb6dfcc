"""Waiting for another thread where a signal handler may raise at any moment.

`threading`'s Event, Condition and Semaphore are Python code around a lock: what a handler raises in
them may leave that locked, and whoever comes next waits for ever. Of `Thread.join` and `is_alive`
it makes a running thread look ended (before Python 3.13). One acquire of a lock is safe.
"""

from __future__ import annotations

import threading
import time

from fasttrack.handler_errors import is_handlers

_LOOK_EVERY_S = 1.0  # should a handler keep the one before from handing on


class Latch:
    """What opens once and stays open: the end of a thread, for one.

    Threads: any.
    """

    __slots__ = ("_gate", "is_open")

    def __init__(self) -> None:
        """Be closed."""
        self.is_open = False
        self._gate = threading.Lock()
        self._gate.acquire()

    def open(self) -> None:
        """Let all who wait go on."""
        self.is_open = True
        _release(self._gate)

    def wait(self, timeout_s: float) -> bool:
        """Wait until it is open, up to `timeout_s`, which may be infinite; return whether it is."""
        deadline_s = time.monotonic() + timeout_s
        while not self.is_open:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                return False
            if self._gate.acquire(timeout=min(left_s, _LOOK_EVERY_S)):
                _release(self._gate)  # the next one's turn
        return True


class Bell:
    """What wakes a thread; rung while nobody waits, it wakes the next who does.

    Threads: `ring` on any, signal handlers included; `wait` on one.
    """

    __slots__ = ("_quiet",)

    def __init__(self) -> None:
        """Be quiet."""
        self._quiet = threading.Lock()  # held: not rung
        self._quiet.acquire()

    def ring(self) -> None:
        """Wake who waits. Never waits."""
        _release(self._quiet)

    def wait(self, timeout_s: float) -> None:
        """Wait until it is rung, up to `timeout_s`."""
        self._quiet.acquire(timeout=timeout_s)


def _release(lock: threading.Lock) -> None:
    if lock.locked():
        try:
            lock.release()
        except RuntimeError as error:  # another thread was quicker
            if is_handlers(error):
                raise
