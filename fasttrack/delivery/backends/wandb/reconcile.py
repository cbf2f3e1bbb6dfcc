"""Find out which of our rows arrived, when rows from elsewhere stand behind them on the server.

It happens when a job leaves rows undelivered, the run is continued from another directory, and the
first directory is delivered later: then the server's last step says nothing about our rows. Their
contents do. A row that the server holds at the step we gave it, with the values that we have, is
there; equal rows of somebody else at the same step would make no difference to the run.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from fasttrack.delivery.backends.base import Lost
from fasttrack.delivery.backends.wandb.steps import StepMapper
from fasttrack.journal.reader import SegmentReader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from fasttrack.journal.cursor import Cursor


def reconcile(
    pending: list[Path],
    cursor: Cursor,
    starting_step: int,
    read_rows: Callable[[int, int], dict[int, dict[str, Any]]],
) -> list[Path]:
    """Note in `cursor` what of `pending` has arrived; return the segments that still have rows.

    Args:
        pending: the segments that are not proven, oldest first.
        cursor: what is known of them.
        starting_step: the first `_step` that the server does not have.
        read_rows: returns the server's rows from one `_step` up to, not including, another.

    Raises:
        Lost: the server cannot be asked now.
    """
    base = cursor.segment(pending[0].name).base_step
    if base is None or starting_step - 1 <= base:
        return pending  # all that the server has was there before us
    newest = starting_step - 1
    last, ours = base, []
    for *_, row, step in _placed(pending, cursor, base):
        last = max(last, step)
        if step == newest:
            ours.append(row)
    if ours:
        theirs = read_rows(newest, newest + 1)
        if newest not in theirs:
            raise Lost("the server does not show its newest row yet")
        if all(_holds(theirs.get(newest), row) for row in ours):
            return pending  # its newest row is ours, so nobody came between
    theirs = read_rows(base + 1, min(last + 1, starting_step))
    arrived = {path.name: cursor.segment(path.name).arrived for path in pending}
    cut = pending[-1]  # it may still grow
    for path, index, row, step in _placed(pending, cursor, base):
        if not _holds(theirs.get(step), row):
            cut = path
            break
        arrived[path.name] = index + 1
    position = pending.index(cut)
    state = cursor.segment(cut.name)
    state.arrived, state.base_step = arrived[cut.name], starting_step - 1
    for path in pending[:position]:
        state = cursor.segment(path.name)
        state.rows = state.arrived = arrived[path.name]
        state.base_step = None
        state.size_bytes = path.stat().st_size
        state.last_step = starting_step - 1
        state.online_proof = "its rows were found on the server, before those of another directory"
    return pending[position:]


def _placed(
    pending: list[Path], cursor: Cursor, base: int
) -> Iterator[tuple[Path, int, dict[str, Any], int]]:
    """Yield (segment, number of the row in it, row, `_step`) of what was not known as arrived."""
    mapper = StepMapper(base)
    for path in pending:
        reader = SegmentReader(path)
        try:
            index = -1
            while entries := reader.read():
                for entry in entries:
                    if entry.get("kind") != "row":
                        continue
                    index += 1
                    if index >= cursor.segment(path.name).arrived:
                        yield path, index, entry, mapper.place(entry["step"], entry["values"])
        finally:
            reader.close()
        mapper.close()


def _holds(theirs: dict[str, Any] | None, row: dict[str, Any]) -> bool:
    if theirs is None or theirs.get("step") != row["step"]:
        return False
    return all(_same(theirs.get(name), value) for name, value in row["values"].items())


def _same(theirs: Any, ours: float) -> bool:
    if isinstance(ours, float) and math.isnan(ours):
        return isinstance(theirs, float) and math.isnan(theirs)
    return bool(theirs == ours)
