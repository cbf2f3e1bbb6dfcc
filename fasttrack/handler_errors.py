"""Tell an exception that a signal handler raised from one of ours: it goes on to the script.

CPython runs a handler between any two instructions of the main thread, inside our calls too. What
it raises (a preemption's "stop now", a DataLoader's "worker is killed by signal") is meant for the
program; a broad `except` of ours must let it through.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import CodeType, FrameType


def is_handlers(error: BaseException) -> bool:
    """Return whether a signal handler, or something that it called, raised `error`.

    For the way of errors only: it takes some 20 microseconds. A handler that is written in C leaves
    no frame and is not recognised.
    """
    codes: set[CodeType] | None = None
    traceback = error.__traceback__
    while traceback is not None:
        frame = traceback.tb_frame
        if _was_given_its_caller(frame):
            return True
        if codes is None:
            codes = _handlers_code()
        if frame.f_code in codes:
            return True
        traceback = traceback.tb_next
    return False


def _was_given_its_caller(frame: FrameType) -> bool:
    """Return whether an argument is the frame below, as of a handler and of nothing else.

    Also true of a handler that has replaced itself before it raised, which is no handler any more.
    """
    code, below = frame.f_code, frame.f_back
    if below is None:
        return False
    count = code.co_argcount + code.co_kwonlyargcount
    count += bool(code.co_flags & _VARARGS) + bool(code.co_flags & _VARKEYWORDS)
    values = frame.f_locals
    arguments = [values.get(name) for name in code.co_varnames[:count]]
    if type(values) is dict and code.co_flags & _OPTIMIZED:
        values.clear()  # a copy that the frame keeps (before 3.13), in a cycle with its exception
    return any(
        value is below or (type(value) is tuple and any(item is below for item in value))
        for value in arguments
    )


def _handlers_code() -> set[CodeType]:
    found = set()
    for number in signal.valid_signals():
        handler: Any = signal.getsignal(number)
        while hasattr(handler, "func"):  # functools.partial
            handler = handler.func
        if not callable(handler):
            continue
        for function in (handler, handler.__call__):
            code = getattr(function, "__code__", None)  # a method's is its function's
            if code is not None:
                found.add(code)
    return found


_OPTIMIZED, _VARARGS, _VARKEYWORDS = 0x01, 0x04, 0x08  # `inspect.CO_VARARGS`, without that module
