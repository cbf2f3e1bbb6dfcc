"""What happens to open runs when their process forks, is terminated, or just ends.

* fork (DataLoader workers): the child's trackers turn inert; the parent's are untouched.
* the end without `finish()`, of the interpreter or of a multiprocessing child's function: runs are
  finished with the exit code, as far as it can be seen (`exit_codes.py`).
* SIGTERM where the program has no handler of its own: journals are flushed, runs are marked as
  preempting, then the default action happens (`sigterm.py`). A user's handler is never replaced.
  While somebody listens (the program calls `should_stop()`), he is told, and nothing else happens.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
from typing import TYPE_CHECKING, Any, Protocol

from fasttrack.exit_codes import (
    exit_code_of,
    exit_code_of_program,
    leave_sys_exit,
    watch_sys_exit,
)
from fasttrack.sigterm import SIGTERM_EXIT_CODE, Sigterm

if TYPE_CHECKING:
    from collections.abc import Callable

_FIRST = 1000  # the priority of multiprocessing's finalizers: what they end may still be logging


class OpenRun(Protocol):
    """A run that this process records, as this module sees it."""

    def leave_to_parent(self) -> None:
        """Forget everything: this is a forked child."""

    def end_soon(self, exit_code: int, *, preempting: bool) -> None:
        """Close the run's journal within seconds: the process is about to end."""

    def end(self, exit_code: int) -> object:
        """Close the run's journal."""

    def settle(self, *, wait: bool = True) -> bool:
        """Say what became of the run once delivery is over, and wait for that or only look."""

    def settle_at_exit(self) -> None:
        """The same, for the last time."""


# Not weak: a run whose tracker was forgotten must be finished too.
_open: dict[OpenRun, None] = {}  # in order
_undelivered: dict[OpenRun, None] = {}  # whose journals are closed
_MOST_UNDELIVERED = max(8, os.cpu_count() or 1)  # each has a process at work
_child_exit: Any = None


def register(run: OpenRun) -> None:
    """Look after `run` until it is settled."""
    _open[run] = None
    run_first_at_exit()
    watch_sys_exit()
    SIGTERM.take()


def open_runs() -> list[OpenRun]:
    """Return the runs that record."""
    return list(_open)


def ended(run: OpenRun) -> None:
    """Note that `run` records no more; after the last, SIGTERM and `sys.exit` are as they were."""
    _undelivered[run] = None
    _open.pop(run, None)
    if not _open:
        leave_sys_exit()
    give_back_if_idle()


def give_back_if_idle() -> None:
    """Leave SIGTERM as it was where no run is open and nobody listens."""
    if not _open and not SIGTERM.listeners:
        SIGTERM.give_back()


def settled(run: OpenRun) -> None:
    """Note that nothing is left to be done for `run`."""
    _undelivered.pop(run, None)


def settle_some() -> None:
    """Settle the runs that are delivered by now; wait for the oldest while there are many."""
    for run in list(_undelivered):
        run.settle(wait=False)
    while len(_undelivered) > _MOST_UNDELIVERED:
        next(iter(_undelivered)).settle()


def listen(callback: Callable[[], None]) -> None:
    """Have SIGTERM call `callback` on the main thread, and not end the process, until `unlisten`.

    Where the program has a handler of its own, nothing is changed.
    """
    SIGTERM.listeners.append(callback)
    SIGTERM.take()


def unlisten(callback: Callable[[], None]) -> None:
    """Stop calling `callback`; where nobody else needs SIGTERM, it is as it was."""
    with contextlib.suppress(ValueError):
        SIGTERM.listeners.remove(callback)
    give_back_if_idle()


def run_first_at_exit() -> None:
    """Have our exit handlers run before those that were registered until now (wandb's, say)."""
    global _child_exit
    atexit.unregister(_at_exit)
    atexit.register(_at_exit)
    # A child of multiprocessing leaves by os._exit, after its own finalizers only.
    processes = sys.modules.get("multiprocessing.process")
    if processes is not None and processes.parent_process() is not None:
        from multiprocessing.util import Finalize

        if _child_exit is None or not _child_exit.still_active():
            _child_exit = Finalize(None, _at_child_exit, exitpriority=_FIRST)


def _at_exit() -> None:
    _finish_all(exit_code_of_program())


def _at_child_exit() -> None:
    # They run in the `finally` of the child's function: what leaves it is on its way.
    _finish_all(exit_code_of(sys.exc_info()[1]))


def _finish_all(exit_code: int) -> None:
    # A thread left inside torch at interpreter exit aborts the process: `end` joins ours.
    try:
        for run in open_runs():
            run.end(exit_code)
    except BaseException:  # a second Ctrl-C: the rows must not go with it, delivery needs nobody
        _end_all_soon(exit_code, preempting=False)
        raise
    for run in list(_undelivered):
        run.settle_at_exit()


def _end_all_soon(exit_code: int, *, preempting: bool) -> None:
    for run in open_runs():
        with contextlib.suppress(Exception):  # one run's trouble is no other's
            run.end_soon(exit_code, preempting=preempting)


SIGTERM = Sigterm(lambda: _end_all_soon(SIGTERM_EXIT_CODE, preempting=True))
on_sigterm = SIGTERM.handle


def _after_fork_in_child() -> None:
    SIGTERM.after_fork_in_child()
    for run in [*_open, *_undelivered]:
        run.leave_to_parent()
    _open.clear()
    _undelivered.clear()
    SIGTERM.listeners.clear()
    leave_sys_exit()


os.register_at_fork(
    before=SIGTERM.before_fork,
    after_in_parent=SIGTERM.after_fork_in_parent,
    after_in_child=_after_fork_in_child,
)
