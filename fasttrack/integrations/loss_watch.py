"""Find the step whose loss was no finite number, in a trainer that does not tell.

A loss on the host is looked at on the spot. One on an accelerator would have to be waited for: it
is copied there, some together travel to the host beside training, and what has come is looked at.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Any

import torch

from fasttrack.hotpath.capture import EVENTLESS, mark_streams

if TYPE_CHECKING:
    from collections.abc import Callable

_TOGETHER = 16  # losses; sending them costs the caller as much as logging a few values


class LossWatch:
    """Look at every loss, exactly, without waiting for the device.

    Threads: one.
    """

    def __init__(self, found: Callable[[int, float], None]) -> None:
        """Tell `found` the step and the value of each loss that is NaN or infinite, in order."""
        self._found = found
        self._kept: list[tuple[int, torch.Tensor]] = []
        self._sent: deque[tuple[tuple[int, ...], torch.Tensor, torch.Event | None]] = deque()

    def note(self, step: int, loss: torch.Tensor) -> Any:
        """Look at a loss now or, on an accelerator, soon; return it, a number where it is known."""
        if loss.get_device() < 0:  # beats is_cpu
            number = loss.item()
            self._check(step, number)
            return number
        # A CUDA graph writes its output anew at the next step.
        self._kept.append((step, loss.detach().reshape(()).float().clone()))
        if len(self._kept) >= _TOGETHER:
            self._send()
        return loss

    def look(self, *, idle: bool = False) -> None:
        """Look at what has come.

        Args:
            idle: whether the caller has just waited for the device. Then all is looked at, which
                takes one short copy; else this does not wait.
        """
        if idle:
            self._send()
        while self._sent:
            _, _, event = self._sent[0]
            if not (idle if event is None else event.query()):
                return
            self._open()

    def settle(self) -> None:
        """Look at all that was noted. Waits for the device: for when training is over."""
        self._send()
        while self._sent:
            _, _, event = self._sent[0]
            if event is not None:
                event.synchronize()
            self._open()

    def _send(self) -> None:
        if not self._kept:
            return
        steps, losses = zip(*self._kept, strict=True)
        self._kept.clear()
        together = torch.stack(losses)
        arrived = _host_memory_for(together)
        if arrived is not None:
            arrived.copy_(together, non_blocking=True)
            for event in mark_streams((together.device,)):
                self._sent.append((steps, arrived, event))
                return
        self._sent.append((steps, together, None))

    def _open(self) -> None:
        steps, losses, _ = self._sent.popleft()
        for step, loss in zip(steps, losses.tolist(), strict=True):
            self._check(step, loss)

    def _check(self, step: int, loss: float) -> None:
        if not math.isfinite(loss):
            self._found(step, loss)


def _host_memory_for(losses: torch.Tensor) -> torch.Tensor | None:
    """Return memory that a device writes to by itself; None where it cannot, or tells no end."""
    if losses.device.type in EVENTLESS:
        return None
    try:  # of the host, whatever the user's default device or tensor type is
        return torch.empty(losses.shape, dtype=losses.dtype, device="cpu", pin_memory=True)
    except RuntimeError:  # none is left, or the backend knows none
        return None
