"""SIGTERM where the program has no handler of its own: end the runs, then die of it.

While somebody listens (the program calls `should_stop()`), he is told, and nothing else happens.

A handler in Python runs on the main thread, between two instructions: in one long call into native
code (a hung collective) it never does, and the signal that killed the process before fasttrack was
there would be lost. So a thread waits beside it: the interpreter writes the number of every signal
into a socket from within the system's handler (`signal.set_wakeup_fd`), at once. Where the main
thread does not come, that thread ends the runs and dies of the signal.

A native call that keeps the interpreter lock stops this thread, too. The delivery process, to which
the socket's reading end is lent, then sees that nobody reads it (`delivery/stuck_trainer.py`).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import socket
import threading
import time
from _signal import getsignal  # type: ignore[import-not-found]  # no enums: the worker asks often
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

SIGTERM_EXIT_CODE = 128 + signal.SIGTERM

_SIGTERM, _IGNORE = int(signal.SIGTERM), int(signal.SIG_IGN)
_COME_S = 1.0  # that the main thread may take to come
_END_S = 8.0  # that ending the runs may take
_STOP = b"\0"  # the number of no signal


class _Ends(NamedTuple):
    """The descriptors of a socket pair."""

    reading: int
    wakeup: int
    """What Python writes to: `writing`, or nowhere."""
    writing: int


class Sigterm:
    """Our handling of SIGTERM, of one process.

    Threads: `take`, `give_back` and the handler on the main thread, where Python wants it; `lend`
    on any.
    """

    def __init__(self, end_runs: Callable[[], None]) -> None:
        """Do nothing before `take`.

        Args:
            end_runs: flushes and marks all runs; called on the main thread, in the midst of
                whatever runs there, or on one of its own; never on both.
        """
        self._end_runs = end_runs
        self.listeners: list[Callable[[], None]] = []
        """While there are any, SIGTERM calls them, on the main thread, and ends nothing."""
        self._begun = threading.Lock()  # held from the first that ends the runs on
        self._lock = threading.RLock()  # of the pair
        self._ends: _Ends | None = None
        self._is_written = True  # what Python writes is read
        self._mask = threading.local()

    def take(self) -> None:
        """Handle SIGTERM from now on, where it would kill the process and this thread may say so.

        Where somebody else has Python's wake-up descriptor (asyncio, while it handles signals),
        only the handler is installed.
        """
        if not _on_main_thread() or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
            return
        signal.signal(signal.SIGTERM, self.handle)
        with contextlib.suppress(OSError, RuntimeError):  # no descriptor, no thread is left
            self._watch()

    def _watch(self) -> None:
        pair = socket.socketpair()  # no pipe: others may look without taking anything out
        for end in pair:
            end.setblocking(False)
        reading, writing = (end.detach() for end in pair)
        ends = _Ends(reading, os.dup(writing), writing)
        earlier = signal.set_wakeup_fd(ends.wakeup, warn_on_full_buffer=False)
        if earlier != -1:
            signal.set_wakeup_fd(earlier)
            for fd in ends:
                os.close(fd)
            return
        with self._lock:
            self._ends, self._is_written = ends, True
        thread = threading.Thread(
            target=self._wait, args=(reading,), name="fasttrack-sigterm", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:
            self._close()
            os.close(reading)
            raise

    def give_back(self) -> None:
        """Leave SIGTERM as it was, unless a handler of the user's has replaced ours."""
        if not _on_main_thread():
            return
        if signal.getsignal(signal.SIGTERM) == self.handle:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self._close()

    def _close(self) -> None:
        with self._lock:
            ends, self._ends = self._ends, None
        if ends is not None:
            _leave_wakeup_fd(ends.wakeup)
            with contextlib.suppress(BlockingIOError):
                os.write(ends.writing, _STOP)  # the thread closes its end
            os.close(ends.wakeup)
            os.close(ends.writing)

    def lend(self) -> int | None:
        """Return a copy of the socket's reading end, which the caller closes; None without one."""
        with self._lock:
            return None if self._ends is None else os.dup(self._ends.reading)

    def refresh(self) -> None:
        """Have nobody wait for the end while a handler of the user's has replaced ours.

        To be called now and then, on any thread: Python tells nobody of a new handler.
        """
        with self._lock:
            ends, wanted = self._ends, self._ends_runs()
            if ends is None or wanted == self._is_written:
                return
            # The number that Python writes to stays; what is behind it changes.
            if wanted:
                os.dup2(ends.writing, ends.wakeup, inheritable=False)
            else:
                nowhere = os.open(os.devnull, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                os.dup2(nowhere, ends.wakeup, inheritable=False)
                os.close(nowhere)
            self._is_written = wanted

    # --- on a signal ------------------------------------------------------------------------------

    def handle(self, signum: int, frame: FrameType | None) -> None:
        """Tell who listens, or end the runs and the process: the handler."""
        if self.listeners:
            for listener in list(self.listeners):
                listener()
            return
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # Slurm and torchrun send it twice
        try:
            if self._begun.acquire(blocking=False):
                self._end_runs()
            else:  # back from native code at last; the thread is at it, and kills the process
                time.sleep(_END_S)
        finally:  # whatever another signal's handler raises: nobody could end it any more
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(SIGTERM_EXIT_CODE)  # pid 1 of a container is spared the default action

    def _wait(self, reading: int) -> None:
        poll = select.poll()
        poll.register(reading, select.POLLIN)
        while True:
            poll.poll()
            try:
                numbers = os.read(reading, 65536)
            except BlockingIOError:
                continue
            if signal.SIGTERM in numbers and self._ends_runs():
                self._end()
            if not numbers or _STOP in numbers:
                os.close(reading)
                return

    def _ends_runs(self) -> bool:
        # Ignored: our handler has begun on the main thread.
        return not self.listeners and getsignal(_SIGTERM) in (self.handle, _IGNORE)

    def _end(self) -> None:
        """Die, at the latest after the times that there are for it."""
        time.sleep(_COME_S)
        if self._begun.acquire(blocking=False):
            ending = threading.Thread(target=self._end_runs, name="fasttrack-ending", daemon=True)
            ending.start()
            ending.join(_END_S)
        else:
            time.sleep(_END_S)
        set_handler = ctypes.CDLL(None).signal  # Python's may be called on the main thread only
        set_handler.argtypes, set_handler.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
        set_handler(signal.SIGTERM, None)  # SIG_DFL
        os.kill(os.getpid(), signal.SIGTERM)
        os._exit(SIGTERM_EXIT_CODE)

    # --- fork -------------------------------------------------------------------------------------

    def before_fork(self) -> None:
        """Hold SIGTERM back on this thread: a child writes to the parent's socket at first."""
        if self._ends is not None:
            self._mask.before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def after_fork_in_parent(self) -> None:
        """Let SIGTERM come again."""
        before = self._mask.__dict__.pop("before", None)
        if before is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def after_fork_in_child(self) -> None:
        """Leave SIGTERM as it was before us, and the sockets to the parent."""
        self._lock, self._begun = threading.RLock(), threading.Lock()
        ends, self._ends = self._ends, None
        if ends is not None:
            _leave_wakeup_fd(ends.wakeup)
            for fd in ends:
                os.close(fd)
        if signal.getsignal(signal.SIGTERM) == self.handle:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self.after_fork_in_parent()


def _leave_wakeup_fd(ours: int) -> None:
    """Have Python write signals nowhere, unless it writes them to somebody else by now."""
    current = signal.set_wakeup_fd(-1)
    if current not in (-1, ours):
        signal.set_wakeup_fd(current)


def _on_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
