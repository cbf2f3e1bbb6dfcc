"""Whether the process that writes a segment still runs, as far as this machine can tell."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fasttrack.journal.entries import Header

_CLOCK_SLACK_S = 60.0


def trainer_runs(header: Header) -> bool | None:
    """Return whether an attempt's trainer still runs; None: it is on another machine.

    A run's directory that was copied says nothing of the process that goes on elsewhere.
    """
    if header.host != socket.gethostname():
        return None
    return _is_alive(header.pid, header.time_s)


def _is_alive(pid: int, seen_s: float) -> bool:
    """Return whether the process that had the id `pid` at `seen_s` (unix time) still runs."""
    if pid <= 0:  # a damaged header's; to the system it would mean many
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # it is another user's
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # not Linux, or hidden from us
        return True
    age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    # A process that was born after the run began got the id later; one in state Z has ended.
    return fields[0] != "Z" and time.time() - age_s < seen_s + _CLOCK_SLACK_S
