"""SIGTERM where the program has no handler of its own: end the runs, then die of it.

While somebody listens (the program calls `should_stop()`), he is told, and nothing else happens.

A handler in Python runs on the main thread, between two instructions: in one long call into native
code (a hung collective) it never does, and the signal that killed the process before fasttrack was
there would be lost. So a thread waits beside it: the interpreter writes the number of every signal
into a pipe from within the system's handler (`signal.set_wakeup_fd`), at once. Where the main
thread does not come, that thread ends the runs and dies of the signal.

A native call that keeps the interpreter lock stops this thread, too. Another process then has to
look after it: whoever holds the pipe's reading end (`lend`) sees that nobody reads it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

SIGTERM_EXIT_CODE = 128 + signal.SIGTERM

_COME_S = 1.0  # that the main thread may take to come
_END_S = 8.0  # that ending the runs may take
_STOP = b"\0"  # the number of no signal


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
        self._lock = threading.RLock()  # of the pipe
        self._pipe: tuple[int, int] | None = None
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
        reading, writing = os.pipe()
        os.set_blocking(reading, False)  # others may poll it, too
        os.set_blocking(writing, False)
        earlier = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        if earlier != -1:
            signal.set_wakeup_fd(earlier)
            os.close(reading)
            os.close(writing)
            return
        with self._lock:
            self._pipe = reading, writing
        thread = threading.Thread(
            target=self._wait, args=(reading,), name="fasttrack-sigterm", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:
            self._close()
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
            pipe, self._pipe = self._pipe, None
        if pipe is None:
            return
        writing = pipe[1]
        _leave_wakeup_fd(writing)
        with contextlib.suppress(BlockingIOError):
            os.write(writing, _STOP)  # the thread closes its end
        os.close(writing)

    def lend(self) -> int | None:
        """Return a copy of the pipe's reading end, which the caller closes; None without one."""
        with self._lock:
            return None if self._pipe is None else os.dup(self._pipe[0])

    # --- on a signal ------------------------------------------------------------------------------

    def handle(self, signum: int, frame: FrameType | None) -> None:
        """Tell who listens, or end the runs and the process: the handler."""
        if self.listeners:
            for listener in list(self.listeners):
                listener()
            return
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # Slurm and torchrun send it twice
        if self._begun.acquire(blocking=False):
            self._end_runs()
        else:  # back from native code at last; the thread is at it, and kills the process
            time.sleep(_END_S)
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
        return not self.listeners and signal.getsignal(signal.SIGTERM) in (
            self.handle,
            signal.SIG_IGN,
        )

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
        """Hold SIGTERM back on this thread: a child has the parent's pipe at first."""
        if self._pipe is not None:
            self._mask.before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def after_fork_in_parent(self) -> None:
        """Let SIGTERM come again."""
        before = self._mask.__dict__.pop("before", None)
        if before is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def after_fork_in_child(self) -> None:
        """Leave SIGTERM as it was before us, and the pipe to the parent."""
        self._lock, self._begun = threading.RLock(), threading.Lock()
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            _leave_wakeup_fd(pipe[1])
            for fd in pipe:
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
