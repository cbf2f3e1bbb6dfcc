"""Notes of jobs that are long over, in `wandb/fasttrack/.jobs/`: removed when another job begins.

Each job leaves a small file there that tells its runs (`job_runs.py`), and one that was killed a
note of where its nodes find them (`nodes/meeting.py`). Neither is looked at once it is old enough,
so that nothing changes with it; but a directory is used for years.

A name that a person chose (`--rdzv-id`) is kept: it is theirs. So is what cannot be read.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

_AT_MOST = 200  # files that are looked at each time
_PATIENCE_S = 0.1  # a disk that is far away takes its time, and the job's start waits for it
_LONGEST_BYTES = 2**20


def remove_old_notes(directory: Path, oldest_s: float, patience_s: float = _PATIENCE_S) -> None:
    """Remove notes that nobody has written since `oldest_s`, unix time, by the files and the disk.

    Looks at 200 files at most, each time at others, and at none any more after `patience_s`. Others
    may do the same at the same time, and what cannot be removed stays. Raises nothing.
    """
    deadline_s = time.monotonic() + patience_s
    with contextlib.suppress(OSError):  # it cannot be listed
        with os.scandir(directory) as entries:
            found = [entry for entry in entries if entry.name.endswith((".jsonl", ".json"))]
        first = int(oldest_s) % max(1, len(found))
        for entry in (found[first:] + found[:first])[:_AT_MOST]:
            if time.monotonic() >= deadline_s:
                return
            with contextlib.suppress(OSError):  # another was quicker, or it is not ours
                if (
                    _is_old(entry, oldest_s)
                    and _is_nobodys(entry, oldest_s)
                    and os.lstat(entry.path).st_mtime < oldest_s  # nor written since it was listed
                ):
                    os.unlink(entry.path)


def _is_old(entry: os.DirEntry[str], oldest_s: float) -> bool:
    return (
        entry.is_file(follow_symlinks=False)
        and entry.stat(follow_symlinks=False).st_mtime < oldest_s
    )


def _is_nobodys(entry: os.DirEntry[str], oldest_s: float) -> bool:
    """Return whether all that a file says is old, and no person has named its job."""
    with open(entry.path, "rb") as file:
        text = file.read(_LONGEST_BYTES)
    lines = [line for line in map(_parse, text.splitlines()) if line is not None]
    if not lines or max(line["time_s"] for line in lines) >= oldest_s:
        return False
    # Slurm's jobs, and notes for nodes, have no process, and no name that a person has chosen.
    # torchrun's may have one; before they said so, none of them tells.
    return not any(line.get("named_by_user", "process" in line) for line in lines)


def _parse(raw: bytes) -> dict[str, Any] | None:
    try:
        line = json.loads(raw)
    except (ValueError, RecursionError):  # torn by a kill, or no note at all
        return None
    if not isinstance(line, dict) or not isinstance(line.get("time_s"), (int, float)):
        return None
    return line
