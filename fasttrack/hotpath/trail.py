"""The last steps that were not logged: what each had, in a ring of fixed size.

Only for runs that ask for it (`Options.watch_nonfinite`, `Options.flight_recorder`). A number is
kept as it is; a value on a device is copied there, asynchronously, and the worker reads some of
them together, behind an event: nobody waits for the device. That one copy is one launch for each
value; to compare on the device, and to keep the number of the first bad step there, would be three.
"""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from fasttrack.handler_errors import is_handlers
from fasttrack.hotpath.capture import Capture, current_streams, mark_each
from fasttrack.hotpath.records import LOSS

if TYPE_CHECKING:
    from collections.abc import Sequence

_TOGETHER = 64  # steps with something on a device; their event is recorded with the last of them
SLACK = 1024
"""Steps that may go by until the worker has looked at one."""


class TrailStep(NamedTuple):
    """A step that was not logged."""

    step: int
    at_s: float
    """`time.perf_counter()` at the call."""
    batch_size: int | None
    values: dict[str, Any]
    """What it had, by metric; the worker puts numbers in the place of tensors."""
    pending: dict[str, torch.Tensor] | None
    """The tensors among them, until they are read; None where there was none."""


class StepTrail:
    """Keep the last steps that were not logged.

    Threads: `note` and `mark` from any caller (two at once may lose a step); `take` from
    the worker; `last` from any.
    """

    __slots__ = (
        "_capture",
        "_marks",
        "_size",
        "_slots",
        "_streams",
        "_sure",
        "_taken",
        "_unmarked",
        "_written",
        "keeps_all",
    )

    def __init__(self, steps: int) -> None:
        """Keep the last `steps` and `SLACK`; 0: only what the worker has yet to read."""
        # caller thread
        self.keeps_all = steps > 0
        """Whether steps are kept whose values are finite numbers."""
        self._capture = Capture("snapshot")
        self._size = steps + SLACK + 1
        self._slots: list[Any] = [None] * self._size
        self._unmarked = 0  # steps with something on a device behind the last mark
        self._streams: set[torch.Stream] = set()  # on which it is computed
        # both
        self._written = 0
        self._sure = 0  # up to which number all are numbers
        self._marks: list[tuple[float, int, tuple[torch.Event, ...]]] = []
        # worker thread
        self._taken = 0

    # --- caller thread ------------------------------------------------------------------------

    def note(self, step: int, batch_size: int | None, values: dict[str, Any]) -> None:
        """Keep a step. Never waits.

        Args:
            step: the user's number of it.
            batch_size: of it.
            values: become what keeps them; those that can be no metric are left out.
        """
        at_s = perf_counter()
        pending = self._capture.mapping(values, _unsaid)
        if pending is not None:
            devices = {tensor.device for tensor in pending.values()}
            self._streams.update(current_streams(devices))
        elif not self.keeps_all:
            loss = values.get(LOSS)
            if loss is None or loss - loss == 0:
                return
        number = self._written
        self._slots[number % self._size] = TrailStep(step, at_s, batch_size, values, pending)
        self._written = number + 1
        if pending is not None:
            self._unmarked += 1
            if self._unmarked >= _TOGETHER:
                self.mark()
        elif not self._unmarked:
            self._sure = number + 1

    def mark(self) -> None:
        """Let the worker read what was noted so far, once the device has come to it. Never waits.

        Told by the streams on which it was noted: others may be current by now, in this thread or
        another, which have waited for none of these. Where a device fails to tell, or a CUDA graph
        is being captured, it is for the next mark to do.
        """
        if not self._unmarked:
            return
        written, streams = self._written, tuple(self._streams)
        on_cuda = any(stream.device.type == "cuda" for stream in streams)
        if on_cuda and torch.cuda.is_current_stream_capturing():
            return
        try:
            events = mark_each(streams)
        except RuntimeError as error:
            if is_handlers(error):
                raise
            return
        self._marks.append((perf_counter(), written, events))
        if len(self._marks) > self._size:  # no worker comes; what the oldest marks has fallen out
            del self._marks[0]
        self._unmarked = 0
        self._streams.difference_update(streams)

    # --- worker thread ------------------------------------------------------------------------

    def take(self, until_s: float) -> tuple[list[TrailStep], list[torch.Event], int]:
        """Return the next steps that may be read, what the device must have reached, and a count.

        Args:
            until_s: those noted later are left for the next time (`time.perf_counter()`).

        Returns:
            The steps in order, the events, and how many steps have fallen out of the ring.
        """
        events: list[torch.Event] = []
        sure, marks = self._sure, self._marks
        while marks and marks[0][0] <= until_s:
            _, number, recorded = marks.pop(0)  # callers only append meanwhile
            sure = max(sure, number)
            events += recorded
        first = self._taken
        if sure <= first:
            return [], events, 0
        steps, lost = self._copy(first, sure)
        late = next((n for n, each in enumerate(steps) if each.at_s > until_s), len(steps))
        self._taken = first + lost + late
        return steps[:late], events, lost

    def _copy(self, first: int, end: int) -> tuple[list[TrailStep], int]:
        """Return steps by their numbers, and how many of the first are not there any more."""
        first_kept = max(first, self._written + 1 - self._size)
        copied = [self._slots[number % self._size] for number in range(first_kept, end)]
        # What was written over meanwhile is another step, and not to be read yet.
        lost = max(first_kept, min(self._written + 1 - self._size, end))
        return copied[lost - first_kept :], min(lost, end) - first

    # --- any thread ---------------------------------------------------------------------------

    def last(self, steps: int) -> Sequence[TrailStep]:
        """Return the last steps, at most so many, in order."""
        written = self._written
        return self._copy(max(0, written - steps), written)[0]


def _unsaid(metric: str, why: str) -> None:
    """Say nothing of what is no number: a step that is logged will."""
