"""Whether the training process stands still, seen from outside."""

from __future__ import annotations

import fcntl
import struct
import termios
from pathlib import Path
from typing import NamedTuple


class Standing(NamedTuple):
    """How the training process looks at the moment."""

    stopped: bool = False
    """Whether it is: by SIGSTOP, say."""
    still: bool = False
    """Whether it has not taken what was written for it."""


class Outlook:
    """Look at the training process.

    Its worker, a thread, reads delivery's reports about twice a second, and delivery writes one
    every five. As long as reports lie there, no Python code has run in it: it is stopped, or native
    code holds the interpreter lock, or the worker waits for the device.

    Threads: one at a time.
    """

    def __init__(self, pid: int, report_fd: int | None) -> None:
        """Look at the process `pid`, which reads what is written to the pipe `report_fd`."""
        self._pid = pid
        self._report_fd = report_fd
        self._unread = 0

    def __call__(self) -> Standing:
        """Look once."""
        unread = self._bytes_unread()
        still = unread >= self._unread > 0
        self._unread = unread
        return Standing(self._is_stopped(), still)

    def _is_stopped(self) -> bool:
        try:
            state = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (OSError, IndexError):  # it is gone, or there is no /proc
            return False
        return state in "Tt"

    def _bytes_unread(self) -> int:
        if self._report_fd is None:
            return 0
        try:
            told = fcntl.ioctl(self._report_fd, termios.FIONREAD, b"\0" * 4)
        except OSError:
            return 0
        unread: int = struct.unpack("i", told)[0]
        return unread
