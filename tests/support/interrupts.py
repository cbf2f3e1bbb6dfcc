"""What a signal handler raises, at a chosen place of a call: at each in turn, not by chance."""

from __future__ import annotations

import gc
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType


class Preempted(TimeoutError, RuntimeError):
    """What the handler of a user's raises."""


def handler(number: int, frame: FrameType | None) -> None:
    """Raise, as a user's handler."""
    raise Preempted


def interrupt(
    call: Callable[[], object], at: int, first: Callable[[], object] = lambda: None
) -> bool:
    """Call, and have a handler raise before the `at`-th bytecode; return whether it came to that.

    Between any two bytecodes of the main thread is where CPython runs handlers, or nearly. What one
    raises must come out of the call again.

    Args:
        call: what is interrupted.
        at: where, counted from 1.
        first: what the handler does before it raises.
    """
    seen = 0
    where: list[str] = []

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal seen
        frame.f_trace_opcodes = True
        if event == "opcode":
            seen += 1
            if seen == at:
                where.append(f"{frame.f_code.co_filename}:{frame.f_lineno}")
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
    assert not where, f"what a handler raised was swallowed: {where}"
    return False
