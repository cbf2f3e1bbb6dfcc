"""Signals that ask to stop, taken over where the program has no handler of its own."""

from __future__ import annotations

import atexit
import os
import signal
import threading
from typing import TYPE_CHECKING, Any

from fasttrack import process_hooks

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import FrameType


_DEFAULTS = (signal.SIG_DFL, signal.SIG_IGN, signal.default_int_handler)
_before: dict[int, Any] = {}  # what was there before `_on_signal`
_hearers: list[StopSignals] = []
_pid = os.getpid()


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
        self.numbers = {getattr(signal, name) for name in names}
        self._request = request
        self._came = False

    def listen(self) -> bool:
        """Take the signals over; return whether that could be tried."""
        global _pid
        if threading.current_thread() is not threading.main_thread():
            return False
        _pid = os.getpid()
        _hearers.append(self)
        for number in self.numbers - {signal.SIGTERM}:
            if signal.getsignal(number) in _DEFAULTS:
                _before[number] = signal.signal(number, _on_signal)
        if signal.SIGTERM in self.numbers:
            process_hooks.listen(self._note_sigterm)
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
        if self in _hearers:
            _hearers.remove(self)
        self._give_back(self.numbers)

    def let_end(self) -> None:
        """Have signals end the program as they did: it will not stop when it is asked to.

        SIGUSR1 and SIGUSR2 are heard on, in vain: whoever sends them wants a checkpoint, and they
        would kill.
        """
        numbers = self.numbers - {signal.SIGUSR1, signal.SIGUSR2}
        self.numbers -= numbers
        if signal.SIGTERM in numbers:
            process_hooks.unlisten(self._note_sigterm)
        if threading.current_thread() is threading.main_thread():
            self._give_back(numbers)

    def _give_back(self, numbers: set[int]) -> None:
        for number in numbers & _before.keys():
            if any(number in other.numbers for other in _hearers):
                continue
            if signal.getsignal(number) is _on_signal:
                signal.signal(number, _before[number])
            del _before[number]

    def note(self, number: int) -> None:
        """Take one in."""
        self._came = True
        self._request(signal.Signals(number).name)

    def _note_sigterm(self) -> None:
        self.note(signal.SIGTERM)

    def _at_exit(self) -> None:
        # Python's end resets handlers: a second signal would end it with another exit code.
        if not self._came or os.getpid() != _pid:
            return
        for number in self.numbers:
            if signal.getsignal(number) in (_on_signal, process_hooks.on_sigterm):
                signal.signal(number, signal.SIG_IGN)


def _on_signal(number: int, frame: FrameType | None) -> None:
    if os.getpid() != _pid:  # a fork inherits the handler, but has nothing to stop
        signal.signal(number, _before[number])
        os.kill(os.getpid(), number)
        return
    for hearer in list(_hearers):
        if number in hearer.numbers:
            hearer.note(number)
