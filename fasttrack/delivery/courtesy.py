"""Let training have the cores while it trains, and go at full speed once it has ended.

Niceness alone does not do it: where the kernel schedules sessions as groups (`autogroup`, the
default outside of containers and of Slurm's cgroups), it counts within a session only, and delivery
has one of its own, as has a client's helper. A session's group has a niceness, too, which its owner
may lower and raise again; the process's own niceness could not be raised.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from fasttrack.journal.reader import ends_with_finish

if TYPE_CHECKING:
    from collections.abc import Callable

NICENESS = 10  # about a tenth of a core that training wants, too
_LOOK_EVERY_S = 0.25
_HELPERS_EVERY = 4  # looks; they are started seldom
_TRIES, _TRY_AGAIN_S = 3, 0.11


class Courtesy:
    """Give way to the trainer of one segment.

    Threads: one of its own.
    """

    def __init__(
        self,
        segment: Path,
        trainer_alive: Callable[[], bool],
        set_niceness: Callable[[int, int], None] | None = None,
    ) -> None:
        """Prepare; nothing is changed yet.

        Args:
            segment: what the trainer writes; its last line ends the courtesy.
            trainer_alive: so does its death.
            set_niceness: sets that of a process's session.
        """
        self._segment = segment
        self._trainer_alive = trainer_alive
        self._set = set_group_niceness if set_niceness is None else set_niceness
        self._covered: set[int] = set()
        self._looks = 0

    def start(self) -> None:
        """Begin now, before anything that takes long."""
        self.start_here()
        threading.Thread(target=self._run, name="courtesy", daemon=True).start()

    def start_here(self) -> None:
        """Begin, for `look` to be called by hand."""
        self._cover(os.getpid())

    def _run(self) -> None:
        pause = threading.Event()
        while self.look():
            pause.wait(_LOOK_EVERY_S)

    def look(self) -> bool:
        """Look once; return whether training goes on."""
        if self._looks % _HELPERS_EVERY == 0:
            for pid in _children() - self._covered:
                self._cover(pid)
        self._looks += 1
        if self._trainer_alive() and not ends_with_finish(self._segment):
            return True
        for pid in self._covered:
            self._set(pid, 0)
        return False

    def _cover(self, pid: int) -> None:
        self._covered.add(pid)
        self._set(pid, NICENESS)


def set_group_niceness(pid: int, niceness: int) -> None:
    """Set the niceness of a process's session, where sessions are scheduled as groups."""
    for _ in range(_TRIES):
        try:
            Path(f"/proc/{pid}/autogroup").write_text(str(niceness))
        except BlockingIOError:  # it may be set ten times a second only
            time.sleep(_TRY_AGAIN_S)
        except OSError:
            return
        else:
            return


def _children() -> set[int]:
    """Return this process's children that lead a session; others are in that of this process."""
    found = set()
    for told in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found |= set(map(int, told.read_text().split()))
    return {pid for pid in found if _leads(pid)}


def _leads(pid: int) -> bool:
    try:
        return os.getsid(pid) == pid
    except OSError:
        return False
