"""Know of other processes on this machine that deliver to the same W&B run.

W&B's client counts the server's lines by itself, so that two at once overwrite each other's rows,
also some that were proven a moment ago. Each session therefore holds a socket in Linux' abstract
namespace while it is open, named after the run; the kernel lets go of it with the process, however
that ends. Elsewhere, and on another machine, only the rows themselves tell.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import socket
import weakref
from pathlib import Path

_SOCKETS = Path("/proc/net/unix")
_numbers = itertools.count()
_open: weakref.WeakSet[Presence] = weakref.WeakSet()


def _leave_to_parent() -> None:
    for presence in list(_open):
        presence.close()


os.register_at_fork(after_in_child=_leave_to_parent)  # else the run is held by its child, too


class Presence:
    """Be seen by others that deliver to the same run.

    Threads: one at a time.
    """

    def __init__(self, server: str, run_path: str) -> None:
        """Be there for the run `entity/project/id` of a server."""
        digest = hashlib.sha256(f"{server}\n{run_path}".encode()).hexdigest()[:32]
        self._prefix = f"fasttrack-run-{digest}-"
        self._name = f"{self._prefix}{os.getpid()}-{next(_numbers)}"
        self._socket: socket.socket | None = None
        if _SOCKETS.exists():
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            with contextlib.suppress(OSError):
                self._socket.bind(f"\0{self._name}")
            _open.add(self)

    def others(self) -> list[int]:
        """Return the ids of the processes that are there, too."""
        try:
            names = [line.rpartition("@")[2] for line in _SOCKETS.read_text().splitlines()]
        except OSError:
            return []
        ours = {name for name in names if name.startswith(self._prefix)} - {self._name}
        return sorted({int(name.removeprefix(self._prefix).split("-")[0]) for name in ours})

    def close(self) -> None:
        """Be gone."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
