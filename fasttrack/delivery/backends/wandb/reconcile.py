"""Find out which of our rows arrived, when rows from elsewhere stand behind them on the server.

It happens when a job leaves rows undelivered, the run is continued from another directory, and the
first directory is delivered later: then the server's last step says nothing about our rows. Their
contents do. A row that the server holds at the step we gave it, with the values that we have, is
there; equal rows of somebody else at the same step would make no difference to the run.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from fasttrack.delivery.backends.wandb.steps import StepMapper
from fasttrack.errors import BackendLostError
from fasttrack.journal.entries import Row
from fasttrack.journal.follower import Follower

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from fasttrack.delivery.backends.wandb.notes import Notes
    from fasttrack.journal.cursor import Ledger


class _Placed(NamedTuple):
    segment: Path
    number: int  # of the row in its segment, from 0
    row: Row
    step: int  # W&B's


def reconcile(
    pending: Sequence[Path],
    ledger: Ledger,
    notes: Notes,
    starting_step: int,
    read_rows: Callable[[int, int], dict[int, dict[str, object]]],
) -> list[Path]:
    """Note in `ledger` what of `pending` has arrived; return the segments that still have rows.

    Args:
        pending: the segments that are not proven, oldest first.
        ledger: what is known of them.
        notes: what the backend knows of their steps.
        starting_step: the first `_step` that the server does not have.
        read_rows: returns the server's rows from one `_step` up to, not including, another.

    Raises:
        BackendLostError: the server cannot be asked now.
    """
    base = notes.segment(pending[0].name).base_step
    if base is None or starting_step - 1 <= base:
        return list(pending)  # all that the server has was there before us
    newest = starting_step - 1
    last, ours = base, []
    for placed in _placed(pending, ledger, base):
        last = max(last, placed.step)
        if placed.step == newest:
            ours.append(placed.row)
    if ours:
        theirs = read_rows(newest, newest + 1)
        if newest not in theirs:
            raise BackendLostError("the server does not show its newest row yet")
        if all(_holds(theirs.get(newest), row) for row in ours):
            return list(pending)  # its newest row is ours, so nobody came between
    theirs = read_rows(base + 1, min(last + 1, starting_step))
    arrived = {path.name: ledger.segment(path.name).arrived for path in pending}
    cut = pending[-1]  # it may still grow
    for placed in _placed(pending, ledger, base):
        if not _holds(theirs.get(placed.step), placed.row):
            cut = placed.segment
            break
        arrived[placed.segment.name] = placed.number + 1
    position = pending.index(cut)
    ledger.segment(cut.name).arrived = arrived[cut.name]
    notes.segment(cut.name).base_step = starting_step - 1
    for path in pending[:position]:
        state, steps = ledger.segment(path.name), notes.segment(path.name)
        state.rows = state.arrived = arrived[path.name]
        state.size_bytes = path.stat().st_size
        state.proof = "its rows were found on the server, before those of another directory"
        steps.base_step, steps.last_step = None, starting_step - 1
    return list(pending[position:])


def _placed(pending: Sequence[Path], ledger: Ledger, base: int) -> Iterator[_Placed]:
    """Yield what was not known as arrived, with the `_step`s that it was given."""
    mapper = StepMapper(base)
    for path in pending:
        index = -1
        with Follower.of_segments([path]) as follower:
            for batch in follower.batches():
                for entry in batch.entries:
                    if not isinstance(entry, Row):
                        continue
                    index += 1
                    if index >= ledger.segment(path.name).arrived:
                        yield _Placed(path, index, entry, mapper.place(entry.step, entry.values))
        mapper.close()


def _holds(theirs: dict[str, object] | None, row: Row) -> bool:
    if theirs is None or theirs.get("step") != row.step:
        return False
    return all(_same(theirs.get(name), value) for name, value in row.values.items())


def _same(theirs: Any, ours: float) -> bool:
    if isinstance(ours, float) and math.isnan(ours):
        return isinstance(theirs, float) and math.isnan(theirs)
    return bool(theirs == ours)
