"""The processes of one run: found by a mark in their environment, killed by id, waited for."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

MARK = "FASTTRACK_FAULTS_RUN"
_POLL_S = 0.01


class HungError(Exception):
    """Something did not come to pass within its deadline."""


@dataclass(frozen=True)
class Process:
    """A living process."""

    pid: int
    command: str

    @property
    def role(self) -> str:
        """What it is: "delivery", "core", "sync", "trainer" or "other"."""
        if "fasttrack.delivery" in self.command:
            return "delivery"
        if "wandb-core" in self.command:
            return "core"
        if "-m fasttrack " in self.command:
            return "command"
        return "trainer" if "trainer.py" in self.command else "other"


def find(mark: str, role: str | None = None, forks: Collection[int] = ()) -> list[Process]:
    """Return the living processes that bear a mark, or those of one role.

    Args:
        mark: the mark.
        role: the role; None: any.
        forks: ids of trainers that were forked. The system shows what their server was started
            with instead of what is theirs: they bear the mark, and are trainers, all the same.
    """
    needle = f"{MARK}={mark}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        pid = int(entry.name)
        with contextlib.suppress(OSError):
            if pid in forks:
                bears, command = True, "trainer.py, forked"
            else:
                bears = needle in (entry / "environ").read_bytes().split(b"\0")
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            if bears and _is_alive(entry):
                found.append(Process(pid, command.strip()))
    return [process for process in found if role in (None, process.role)]


def _is_alive(entry: Path) -> bool:
    return (entry / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"


def send(process: Process, signum: int) -> bool:
    """Send a signal; return whether the process was still there."""
    try:
        os.kill(process.pid, signum)
    except ProcessLookupError:
        return False
    return True


def kill(left: list[Process]) -> list[str]:
    """Kill what is left of a run; return what that was."""
    for process in left:
        send(process, signal.SIGKILL)
        send(process, signal.SIGCONT)
    return [f"{process.role} ({process.command[:80]})" for process in left]


def wait_until(condition: Callable[[], object], what: str, timeout_s: float = 60.0) -> None:
    """Poll until `condition` holds.

    Raises:
        HungError: it did not within `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise HungError(f"not within {timeout_s:.0f} s: {what}")
        time.sleep(_POLL_S)
