"""Hear of CUDA synchronisations through torch's own debug mode.

torch's warning comes when the call that synchronised returns to Python, on the thread that made
it; those of the backward pass come on the thread that called `backward()`, when it returns.
"""

from __future__ import annotations

import re
import threading
import warnings
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SYNC_TEXT = "called a synchronizing CUDA operation"

_WARN = 1  # the debug mode's numbers, as torch.cuda.get_sync_debug_mode returns them
_OFF = 0


class DebugMode(Protocol):
    """What is asked of `torch.cuda`."""

    def is_initialized(self) -> bool:
        """Return whether the process uses CUDA already."""

    def get_sync_debug_mode(self) -> int:
        """Return the mode: 0 off, 1 warn, 2 error."""

    def set_sync_debug_mode(self, debug_mode: int) -> None:
        """Set the mode; initialises CUDA."""


class SyncWarnings:
    """The process's warning filters, `warnings.showwarning` and debug mode.

    All of it belongs to the whole process: the first listener changes it and the last to leave
    puts it back, whichever way listeners are nested or spread over threads.

    Threads: any.
    """

    def __init__(self, cuda: DebugMode) -> None:
        """Change nothing yet. A process has one of these, `SYNC_WARNINGS`; tests have others."""
        self._cuda = cuda
        self._lock = threading.RLock()
        self._listeners: list[tuple[int, Callable[[], None]]] = []
        self._changes = ExitStack()

    @contextmanager
    def listen(self, hear: Callable[[], None]) -> Iterator[None]:
        """Call `hear` after each call of this thread that synchronised, once `switch_on` was."""
        listener = (threading.get_ident(), hear)
        with self._lock:
            if not self._listeners:
                self._install()
            self._listeners.append(listener)
        try:
            yield
        finally:
            with self._lock:
                self._listeners.remove(listener)
                if not self._listeners:
                    self._changes.close()

    def switch_on(self) -> bool:
        """Have torch warn from now on; return False while CUDA is not initialised.

        It must not be initialised for that: the program may fork, or choose its devices, first. A
        debug mode that the program has set itself stays as it is.
        """
        if not self._cuda.is_initialized():
            return False
        with self._lock:
            if self._listeners and self._cuda.get_sync_debug_mode() == _OFF:
                self._set_mode(_WARN)
                self._changes.callback(self._set_mode, _OFF)
        return True

    def _install(self) -> None:
        self._changes.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("always", message=re.escape(SYNC_TEXT))
        original = warnings.showwarning

        def show(message: Warning | str, *details: Any, **more: Any) -> None:
            if not str(message).startswith(SYNC_TEXT):
                original(message, *details, **more)
                return
            # Other threads' synchronisations do not hold up the one that is listened to.
            here = threading.get_ident()
            for thread_id, hear in list(self._listeners):
                if thread_id == here:
                    hear()

        warnings.showwarning = show

    def _set_mode(self, mode: int) -> None:
        with warnings.catch_warnings():  # "a prototype feature"
            warnings.simplefilter("ignore")
            self._cuda.set_sync_debug_mode(mode)


SYNC_WARNINGS = SyncWarnings(torch.cuda)
