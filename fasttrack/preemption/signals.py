"""Signals that ask to stop, taken over where the program has no handler of its own."""

from __future__ import annotations

import atexit
import os
import signal
import threading
from typing import TYPE_CHECKING

from fasttrack import process_hooks

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import FrameType


class StopSignals:
    """Have signals note a wish to stop, instead of ending the process.

    A handler of the program's own is never replaced. What is ignored is listened to: batch scripts
    ignore a signal until the training listens. SIGTERM goes through `process_hooks`, which has it
    otherwise.

    Threads: `listen` and `leave` on the main one, else they do nothing.
    """

    def __init__(self, names: Sequence[str], request: Callable[[str], None]) -> None:
        """Prepare.

        Args:
            names: the signals'.
            request: called with a signal's name, in its handler.
        """
        self._names = names
        self._request = request
        self._before: dict[int, object] = {}
        self._came = False
        self._pid = os.getpid()

    def listen(self) -> bool:
        """Take the signals over; return whether that could be tried."""
        if threading.current_thread() is not threading.main_thread():
            return False
        for name in self._names:
            number = getattr(signal, name)
            if number == signal.SIGTERM:
                process_hooks.listen(self._note_sigterm)
            elif signal.getsignal(number) in (signal.SIG_DFL, signal.SIG_IGN):
                self._before[number] = signal.signal(number, self._note)
        atexit.register(self._at_exit)
        return True

    def leave(self) -> None:
        """Give them back, unless one came.

        It often comes twice, and must not end what was asked to end by itself.
        """
        if self._came or threading.current_thread() is not threading.main_thread():
            return
        atexit.unregister(self._at_exit)
        process_hooks.unlisten(self._note_sigterm)
        for number, before in self._before.items():
            if signal.getsignal(number) == self._note:
                signal.signal(number, before)  # type: ignore[arg-type]
        self._before.clear()

    def _note_sigterm(self) -> None:
        self._came = True
        self._request("SIGTERM")

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:  # a fork inherits the handler, but has nothing to stop
            signal.signal(number, self._before[number])  # type: ignore[arg-type]
            os.kill(os.getpid(), number)
            return
        self._came = True
        self._request(signal.Signals(number).name)

    def _at_exit(self) -> None:
        # Python's end resets handlers: a second signal would end it with another exit code.
        if self._came and os.getpid() == self._pid:
            for number in (*self._before, signal.SIGTERM):
                if signal.getsignal(number) in (self._note, process_hooks.on_sigterm):
                    signal.signal(number, signal.SIG_IGN)
