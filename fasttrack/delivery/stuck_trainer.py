"""Kill a trainer that cannot die of SIGTERM by itself: native code holds its interpreter lock.

fasttrack's handler is Python code. The interpreter writes the numbers of signals into a socket at
once, whatever runs (`fasttrack/sigterm.py`), and a thread of the trainer takes them out; where they
stay, no Python code has run there since.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

STUCK_S = 10.0
"""How long SIGTERM may lie there: the trainer, if it can, has long ended its runs by then."""

_POLL_S = 0.25
_PEEKED_BYTES = 65536


def watch(signals_fd: int, trainer_pid: int) -> None:
    """Watch, on a thread of its own, over the trainer that lent `signals_fd`."""
    threading.Thread(
        target=_watch, args=(signals_fd, trainer_pid), name="stuck-trainer", daemon=True
    ).start()


def _watch(signals_fd: int, trainer_pid: int) -> None:
    with socket.socket(fileno=signals_fd) as signals:
        if wait_until_stuck(signals, is_running=lambda: _is_running(trainer_pid)):
            with contextlib.suppress(ProcessLookupError):
                if os.getppid() == trainer_pid:
                    os.kill(trainer_pid, signal.SIGKILL)


def wait_until_stuck(
    signals: socket.socket,
    *,
    is_running: Callable[[], bool],
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> bool:
    """Wait until SIGTERM has lain there for `STUCK_S`; return False once no more can come.

    Takes nothing out: that is for the trainer.

    Args:
        signals: the trainer's, not blocking.
        is_running: tells whether the trainer could have looked: it is not stopped.
        clock: seconds.
        pause: waits, in seconds.
    """
    poll = select.poll()
    poll.register(signals, select.POLLIN)
    since_s: float | None = None
    while True:
        poll.poll(_POLL_S * 1000 if since_s is not None else None)
        try:
            numbers = signals.recv(_PEEKED_BYTES, socket.MSG_PEEK)
        except BlockingIOError:  # the trainer was quicker
            numbers = None
        except OSError:
            return False
        if numbers == b"":
            return False
        if numbers is None or signal.SIGTERM not in numbers or not is_running():
            since_s = None
        elif since_s is None:
            since_s = clock()
        elif clock() - since_s >= STUCK_S:
            return True
        if numbers:
            pause(_POLL_S)


def _is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:  # it is gone, or there is no /proc
        return True
    return state not in "Tt"
