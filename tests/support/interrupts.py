"""What a signal handler raises, at a chosen place of a call: at each in turn, not by chance."""

from __future__ import annotations

import gc
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType


class Preempted(Exception):
    """What the handler of a user's raises."""


def handler(number: int, frame: FrameType | None) -> None:
    """Raise, as a user's handler."""
    raise Preempted


def interrupt(
    call: Callable[[], object], at: int, first: Callable[[], object] = lambda: None
) -> bool:
    """Call, and have a handler raise before the `at`-th bytecode; return whether it came to that.

    Between any two bytecodes of the main thread is where CPython runs handlers, or nearly.

    Args:
        call: what is interrupted.
        at: where, counted from 1.
        first: what the handler does before it raises.
    """
    seen = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal seen
        frame.f_trace_opcodes = True
        if event == "opcode":
            seen += 1
            if seen == at:
                first()
                handler(0, frame)
        return trace

    before = sys.gettrace()
    gc.disable()  # what it calls is not `call`'s
    sys.settrace(trace)
    try:
        call()
    except Preempted:
        return True
    finally:
        sys.settrace(before)
        gc.enable()
    return False
