"""The run's lock, which keeps two deliveries apart, and says who holds it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import time
from typing import TYPE_CHECKING

import orjson

from fasttrack.delivery.ending import POLL_S
from fasttrack.journal.run_directory import lock_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_LONGEST_NOTE_BYTES = 4096


@contextlib.contextmanager
def locked(
    run_dir: Path, what: str, *, wait: bool, pause: Callable[[float], None] = time.sleep
) -> Iterator[bool]:
    """Hold the lock of the run in `run_dir` in this block; yield whether it is held.

    Args:
        run_dir: the run's directory.
        what: who holds it, for whoever asks.
        wait: for the lock, for as long as it takes.
        pause: waits, in seconds.
    """
    lock = os.open(lock_path(run_dir), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        got_it = False
        while not got_it:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                got_it = True
            except BlockingIOError:
                if not wait:
                    break
                pause(POLL_S)
            except OSError:  # a file system without locks: better two couriers than none
                got_it = True
        if got_it:
            _note(lock, what)
        yield got_it
    finally:
        os.close(lock)


def _note(lock: int, what: str) -> None:
    told = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.time(), "what": what}
    with contextlib.suppress(OSError):  # the disk is full: nobody is named
        os.ftruncate(lock, 0)
        os.pwrite(lock, orjson.dumps(told), 0)


def describe_holder(run_dir: Path) -> str:
    """Return in words who holds the lock of a run, as far as that is known."""
    try:
        with lock_path(run_dir).open("rb") as file:
            told = orjson.loads(file.read(_LONGEST_NOTE_BYTES))
        pid, host, what = int(told["pid"]), str(told["host"]), str(told["what"])
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(float(told["since"])))
    except (OSError, ValueError, TypeError, KeyError, OverflowError):
        return "another process"
    if host != socket.gethostname():
        return f"{what} (process {pid} on {host}) since {since}"
    state = _state(pid)
    if state is None:
        return "another process"  # it has written nothing yet; the note is an earlier one's
    stopped = f", which is stopped ('kill -CONT {pid}' lets it go on)" if state in "Tt" else ""
    return f"{what} (process {pid} on this machine{stopped}) since {since}"


def _state(pid: int) -> str | None:
    """Return the letter for what a process does; None: there is none, or nobody tells."""
    with contextlib.suppress(OSError, IndexError), open(f"/proc/{pid}/stat", "rb") as file:
        return file.read().rpartition(b")")[2].split()[0].decode()
    return None
