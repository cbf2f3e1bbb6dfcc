"""Give every journal row a W&B `_step`, the same one however often the journal is replayed.

W&B drops a row whose `_step` is behind the last one, so ours only ever rises: the user's step
where it is ahead, else the last plus one. Rows of one user step that follow one another share a
`_step` (W&B merges them), unless a metric comes twice: merging would lose the first value.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class StepMapper:
    """Map rows, in journal order, to `_step`s.

    Threads: one at a time.
    """

    def __init__(self, last: int) -> None:
        """Start behind `last`, the highest `_step` already taken (-1: none)."""
        self.last = last
        self.placed = 0  # distinct steps given out
        self._user_step: int | None = None
        self._names: set[str] = set()

    def place(self, user_step: int, names: Iterable[str]) -> int:
        """Return the `_step` of the next row, which has metrics `names` at `user_step`."""
        fresh = set(names)
        if user_step == self._user_step and self._names.isdisjoint(fresh):
            self._names |= fresh
            return self.last
        self.last = max(user_step, self.last + 1)
        self.placed += 1
        self._user_step = user_step
        self._names = fresh
        return self.last

    def close(self) -> None:
        """End the open row: what comes next (another segment) is never merged into it."""
        self._user_step = None
