"""Compare a run's journal with its `.wandb` file line by line, both in their order.

A file that the outbox wrote holds, line by line, what can be made of the journal once more: then
their bytes are equal, and nothing needs to be taken to pieces. The first line of every kind is,
and so is whatever is not equal, such as the last line, which is the client's own: of these the
values are compared, as they are of all rows by `delivery/contents.py`. Where the two do not go in
step, that compares all of them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from fasttrack.delivery.backends.wandb.history import as_held, decoded, kept
from fasttrack.delivery.backends.wandb.lines import Lines
from fasttrack.delivery.contents import compare

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

    from fasttrack.delivery.backends.wandb.history import FileHistory
    from fasttrack.delivery.backends.wandb.lines import Line
    from fasttrack.delivery.backends.wandb.standing import Standing
    from fasttrack.delivery.contents import Numbered

_MOST_UNEQUAL = 1000
# What follows in a line: the run's time; when it was logged, if it came late; the line's step.
_REST = re.compile(
    rb"\n.\n\x08_runtime\x82\x01.[0-9.]+"
    rb"(?:\n.\n\x0etime/logged_at\x82\x01.[0-9.e+]+)?"
    rb"\x12.\x08.{1,10}",
    re.DOTALL,
)


def count_equal(standing: Standing, history: FileHistory) -> int | None:
    """Return how many rows the journal has, if the file has the same and no others.

    Args:
        standing: knows the rows, and where a replay puts them.
        history: the file's.

    Returns:
        None where it is not so, or cannot be told from the order of the lines.
    """
    count = 0
    ours: list[Numbered] = []
    theirs: list[dict[str, object]] = []
    kinds: set[Hashable] = set()
    records = history.records()
    for line, rows in _lines(standing):
        record = next(records, None)
        if line is None or record is None:
            return None
        count += len(rows)
        payload, start, end = record
        told = line.told()
        kind = line.kind
        if (
            kind in kinds
            and payload.startswith(told, start)
            and _REST.fullmatch(payload, start + len(told), end)
        ):
            continue
        kinds.add(kind)
        ours += rows
        theirs.append(decoded(payload))
        if len(theirs) > _MOST_UNEQUAL:
            return None
    if next(records, None) is not None:
        return None
    found = compare(lambda: ours, lambda: as_held(theirs), kept=kept)
    return None if found.missing or found.doubled or found.others else count


def _lines(standing: Standing) -> Iterator[tuple[Line | None, list[Numbered]]]:
    """Yield the lines of the journal, and what each was made of; None for parts of a row."""
    lines = Lines()
    rows: list[Numbered] = []
    for numbered, placed in standing.placements():
        if len(placed) != 1:
            yield None, []
            return
        ((step, row, part),) = placed
        if (line := lines.add(step, row, part)) is not None:
            yield line, rows
            rows = []
        rows.append(numbered)
    if lines.open is not None:
        yield lines.open, rows
