"""The run's locks, which keep two deliveries apart, and say who holds them.

One is held by whoever delivers the run, one beside it by whoever sends rows to a destination: an
offline run's own delivery does not, and leaves that to another for as long as the run goes on.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import time
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import orjson

from fasttrack.delivery.ending import POLL_S
from fasttrack.journal.run_directory import lock_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from fasttrack.delivery.ending import EndingWatch

Lock: TypeAlias = "Callable[[Path], Path]"
"""Which of a run's locks: returns its file."""

_LONGEST_NOTE_BYTES = 4096
_SAY_AFTER_S = 10.0
_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)


@contextlib.contextmanager
def locked(
    run_dir: Path,
    what: str,
    wait_on: Callable[[], bool] | None = None,
    pause: Callable[[float], None] = time.sleep,
    *,
    which: Lock = lock_path,
) -> Iterator[bool]:
    """Hold the lock of the run in `run_dir` in this block; yield whether it is held.

    Args:
        run_dir: the run's directory. One that may not be written counts as held: what is written
            there later fails, and only reading needs no more.
        what: who holds it, for whoever asks.
        wait_on: asked while somebody else holds it, ten times a second: whether to wait on;
            None: not at all.
        pause: waits, in seconds.
        which: returns the lock's file.
    """
    lock = _open(which(run_dir))
    if lock is None:
        yield True
        return
    try:
        while not (got_it := _try_lock(lock)) and wait_on is not None and wait_on():
            pause(POLL_S)
        if got_it:
            _note(lock, what)
        yield got_it
    finally:
        os.close(lock)


def _open(path: Path) -> int | None:
    """Open the lock's file; None where there is none and none can be made."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in _READ_ONLY:
            raise
    with contextlib.suppress(OSError):
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    return None


def _try_lock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks: better two couriers than none
        pass
    return True


def _note(lock: int, what: str) -> None:
    told = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.time(), "what": what}
    with contextlib.suppress(OSError):  # the disk is full, or read-only: nobody is named
        os.ftruncate(lock, 0)
        os.pwrite(lock, orjson.dumps(told), 0)


class Patience:
    """How long a run's own delivery waits for whoever else holds the run.

    Threads: one.
    """

    def __init__(
        self, run_dir: Path, ending: EndingWatch, longer_s: float, say: Callable[[str], None]
    ) -> None:
        """Wait for the lock of the run in `run_dir`.

        Args:
            run_dir: the run's directory.
            ending: watches the run's trainer: as long as it is there, nothing is late.
            longer_s: how long after the run's deadline one is waited for that is at work.
            say: told in words, once, who is waited for.
        """
        self._which: Lock = lock_path
        """Returns the file of the lock that is waited for."""
        self._run_dir = run_dir
        self._ending = ending
        self._longer_s = longer_s
        self._say = say
        self._say_at_s: float | None = None

    def waiting_for(self, which: Lock) -> Callable[[], bool]:
        """Return what tells whether to wait on for a lock; for one at a time."""
        self._which = which
        return self.wait_on

    def wait_on(self) -> bool:
        """Return whether to wait on."""
        now_s = self._ending.clock()
        if self._say_at_s is None:
            self._say_at_s = now_s + _SAY_AFTER_S
        elif now_s >= self._say_at_s:
            holder = describe_holder(self._run_dir, self._which)
            self._say(f"{holder} holds the run and is waited for")
            self._say_at_s = float("inf")
        left_s = self._ending.seconds_left()
        stopped = _is_stopped(self._run_dir, self._which)
        return left_s > 0 or (left_s > -self._longer_s and not stopped)


class _Holder(NamedTuple):
    what: str
    pid: int
    host: str
    since: str
    state: str | None
    """The letter for what the process does; None: it is not there, or nobody tells."""

    @property
    def is_here(self) -> bool:
        return self.host == socket.gethostname()


def _holder(run_dir: Path, which: Lock = lock_path) -> _Holder | None:
    """Return who has noted down that it holds a run's lock."""
    try:
        with which(run_dir).open("rb") as file:
            told = orjson.loads(file.read(_LONGEST_NOTE_BYTES))
        pid, host, what = int(told["pid"]), str(told["host"]), str(told["what"])
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(float(told["since"])))
    except (OSError, ValueError, TypeError, KeyError, OverflowError):
        return None
    return _Holder(what, pid, host, since, _state(pid))


def describe_holder(run_dir: Path, which: Lock = lock_path) -> str:
    """Return in words who holds a lock of a run, as far as that is known."""
    holder = _holder(run_dir, which)
    if holder is None:
        return "another process"
    if not holder.is_here:
        return f"{holder.what} (process {holder.pid} on {holder.host}) since {holder.since}"
    if holder.state is None:
        return "another process"  # it has written nothing yet; the note is an earlier one's
    stopped = ""
    if holder.state in "Tt":
        stopped = f", which is stopped ('kill -CONT {holder.pid}' lets it go on)"
    return f"{holder.what} (process {holder.pid} on this machine{stopped}) since {holder.since}"


def _is_stopped(run_dir: Path, which: Lock) -> bool:
    holder = _holder(run_dir, which)
    return holder is not None and holder.is_here and holder.state in ("T", "t")


def _state(pid: int) -> str | None:
    """Return the letter for what a process does; None: there is none, or nobody tells."""
    with contextlib.suppress(OSError, IndexError), open(f"/proc/{pid}/stat", "rb") as file:
        return file.read().rpartition(b")")[2].split()[0].decode()
    return None
