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
from typing import TYPE_CHECKING

from fasttrack.errors import UnprovenError

if TYPE_CHECKING:
    from collections.abc import Callable

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
            run_id: the run's. Its entity is known only when it is open: of two that have a project
                and a run of the same names, each takes the other for one of its own.

        Raises nothing: where there can be no socket, nobody is seen.
        """
        digest = hashlib.sha256(f"{server}\n{project}/{run_id}".encode()).hexdigest()[:32]
        self._prefix = f"fasttrack-run-{digest}-"
        self._name = f"{self._prefix}{os.getpid()}-{next(_numbers)}"
        self._socket: socket.socket | None = None
        self._visits = 0
        if _SOCKETS.exists():
            with contextlib.suppress(OSError):
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                _open.add(self)
                self._socket.setblocking(False)
                self._socket.bind(f"\0{self._name}")
                self._greet(self._socket)

    def _greet(self, ours: socket.socket) -> None:
        for name in self._others():
            self._visits += 1
            with contextlib.suppress(OSError):  # it has gone; or has been told often enough
                ours.sendto(b"", f"\0{name}")

    def _others(self) -> set[str]:
        try:
            text = _SOCKETS.read_bytes().decode(errors="replace")  # names are anybody's
        except OSError:
            return set()
        names = [line.rpartition("@")[2] for line in text.splitlines()]
        return {name for name in names if name.startswith(self._prefix)} - {self._name}

    def others(self) -> list[int]:
        """Return the ids of the processes that are there, too."""
        return sorted({int(n.removeprefix(self._prefix).split("-")[0]) for n in self._others()})

    def visits(self) -> int:
        """Return how often another was met since this one came, some of many at once aside."""
        if self._socket is not None:
            with contextlib.suppress(OSError):  # BlockingIOError: nobody else has come
                while True:
                    self._socket.recv(1)
                    self._visits += 1
        return self._visits

    def close(self) -> None:
        """Be gone."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def prove_beside_others(prove: Callable[..., str], presence: Presence | None) -> str:
    """Return the proof of rows that no other overwrites, as far as others can be seen.

    Args:
        prove: called with `whole`, whether all rows are to be looked at: for others that were open
            meanwhile, who may have overwritten some without a change of their number.
        presence: the session's; None: nobody can come.

    Raises:
        UnprovenError: another delivers to this run; or what `prove` raises.
    """
    if presence is None:
        return prove(whole=False)
    visits = presence.visits()
    while True:
        proof = prove(whole=visits > 0)
        before, visits = visits, presence.visits()
        if others := presence.others():  # asked last
            raise UnprovenError(
                f"process {others[0]} delivers to this run, too, and may overwrite its rows; "
                "deliver again when it has ended"
            )
        if visits == before:  # nobody has come and gone meanwhile
            return proof
