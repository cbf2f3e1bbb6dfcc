"""What names a job of torchrun's, the same whenever its agents start its processes again.

torchrun's agent, a process on each node, starts the ranks again when one of them fails, and when a
node leaves or joins. It tells them an id, `TORCHELASTIC_RUN_ID`: with `--standalone` one that it
made up (a UUID); with `--rdzv-id` what a person chose, who is asked by torch for one that no other
job has; else "none". In that case ranks stay where they are, and the agent itself names the job:
their parent, by its host, its number and when it began.
"""

from __future__ import annotations

import os
import re
import socket
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_NO_ID = ("", "none")
_STARTED = 19  # of the fields behind the name in /proc/PID/stat, in ticks since the system began


class ElasticJob(NamedTuple):
    """The name of a job."""

    key: str
    by_user: bool
    """Whether a person has chosen it."""


def name_elastic_job(environment: Mapping[str, str]) -> ElasticJob | None:
    """Return what names the job that this rank of torchrun's belongs to; None outside one.

    None, too, where it cannot be started again, as far as that is known.
    """
    run_id = environment.get("TORCHELASTIC_RUN_ID")
    if run_id is None:
        return None
    if run_id not in _NO_ID:
        return ElasticJob(f"torchelastic-{run_id}", by_user=not _UUID.fullmatch(run_id))
    if environment.get("TORCHELASTIC_MAX_RESTARTS", "0") == "0":
        return None
    return ElasticJob(f"torchelastic-{_name_process(os.getppid())}", by_user=False)


def this_process() -> str:
    """Return what names this process among all that ever were, on any node."""
    return _name_process(os.getpid())


def agent_of_this_process(environment: Mapping[str, str]) -> int | None:
    """Return the process id of the agent that has started this rank; None outside torchrun.

    Ranks are its children: one whose parent has become another has lost it.
    """
    return os.getppid() if "TORCHELASTIC_RUN_ID" in environment else None


def _name_process(pid: int) -> str:
    return f"{socket.gethostname()}-{pid}-{_started(pid)}"


def _started(pid: int) -> str:
    """Return when a process began; "" where the system does not tell it."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[_STARTED]
    except (OSError, IndexError):
        return ""
