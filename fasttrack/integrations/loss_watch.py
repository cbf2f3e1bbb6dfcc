"""Find the step whose loss was no finite number, in a trainer that does not tell.

A loss on the host is looked at on the spot. One on an accelerator would have to be waited for: it
travels to the host beside training, and what has come is looked at, some together.
"""

from __future__ import annotations

import contextlib
import math
from collections import deque
from typing import TYPE_CHECKING, Any

import torch

from fasttrack.hotpath.capture import EVENTLESS, current_streams, mark_each

if TYPE_CHECKING:
    from collections.abc import Callable

_TOGETHER = 16  # losses; what tells when they have come costs as much as to send one


class LossWatch:
    """Look at every loss, exactly, without waiting for the device.

    Threads: one.
    """

    def __init__(self, found: Callable[[int, float], None]) -> None:
        """Tell `found` the step and the value of each loss that is NaN or infinite, in order."""
        self._found = found
        self._steps: list[int] = []
        self._losses: torch.Tensor | None = None  # of these steps
        self._streams: set[torch.Stream] = set()  # that compute them
        self._sent: deque[tuple[list[int], torch.Tensor, tuple[torch.Event, ...]]] = deque()

    def note(self, step: int, loss: torch.Tensor) -> Any:
        """Look at a loss now or, on an accelerator, soon; return it, a number where it is known."""
        if loss.get_device() < 0:  # beats is_cpu
            number = loss.item()
            self._check(step, number)
            return number
        if loss.is_cuda and torch.cuda.is_current_stream_capturing():
            return loss
        if self._losses is None:
            self._losses = _memory_for(loss.device)
        # A copy at once: a CUDA graph writes its output anew at the next step.
        self._losses[len(self._steps)].copy_(loss.detach().reshape(()), non_blocking=True)
        self._streams.update(current_streams((loss.device,)))
        self._steps.append(step)
        if len(self._steps) >= _TOGETHER:
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
            _, losses, events = self._sent[0]
            if not (idle or (losses.is_cpu and events)):
                return
            if not all(event.query() for event in events):
                return
            self._open()

    def settle(self) -> None:
        """Look at all that was noted. Waits for the device: for when training is over."""
        self._send()
        while self._sent:
            for event in self._sent[0][2]:
                event.synchronize()
            self._open()

    def _send(self) -> None:
        if self._losses is None:
            return
        self._sent.append((self._steps, self._losses, mark_each(self._streams)))
        self._steps, self._losses = [], None
        self._streams.clear()

    def _open(self) -> None:
        steps, losses, _ = self._sent.popleft()
        for step, loss in zip(steps, losses[: len(steps)].tolist(), strict=True):
            self._check(step, loss)

    def _check(self, step: int, loss: float) -> None:
        if not math.isfinite(loss):
            self._found(step, loss)


def _memory_for(device: torch.device) -> torch.Tensor:
    """Return memory of the host that `device` writes to by itself; its own where it cannot."""
    if device.type not in EVENTLESS:
        # Of the host, whatever the user's default device or tensor type is.
        with contextlib.suppress(RuntimeError):  # none is left, or the backend knows none
            return torch.empty(_TOGETHER, dtype=torch.float32, device="cpu", pin_memory=True)
    return torch.empty(_TOGETHER, dtype=torch.float32, device=device)
