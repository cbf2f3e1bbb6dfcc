"""What proves that W&B has a run's rows: what the server shows, or the closed file read back.

Every row is compared, value by value. Of a run above `MOST_READ` rows the server is asked for its
number of lines, which must be exact, and for evenly spaced stretches and the end of its history;
unless another session was open beside this one.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from fasttrack.delivery.backends.wandb.history import FileHistory, as_held, kept
from fasttrack.delivery.backends.wandb.in_step import count_in_step
from fasttrack.delivery.backends.wandb.line_by_line import count_equal
from fasttrack.delivery.contents import compare
from fasttrack.errors import BackendLostError, UnprovenError

if TYPE_CHECKING:
    from pathlib import Path

    from fasttrack.delivery.backends.wandb.history import ServerHistory
    from fasttrack.delivery.backends.wandb.standing import Standing
    from fasttrack.delivery.contents import Comparison

MOST_READ = 20_000
"""Rows that are all read back from a server when a run ends."""

_POLL_S, _LONGEST_POLL_S = 0.1, 2.0
_END_S, _END_POLL_S = 2.0, 0.01  # to look for a file's end costs little
_ANOTHER_WRITES = "another process writes to this run, too; deliver again when it has ended"


def prove_online(
    history: ServerHistory,
    standing: Standing,
    *,
    alone: bool,
    timeout_s: float,
    whole: bool = False,
) -> str:
    """Compare what the server shows with the journal; return the proof in words.

    Args:
        history: what the server shows.
        standing: what must be there.
        alone: whether nobody but this session should have added rows meanwhile.
        timeout_s: how long the server may take until it shows what it has got.
        whole: whether all rows are read, however many: another session was open at the same time,
            and may have overwritten some without a change of their number.

    Raises:
        BackendLostError: rows are missing in it.
        UnprovenError: it does not show them, or others' rows stand in their place.
    """
    if next(standing.rows(), None) is None:
        return "no rows"
    deadline, pause_s = time.monotonic() + timeout_s, _POLL_S
    while True:
        late = time.monotonic() >= deadline
        try:
            if not whole and (told := _by_samples(history, standing, late=late)) is not None:
                return told
            if rows := count_in_step(standing, history.pages):
                return _told(rows)
            found = standing.compare_with(history)
        except BackendLostError as error:
            if late:
                reason = f"all rows were handed over, but not proven: {error}"
                raise UnprovenError(reason) from error
        else:
            if late or not found.missing:
                return _judge(found, standing, alone=alone)
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_POLL_S)


def _by_samples(history: ServerHistory, standing: Standing, *, late: bool) -> str | None:
    """Return what proves a long run without reading all of it; None where all must be read.

    Raises:
        BackendLostError: the server counts too few lines, and it is not `late`: more may come.
    """
    lines, before = standing.lines, standing.base_lines
    if lines is None or before is None or lines <= MOST_READ:
        return None
    counted = history.extent().lines - before
    if counted < lines and not late:
        raise BackendLostError(f"the server counts {counted:,} of {lines:,} rows")
    if counted != lines:
        return None
    found = standing.compare_with(history, sampled=True)
    if found.missing or found.others:
        return None
    return (
        f"the server counts {lines:,} rows more than before; "
        f"{found.rows:,} of them, evenly spaced, were read back"
    )


def _judge(found: Comparison, standing: Standing, *, alone: bool) -> str:
    if found.missing:
        crowded = standing.lines is not None and found.lines >= standing.lines
        if found.replaced or crowded:
            raise UnprovenError(f"{found.gaps()}; others stand in their place: {_ANOTHER_WRITES}")
        raise BackendLostError(f"{found.gaps()}, although the client has finished")
    if alone and found.others.total() > standing.others_before:
        raise UnprovenError(f"rows of another origin came meanwhile: {_ANOTHER_WRITES}")
    return _told(found.rows) if found.rows else "no rows"


def _told(rows: int) -> str:
    return f"{rows:,} rows read back from the server"


def prove_file(directory: Path, standing: Standing, *, artifacts: int, timeout_s: float) -> str:
    """Read an offline run directory's file back; return the proof in words.

    Args:
        directory: the run directory.
        standing: what must be there.
        artifacts: how many artifacts were handed over.
        timeout_s: how long wandb-core may take to close the file: it does so after `finish`.

    Raises:
        BackendLostError: something is missing in it.
    """
    deadline = time.monotonic() + timeout_s
    history = FileHistory(directory.glob("run-*.wandb"))
    _wait_for_the_end(history)
    while True:
        late = time.monotonic() >= deadline  # asked before: to read a long run takes longer
        rows = count_equal(standing, history)
        if rows is not None and history.ended and history.artifacts == artifacts:
            return f"{rows} rows read back from {directory.name}" if rows else "no rows"
        found = compare(standing.rows, lambda: as_held(standing.watched(history.rows())), kept=kept)
        if (fault := _fault(found, history, artifacts)) is None:
            return f"{found.rows} rows read back from {directory.name}" if found.rows else "no rows"
        if late:
            raise BackendLostError(f"{directory.name}: {fault}")
        time.sleep(_POLL_S)


def _wait_for_the_end(history: FileHistory) -> None:
    """Wait until the run's end is in the file, but not for long: it may stand elsewhere."""
    until_s = time.monotonic() + _END_S
    while not history.seems_ended() and time.monotonic() < until_s:
        time.sleep(_END_POLL_S)


def _fault(found: Comparison, history: FileHistory, artifacts: int) -> str | None:
    """Return in words what is wrong with a file that was read; None: nothing is."""
    if found.missing:
        return found.gaps()
    if found.doubled:
        return found.surplus()
    if not history.ended:
        return "it was not written to its end"
    if history.artifacts != artifacts:
        return f"it holds {history.artifacts} of {artifacts} artifacts"
    return None
