"""Hear of CUDA synchronisations through torch's own debug mode.

torch's warning comes when the call that synchronised returns to Python, on the thread that made
it; those of the backward pass come on the thread that called `backward()`, when it returns.
"""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

SYNC_TEXT = "called a synchronizing CUDA operation"

_WARN = 1  # the debug mode's numbers, as torch.cuda.get_sync_debug_mode returns them
_OFF = 0


class _Shared:
    """The process's warning filters, `warnings.showwarning` and debug mode.

    All of it belongs to the whole process: the first listener changes it and the last to leave
    puts it back, whichever way listeners are nested or spread over threads.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.listeners: list[tuple[int, Callable[[], None]]] = []
        self._changes = ExitStack()

    def install(self) -> None:
        self._changes.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("always", message=re.escape(SYNC_TEXT))
        original = warnings.showwarning

        def show(message: Warning | str, *details: Any, **more: Any) -> None:
            if not str(message).startswith(SYNC_TEXT):
                original(message, *details, **more)
                return
            # Other threads' synchronisations do not hold up the one that is listened to.
            here = threading.get_ident()
            for thread_id, hear in list(self.listeners):
                if thread_id == here:
                    hear()

        warnings.showwarning = show

    def remove(self) -> None:
        self._changes.close()

    def switch_on(self) -> None:
        with self.lock:
            if self.listeners and torch.cuda.get_sync_debug_mode() == _OFF:
                _set_mode(_WARN)
                self._changes.callback(_set_mode, _OFF)


def _set_mode(mode: int) -> None:
    with warnings.catch_warnings():  # "a prototype feature"
        warnings.simplefilter("ignore")
        torch.cuda.set_sync_debug_mode(mode)


_shared = _Shared()


@contextmanager
def listen(hear: Callable[[], None]) -> Iterator[None]:
    """Call `hear` after each call of this thread that synchronised, once `warn_of_syncs` was."""
    listener = (threading.get_ident(), hear)
    with _shared.lock:
        if not _shared.listeners:
            _shared.install()
        _shared.listeners.append(listener)
    try:
        yield
    finally:
        with _shared.lock:
            _shared.listeners.remove(listener)
            if not _shared.listeners:
                _shared.remove()


def warn_of_syncs() -> bool:
    """Have torch warn from now on; return False while CUDA is not initialised.

    It must not be initialised for that: the program may fork, or choose its devices, first. A
    debug mode that the program has set itself stays as it is.
    """
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch's has no types
        return False
    _shared.switch_on()
    return True
