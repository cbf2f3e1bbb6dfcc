"""Find the programs that a process has started, and end them; by /proc, so only on Linux.

A process's number may be taken by another at any moment after it has ended, unless it is a child
that its parent has not waited for. What is ended here is held by a descriptor first, and looked at
again through it.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import NamedTuple


class Child(NamedTuple):
    """A process that another has started."""

    pid: int
    name: str
    """Of its program, at most 15 letters."""
    alive: bool
    """False: it has ended, and its parent has not asked for its exit code."""
    stopped: bool = False
    """Whether it was told to stop (SIGSTOP), and not yet to go on."""


def children_of(pid: int) -> list[Child]:
    """Return the children of process `pid`; none where the system does not tell."""
    found: dict[int, Child] = {}  # where a thread ends, its children become another's
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError, ValueError):
            children = [_look(pid, text) for text in task.read_text().split()]
            found |= {child.pid: child for child in children if child}
    return list(found.values())


def _look(parent: int, pid: str) -> Child | None:
    """Return process `pid` if it is a child of `parent`."""
    try:
        before, _, after = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
    except OSError:
        return None
    state, its_parent, *_ = after.split()
    if int(its_parent) != parent:
        return None
    return Child(int(pid), before.partition("(")[2], state not in "ZX", state in "Tt")


def kill_children(pid: int, name: str | None = None) -> int:
    """End the children of process `pid`; return how many there were.

    Args:
        pid: of their parent.
        name: of the program that they run; None: whatever it is.
    """
    killed = 0
    for child in children_of(pid):
        if not child.alive or name not in (None, child.name):
            continue
        with contextlib.suppress(OSError, AttributeError):  # it has ended; or not Linux
            handle = os.pidfd_open(child.pid)
            try:
                if (same := _look(pid, str(child.pid))) is not None and same.name == child.name:
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
                    killed += 1
            finally:
                os.close(handle)
    return killed
