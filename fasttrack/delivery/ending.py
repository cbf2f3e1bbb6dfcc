"""When the trainer leaves, and how long delivery may take from then on."""

from __future__ import annotations

import dataclasses
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fasttrack.journal.reader import read_finish

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

POLL_S = 0.1  # how often the journal is looked at when it has nothing new
_VANISHED_EXIT_CODE = 1


@dataclass(frozen=True, slots=True)
class Ending:
    """How the trainer left."""

    exit_code: int | None
    """None: nobody knows whether it has left at all."""
    preempting: bool
    deadline_s: float
    """Unix time by which delivery should be over."""


class EndingWatch:
    """Watch one attempt for its end.

    Threads: one at a time.
    """

    def __init__(
        self,
        segment: Path,
        finish_timeout_s: float,
        *,
        trainer_alive: Callable[[], bool],
        is_known: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.time,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """Watch the trainer that writes `segment`.

        Args:
            segment: the newest segment to deliver.
            finish_timeout_s: how long delivery may take after a trainer that left without a word.
            trainer_alive: tells whether more rows may come.
            is_known: tells whether a trainer that is not alive, and has not said how it left, is
                known to be gone.
            clock: unix time in seconds.
            pause: waits, in seconds.
        """
        self._segment = segment
        self._finish_timeout_s = finish_timeout_s
        self.trainer_alive = trainer_alive
        self._is_known = is_known
        self.clock = clock
        self.pause = pause
        self._ending: Ending | None = None

    def find(self) -> Ending | None:
        """Return how the trainer left; None while it is still there."""
        if self._ending is None:
            gone = not self.trainer_alive()  # asked before the last look at the file
            finish = read_finish(self._segment)
            if finish is not None:
                self._ending = Ending(finish.exit_code, finish.preempting, finish.deadline_s)
            elif gone:
                self._ending = self._vanished()
        return self._ending

    def find_or_vanished(self) -> Ending:
        """Return how the trainer left; one that has not said so counts as vanished just now."""
        return self.find() or self._vanished()

    def _vanished(self) -> Ending:
        exit_code = _VANISHED_EXIT_CODE if self._is_known() else None
        return Ending(exit_code, False, self.clock() + self._finish_timeout_s)

    def give_time(self, seconds: float) -> None:
        """Move the deadline of a trainer that has left to `seconds` from now."""
        ending = self.find()
        if ending is not None:
            self._ending = dataclasses.replace(ending, deadline_s=self.clock() + seconds)

    def seconds_left(self) -> float:
        """Return how long delivery may still take; infinite while the trainer is there."""
        ending = self.find()
        return math.inf if ending is None else ending.deadline_s - self.clock()

    def wait(self, seconds: float) -> None:
        """Wait, but not on when the trainer leaves meanwhile: then there is a deadline."""
        was_over = self.find() is not None
        until_s = self.clock() + min(seconds, max(0.0, self.seconds_left()))
        while self.clock() < until_s and (was_over or self.find() is None):
            self.pause(POLL_S)
