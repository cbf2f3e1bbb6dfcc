"""What the training thread is doing: looked at from beside, now and then, at random moments.

In synchronous training all ranks' steps take the same time, as they wait for the slowest one in a
collective. What tells them apart is where they are meanwhile: the slow rank in its data loading or
its own computing, the others waiting. A thread's stack shows that from another thread, and the one
that trains does nothing for it.

What is *own* time, which no other rank can have caused, is known where it is known where a thread
waits for others: in the functions of `torch.distributed`, and in the backward pass, in which DDP
and FSDP communicate. What a rank computes in its backward pass is not told from waiting, and
counts as waiting: it is never blamed for it. On an accelerator the thread may wait for others in
any line that waits for the device. There only the time in a `DataLoader` counts.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import CodeType

    from fasttrack.ranks.messages import Span

_OTHER: Final = 0
_THROUGH: Final = 1  # what stands between a caller and the function that it calls
_COLLECTIVE: Final = 2
_BACKWARD: Final = 3
_DATA: Final = 4

_DEEPEST = 300  # frames that are looked at
_MOST_KINDS = 8192  # functions; programs that make them anew at every step are no reason to grow
_WAITS = (
    "torch/distributed/",
    "torch/nn/parallel/distributed.py",
    "fasttrack/collective/",  # where ranks wait for others before they reduce what they log
)
_NO_WAITS = ("torch/distributed/elastic/",)
_THROUGH_FILES = ("torch/_ops.py", "torch/utils/_contextlib.py")


def kind_of(code: CodeType) -> int:
    """Return what it means that a function is running."""
    file = code.co_filename.replace(os.sep, "/")
    if code.co_name == "_engine_run_backward" and file.endswith("torch/autograd/graph.py"):
        return _BACKWARD
    if code.co_name == "__next__" and file.endswith("torch/utils/data/dataloader.py"):
        return _DATA
    if any(part in file for part in _WAITS) and not any(part in file for part in _NO_WAITS):
        return _COLLECTIVE
    return _THROUGH if file.endswith(_THROUGH_FILES) else _OTHER


class OwnTime:
    """Look at one thread now and then.

    Threads: one.
    """

    def __init__(
        self,
        thread_id: int,
        open_pauses: Sequence[float],
        on_accelerator: Callable[[], bool],
    ) -> None:
        """Look at the thread whose `threading.get_ident()` is `thread_id`.

        Args:
            thread_id: of the thread that trains.
            open_pauses: not empty while it is at what is no training.
            on_accelerator: returns whether it may wait for a device anywhere.
        """
        self._thread_id = thread_id
        self._open_pauses = open_pauses
        self._on_accelerator = on_accelerator
        self._kinds: dict[CodeType, int] = {}

    def look(self, span: Span) -> None:
        """Add one look to `span`. Takes some microseconds."""
        if self._open_pauses:
            return
        kind = self._kind_of_stack()
        if kind is None:
            return
        span.samples += 1
        if kind == _DATA:
            span.data += 1
            span.own += 1
        elif kind == _OTHER and not self._on_accelerator():
            span.own += 1

    def _kind_of_stack(self) -> int | None:
        """Return what the innermost function says that says anything; None: there is no thread."""
        frame = sys._current_frames().get(self._thread_id)
        if frame is None:
            return None
        kinds = self._kinds
        innermost = True  # below it, a frame of torch.distributed is a wrapper of the user's code
        for _ in range(_DEEPEST):
            if frame is None:
                break
            code = frame.f_code
            kind = kinds.get(code)
            if kind is None:
                if len(kinds) >= _MOST_KINDS:
                    kinds.clear()
                kind = kinds[code] = kind_of(code)
            if kind >= _BACKWARD or (kind == _COLLECTIVE and innermost):
                return kind
            if kind != _THROUGH:
                innermost = False
            frame = frame.f_back
        return _OTHER
