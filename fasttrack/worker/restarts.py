"""How often a process that dies is started again, and when."""

from __future__ import annotations

MOST_RESTARTS = 5
_PAUSE_S = 1.0  # before the first; doubled with each
_HEALTHY_S = 60.0


class Restarts:
    """The restarts that are left: five in short succession.

    They are all there again once a process has worked for a minute.

    Threads: one at a time.
    """

    def __init__(self) -> None:
        """Have all."""
        self._made = 0

    def next_pause_s(self) -> float | None:
        """Take one; return how long to wait before it is made. None: there is none left."""
        if self._made >= MOST_RESTARTS:
            return None
        pause_s: float = _PAUSE_S * 2**self._made
        self._made += 1
        return pause_s

    def worked(self, seconds: float) -> None:
        """Note that the process has done its work, so many seconds after its start."""
        if seconds >= _HEALTHY_S:
            self._made = 0

    def renew(self) -> None:
        """Have all again."""
        self._made = 0
