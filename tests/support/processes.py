"""The processes that a test has started, found by what is theirs alone.

One worker of pytest runs many tests, and what an earlier one has left, a delivery say, may still be
finishing: a kind of process is no mark of a test's own.
"""

from __future__ import annotations

import os
from pathlib import Path

from fasttrack.delivery.children import children_of


def children(of: int | None = None) -> set[int]:
    """Return the ids of the children of a process that live, by default of this one.

    Who looks for a tracker's delivery asks `delivery_pid(tracker)`; who wants to see that none was
    started compares with an earlier look: some may have ended since, none may have come.
    """
    return {child.pid for child in children_of(os.getpid() if of is None else of) if child.alive}


def is_stopped(pid: int) -> bool:
    """Return whether all threads of a process lie still: a signal takes its time to get there."""
    threads = Path(f"/proc/{pid}/task").glob("*/stat")
    return {path.read_text().rpartition(")")[2].split()[0] for path in threads} == {"T"}
