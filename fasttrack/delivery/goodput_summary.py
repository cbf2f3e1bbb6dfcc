"""A run's goodput as values of its summary, which a destination shows once the run has ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fasttrack.goodput import read_goodput

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_MOST_BYTES = 64 * 2**20  # of journals; more would hold up the end of a run by more than a second
_TOLD = ("share", "wall_s", "lost_steps", "lost_s", "restarts", "restart_s", "pause_s")


def goodput_summary(segments: Sequence[Path]) -> dict[str, object]:
    """Return what the summary of the run that has these segments is to say of its goodput.

    Reads all rows.

    Returns:
        Values by name; empty where no row is one of `log_training_step`, where the journal is
        longer than 64 MiB, or cannot be read.
    """
    try:
        if sum(path.stat().st_size for path in segments) > _MOST_BYTES:
            return {}
        goodput = read_goodput(segments)
    except OSError:  # whoever delivers the rows tells of it
        return {}
    if goodput.all_rows or goodput.share is None:
        return {}
    return {f"goodput/{name}": getattr(goodput, name) for name in _TOLD}
