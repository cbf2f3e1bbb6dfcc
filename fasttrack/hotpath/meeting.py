"""Whether the steps that log_training_step is called at ever meet the log interval."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_ENOUGH = 3  # calls in a row, of those looked at, with one stride


class Meeting:
    """Say while it happens that no call will ever be logged.

    `if (step + 1) % 10 == 0: log_training_step(...)` calls at the steps 9, 19, 29, of which the
    interval 10 divides none. Calls at every s-th step reach every multiple of gcd(s, interval) that
    their first step is away from, and no other.

    Threads: those of the calls. Two that are here at once may lose count, and say it later.
    """

    __slots__ = ("_stride", "_warn", "calls")

    def __init__(self, warn: Callable[[str, str], None]) -> None:
        """Call `warn` with (key, text)."""
        self._warn = warn
        self._stride = 0
        self.calls = 0
        """How many were looked at since a step was logged; set to 0 where one is."""

    def missed(self, before: int | None, step: int, interval: int) -> None:
        """Look at a call that logs nothing, after one for the step `before`."""
        if before is None or step <= before:  # the first, a micro-batch, or counted anew
            return
        if step - before != self._stride:
            self._stride = step - before
            self.calls = 0
        self.calls += 1
        if self.calls >= _ENOUGH and step % math.gcd(self._stride, interval):
            self.say(interval, f", {before} and {step} among them")

    def say(self, interval: int, which: str) -> None:
        """Say that nothing is logged, and what to do."""
        self._warn(
            "meeting",
            f"log_training_step logs nothing: it logs the steps that log_interval={interval} "
            f"divides, and is called at others only{which}. Call it at every step (it returns at "
            "once where nothing is logged), or pass log_interval=1 to log at every call",
        )
