"""What happens to open runs when their process forks, is terminated, or just ends.

* fork (DataLoader workers): the child's trackers turn inert; the parent's are untouched.
* interpreter exit without `finish()`: runs are finished, as failed after an uncaught exception.
  The exit code of a bare `sys.exit(n)` cannot be seen from here; use the tracker as a context
  manager where it matters.
* SIGTERM where the program has no handler of its own: journals are flushed, runs are marked as
  preempting, then the default action happens. A user's handler is never replaced. While somebody
  listens (the program calls `should_stop()`), it is told, and nothing else happens.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

SIGTERM_EXIT_CODE = 128 + signal.SIGTERM


class OpenRun(Protocol):
    """A run that this process records, as this module sees it."""

    def leave_to_parent(self) -> None:
        """Forget everything: this is a forked child."""

    def preempt(self) -> None:
        """Flush and mark as preempting: the process is about to be terminated."""

    def finish(self, exit_code: int = 0) -> None:
        """Finish the run."""


_listeners: list[Callable[[], None]] = []
_open: set[OpenRun] = set()  # not weak: a run whose tracker was forgotten must be finished too


def register(run: OpenRun) -> None:
    """Look after `run` until `unregister`."""
    _open.add(run)
    run_first_at_exit()
    _take_sigterm()


def open_runs() -> list[OpenRun]:
    """Return the runs that are looked after."""
    return list(_open)


def unregister(run: OpenRun) -> None:
    """Stop looking after `run`; after the last one, SIGTERM is as it was."""
    _open.discard(run)
    _give_sigterm_back()


def listen(listener: Callable[[], None]) -> None:
    """Have SIGTERM call `listener` and not end the process, until `unlisten`.

    Where the program has a handler of its own, nothing is changed.
    """
    _listeners.append(listener)
    _take_sigterm()


def unlisten(listener: Callable[[], None]) -> None:
    """Stop calling `listener`; where nobody else needs SIGTERM, it is as it was."""
    if listener in _listeners:
        _listeners.remove(listener)
        _give_sigterm_back()


def _take_sigterm() -> None:
    if (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    ):
        signal.signal(signal.SIGTERM, on_sigterm)


def _give_sigterm_back() -> None:
    if (
        not _open
        and not _listeners
        and threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGTERM) is on_sigterm
    ):
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def run_first_at_exit() -> None:
    """Have our exit handler run before those that were registered until now (wandb's, say)."""
    atexit.unregister(_at_exit)
    atexit.register(_at_exit)


def _at_exit() -> None:
    # A thread left inside torch at interpreter exit aborts the process: finish() joins ours.
    failed = getattr(sys, "last_value", None) is not None
    for run in open_runs():
        run.finish(exit_code=1 if failed else 0)


def on_sigterm(signum: int, frame: FrameType | None) -> None:
    """Handle SIGTERM: tell who listens, or flush and end the process."""
    if _listeners:
        for listener in list(_listeners):
            listener()
        return
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # Slurm and torchrun send it twice
    for run in open_runs():
        run.preempt()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTERM)
    os._exit(SIGTERM_EXIT_CODE)  # pid 1 of a container is spared the default action


def _after_fork_in_child() -> None:
    for run in open_runs():
        run.leave_to_parent()
    _open.clear()
    _listeners.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
