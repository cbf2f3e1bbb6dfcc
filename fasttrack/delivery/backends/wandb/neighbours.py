"""Know of other processes on this machine that deliver to the same W&B run.

W&B's client asks once, when it opens a run, how many lines the server has, and counts its own from
there. So two that are open at once overwrite each other's lines, also some that were proven a
moment ago. Each session therefore holds a socket in Linux' abstract namespace, named after the run,
from before it opens the run until it has proven its rows; the kernel lets go of it with the
process, however that ends. Whoever comes tells those that are there.

Who is seen by nobody when rows are proven has either ended, or not asked the server yet: then it
will be told of these rows' lines, and begins behind them. Elsewhere, in another container and on
another machine, only the rows themselves tell.
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

    def __init__(self, server: str, project: str, run_id: str) -> None:
        """Be there for a run, and tell the others; to be made before the server is asked of it.

        Args:
            server: its address.
            project: the run's.
            run_id: the run's. Its entity is known only when it is open.
        """
        digest = hashlib.sha256(f"{server}\n{project}/{run_id}".encode()).hexdigest()[:32]
        self._prefix = f"fasttrack-run-{digest}-"
        self._name = f"{self._prefix}{os.getpid()}-{next(_numbers)}"
        self._socket: socket.socket | None = None
        self._met = False
        if _SOCKETS.exists():
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)
            with contextlib.suppress(OSError):
                self._socket.bind(f"\0{self._name}")
            _open.add(self)
            self._greet()

    def _greet(self) -> None:
        assert self._socket is not None
        for name in self._others():
            self._met = True
            with contextlib.suppress(OSError):  # it has gone; or has been told often enough
                self._socket.sendto(b"", f"\0{name}")

    def _others(self) -> set[str]:
        try:
            names = [line.rpartition("@")[2] for line in _SOCKETS.read_text().splitlines()]
        except OSError:
            return set()
        return {name for name in names if name.startswith(self._prefix)} - {self._name}

    def others(self) -> list[int]:
        """Return the ids of the processes that are there, too."""
        return sorted({int(n.removeprefix(self._prefix).split("-")[0]) for n in self._others()})

    def has_met(self) -> bool:
        """Return whether any other was there at some time since this one came."""
        if self._socket is not None and not self._met:
            with contextlib.suppress(OSError):  # BlockingIOError: nobody has come
                self._socket.recv(1)
                self._met = True
        return self._met

    def close(self) -> None:
        """Be gone."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
