"""A run on disk, as a library: find it, read it, say how it fares. No click, no rich, no torch.

    from fasttrack.runs import find_run

    run = find_run("latest")  # or an id, the beginning of one, or a directory's path
    losses = [row.values["loss/total"] for row in run.rows() if "loss/total" in row.values]

Reading takes no lock and changes nothing; a run may be read while it is written.
"""

from __future__ import annotations

from fasttrack.runs.local import LocalRun, RunRow, find_run, find_runs, list_runs
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

__all__ = [
    "BackendDelivery",
    "DeliveryStatus",
    "LocalRun",
    "PlaceVerdict",
    "RankedRun",
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
    "rank_runs",
    "repair_run",
    "verify_run",
]
