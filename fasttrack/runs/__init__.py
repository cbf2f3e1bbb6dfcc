"""A run on disk, as a library: find it, read it, say how it fares. No click, no rich, no torch.

    from fasttrack.runs import find_run

    run = find_run("latest")  # or an id, the beginning of one, or a directory's path
    losses = [row.values["loss/total"] for row in run.rows() if "loss/total" in row.values]

Reading takes no lock and changes nothing; a run may be read while it is written. The module can be
called, too: `fasttrack.runs()` is `fasttrack.runs.opened.runs()`, all runs of a directory as data.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING

from fasttrack.runs.history import History
from fasttrack.runs.local import LocalRun, RunRow, find_run, find_runs, list_runs
from fasttrack.runs.opened import Run, open_run
from fasttrack.runs.opened import runs as _runs
from fasttrack.runs.ranking import RankedRun, rank_runs
from fasttrack.runs.status import (
    BackendDelivery,
    DeliveryStatus,
    RunStatus,
    SegmentDelivery,
    find_delivery,
    find_status,
)
from fasttrack.runs.summary import Summary
from fasttrack.runs.sync import SyncResult, deliver_run
from fasttrack.runs.verify import PlaceVerdict, Verification, repair_run, verify_run

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "BackendDelivery",
    "DeliveryStatus",
    "History",
    "LocalRun",
    "PlaceVerdict",
    "RankedRun",
    "Run",
    "RunRow",
    "RunStatus",
    "SegmentDelivery",
    "Summary",
    "SyncResult",
    "Verification",
    "deliver_run",
    "find_delivery",
    "find_run",
    "find_runs",
    "find_status",
    "list_runs",
    "open_run",
    "rank_runs",
    "repair_run",
    "verify_run",
]


class _CallableModule(ModuleType):
    """This module: whoever imports a part of it still has `fasttrack.runs()`."""

    def __call__(self, directory: str | Path | None = None) -> list[Run]:
        """Return all runs of a directory; see `fasttrack.runs.opened.runs`."""
        return _runs(directory)


sys.modules[__name__].__class__ = _CallableModule
