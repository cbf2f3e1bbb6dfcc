"""With which code a program, or a child of multiprocessing, ends: as far as Python tells.

When exit handlers run, the interpreter has forgotten the SystemExit that it met. So `sys.exit` is
wrapped while runs are open, and gives its exception a mark that dies with it: freed while no
Python code is running, it was the interpreter that dropped it, and the program ends with its code;
freed anywhere else, somebody had caught it. `raise SystemExit(3)` and `exit(3)` make their
exceptions by themselves and are not seen.
"""

from __future__ import annotations

import operator
import sys
import threading
from typing import TYPE_CHECKING, Any, NoReturn

from fasttrack.handler_errors import is_handlers

if TYPE_CHECKING:
    from collections.abc import Callable

_LARGEST = 2**31 - 1  # of a code; a journal's line takes 64 bits, a system 8


def as_exit_code(value: Any) -> int:
    """Return an exit code as a number: 1 for whatever is none."""
    if not hasattr(type(value), "__index__"):  # no exception whose frames hold the SystemExit
        return 1
    try:
        code = operator.index(value)
    except Exception as error:  # of whatever class the value is
        if is_handlers(error):
            raise
        return 1
    return code if abs(code) <= _LARGEST else 1


def exit_code_of(error: BaseException | None) -> int:
    """Return the exit code of a program that ends by `error`; 0 for None."""
    if error is None:
        return 0
    if isinstance(error, SystemExit):
        return 0 if error.code is None else as_exit_code(error.code)
    return 130 if isinstance(error, KeyboardInterrupt) else 1


def exit_code_of_program() -> int:
    """Return the exit code of this program, whose exit handlers run now."""
    error = getattr(sys, "last_value", None)  # what the interpreter has printed
    return _asked_for or 0 if error is None else exit_code_of(error)


class _Mark:
    """Dies with the exception that carries it."""

    __slots__ = ("_code",)

    def __init__(self, code: int) -> None:
        self._code = code

    def __del__(self) -> None:
        global _asked_for
        # The first to die: what it was raised in the handling of dies after it.
        if (
            _asked_for is None
            and sys._getframe().f_back is None
            and threading.get_ident() == threading.main_thread().ident
        ):
            _asked_for = self._code


def _exit(status: Any = None, /) -> NoReturn:
    """Exit the interpreter by raising SystemExit(status); fasttrack notes the code on its way."""
    try:
        _original(status)
    except SystemExit as error:
        error.__dict__["_fasttrack"] = _Mark(exit_code_of(error))
        raise
    raise AssertionError("sys.exit returned")


_asked_for: int | None = None
_original: Callable[..., NoReturn] = sys.exit
_installed = False


def watch_sys_exit() -> None:
    """Wrap `sys.exit`, unless it is."""
    global _original, _installed
    if not _installed:
        _original, sys.exit, _installed = sys.exit, _exit, True


def leave_sys_exit() -> None:
    """Put `sys.exit` back; where somebody has wrapped ours since, ours stays below theirs."""
    global _installed
    if sys.exit is _exit:
        sys.exit, _installed = _original, False
