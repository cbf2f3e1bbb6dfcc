"""What bench.against uses of either build beside its public interface: all of it stands here."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any

from bench.lib.trackers import WORKER

if TYPE_CHECKING:
    from collections.abc import Iterator


def _worker_thread() -> threading.Thread:
    (thread,) = (thread for thread in threading.enumerate() if thread.name == WORKER)
    return thread


def worker_cpu_s() -> float:
    """Return the CPU time of the worker's thread so far."""
    ident = _worker_thread().ident
    assert ident is not None
    return time.clock_gettime(time.pthread_getcpuclockid(ident))


@contextlib.contextmanager
def idle_worker() -> Iterator[None]:
    """Have the worker throw away what the caller pushes, as cheaply as can be; after a flush."""
    thread: Any = _worker_thread()
    worker = thread._target.__self__

    def throw_away() -> int:
        thrown = 0
        while thrown < worker._ring.capacity and (records := worker._ring.pop(1024)):
            thrown += len(records)
        return thrown

    worker.run_once = throw_away  # of this object: its thread looks it up every time
    try:
        worker.flush(60.0)  # a round of the true one may be under way
        yield
        worker.flush(60.0)  # nothing is left over for the true one
    finally:
        del worker.run_once
