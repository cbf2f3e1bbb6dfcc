"""Give every journal row a W&B `_step`, the same one however often the journal is replayed.

W&B drops a row whose `_step` is behind the last one, so ours only ever rises: the user's step
where it is ahead, else the last plus one. Rows of one user step that follow one another share a
`_step` (W&B merges them), unless a metric comes twice: merging would lose the first value.

wandb-core skips a line above a limit with a printed warning. So rows that would exceed it together
are not merged, and one that does so alone is cut into several, each with a `_step` of its own; the
axis that W&B draws, `step`, is the same for all of them.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from fasttrack.journal.rows import Number

MOST_BYTES = 10_000_000
"""Of a line as JSON; wandb-core 0.31 skips one above 10,383,360."""

_NUMBER_BYTES = 32  # at most: a number, quotes, colon and comma
_ESCAPED = 6  # bytes that a character of a name takes at most


class StepMapper:
    """Map rows, in journal order, to `_step`s.

    Threads: one at a time.
    """

    def __init__(self, last: int) -> None:
        """Start behind `last`, the highest `_step` already taken (-1: none)."""
        self.last = last
        self.placed = 0  # distinct steps given out
        self._user_step: int | None = None
        self._names: frozenset[str] = frozenset()
        self._size_bytes = 0

    def place(self, user_step: int, names: Iterable[str], size_bytes: int | None = None) -> int:
        """Return the `_step` of the next row, which has metrics `names` at `user_step`.

        Args:
            user_step: the row's.
            names: its metrics; a frozenset is not copied.
            size_bytes: what `size_limit` says of them, where that is known.
        """
        fresh = frozenset(names)
        if size_bytes is None:
            size_bytes = size_limit(fresh)
        if (
            user_step == self._user_step
            and self._size_bytes + size_bytes <= MOST_BYTES
            and self._names.isdisjoint(fresh)
        ):
            self._names = self._names | fresh
            self._size_bytes += size_bytes
            return self.last
        self.last = max(user_step, self.last + 1)
        self.placed += 1
        self._user_step = user_step
        self._names = fresh
        self._size_bytes = size_bytes
        return self.last

    def close(self) -> None:
        """End the open row: what comes next (another segment) is never merged into it."""
        self._user_step = None


def parts(values: dict[str, Number]) -> Iterator[dict[str, Number]]:
    """Yield the metrics of a row, cut where one line of W&B cannot hold all of them."""
    if size_limit(values) <= MOST_BYTES:
        yield values
        return
    part: dict[str, Number] = {}
    size_bytes = 0
    for name, value in values.items():
        more = _NUMBER_BYTES + _ESCAPED * len(name)
        if part and size_bytes + more > MOST_BYTES:
            yield part
            part, size_bytes = {}, 0
        part[name] = value
        size_bytes += more
    yield part


def fits_alone(name: str) -> bool:
    """Return whether a line can hold a metric of this name."""
    if size_limit((name,)) <= MOST_BYTES:
        return True
    return len(json.dumps(name)) + 5 * sum(map(name.count, "<>&")) + _NUMBER_BYTES <= MOST_BYTES


def size_limit(names: Iterable[str]) -> int:
    """Return what a line of these metrics takes at most."""
    lengths = [*map(len, names)]
    return _NUMBER_BYTES * len(lengths) + _ESCAPED * sum(lengths)
