"""Keep torch.compile out of the logging calls: a call is one graph break, and runs as it stands.

Dynamo would trace into them, compile what it can of them, and warn of the rest; its seconds of
compiling would count as theirs. `torch.compiler.disable` says the same, but imports Dynamo, which
takes seconds, and puts a wrapper around every call. This costs a call nothing, and torch is not
imported for it.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType

F = TypeVar("F", bound="Callable[..., Any]")

_REASON = (
    "fasttrack's calls are never compiled; call them outside of what is compiled with "
    "fullgraph=True"
)
_codes: list[CodeType] = []


def opaque(function: F) -> F:
    """Mark a function that Dynamo shall call, not trace."""
    marked: Any = function
    marked._torchdynamo_disable = True  # what Dynamo looks for where it would inline the call
    marked._torchdynamo_disable_msg = _REASON
    _codes.append(marked.__code__)
    return function


def hide_from_dynamo() -> None:
    """Have the marked functions, and what they call, run as they stand. Needs torch 2.7.

    Does nothing where torch is not loaded: then nothing is compiled yet, and `opaque` alone keeps
    the graphs whole.
    """
    if "torch" not in sys.modules:
        return
    try:
        from torch._C._dynamo import eval_frame

        skip = eval_frame._FrameAction.SKIP  # the frame itself, and those below it
        for code in _codes:
            eval_frame.set_code_exec_strategy(code, eval_frame._FrameExecStrategy(skip, skip))
    except (ImportError, AttributeError):  # an older torch, or one without Dynamo
        return
    _codes.clear()
