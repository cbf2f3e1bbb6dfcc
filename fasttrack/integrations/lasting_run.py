"""The run behind an adapter: begun when it is needed, ended, and gone on with when more comes."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

from fasttrack.exit_codes import exit_code_of
from fasttrack.handler_errors import is_handlers
from fasttrack.integrations.describing import describe_error
from fasttrack.notices import say

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from fasttrack.tracker import ExperimentTracker

_resting: weakref.WeakSet[LastingRun] = weakref.WeakSet()


class LastingRun:
    """One run, over all that a trainer calls a beginning and an end.

    It stays open when training is over, so that a later evaluation is in it, until the program
    ends or another such run begins: one worker and one delivery process at a time.

    Threads: one.
    """

    def __init__(self, tracker: ExperimentTracker | None = None) -> None:
        """Begin with nothing, or with a tracker of the user's, which stays his to finish."""
        self.tracker = tracker
        """The newest; None before the first."""
        self.id: str | None = None
        """Of the run that goes on, once there is one. Set it to that of another, and it is that."""
        self.own = tracker is None
        """Whether it may be ended here."""
        self._ended = False
        self._pause: AbstractContextManager[None] | None = None

    @property
    def is_open(self) -> bool:
        """Whether something that is logged now goes to the newest tracker."""
        return self.tracker is not None and not self._ended

    def open(self, make: Callable[[str | None], ExperimentTracker]) -> ExperimentTracker:
        """Return a tracker that records the run; made if there is none, or its attempt has ended.

        Args:
            make: returns a tracker that goes on with the run of the id it is given; None: that
                begins a run. What it raises is raised here the first time, and later said.
        """
        tracker = self.tracker
        if tracker is not None:
            here = tracker.get_run_id()
            if not self.own or (not self._ended and self.id in (None, here)):
                self.id = here
                return tracker
            tracker.finish()  # of a run that began before the checkpoint's was known
        for other in list(_resting):
            if other is not self:
                other.end()
        try:
            made = make(self.id)
        except Exception as error:
            if tracker is None or is_handlers(error):  # the first raises, as a constructor does
                raise
            say(f"the run does not go on: {error}")
            self._ended, self.id = False, tracker.get_run_id()  # what comes is counted
            return tracker
        self.tracker, self._ended = made, False
        self.id = made.get_run_id() or self.id
        return made

    def forget(self) -> None:
        """End the run; what comes is another."""
        self.end()
        self.id = None

    def rest(self) -> None:
        """Note that training is over; the run goes on."""
        self.resume_clock()
        _resting.add(self)

    def fail(self, error: BaseException, exit_code: int | None = None) -> None:
        """End the run as failed, by an exception that leaves training, and say which.

        Args:
            error: the exception.
            exit_code: None: the one that the program would end with.
        """
        if self.own and self.tracker is not None and self.tracker.is_active():
            say(f"training ended by {describe_error(error)}")
        self.end(exit_code_of(error) if exit_code is None else exit_code)

    def end(self, exit_code: int = 0, *, preempting: bool = False) -> None:
        """End the run's attempt, as `ExperimentTracker.finish`. A tracker of the user's stays."""
        _resting.discard(self)
        self.resume_clock()
        if self.own and self.tracker is not None:
            self._ended = True
            self.tracker.finish(exit_code, preempting=preempting)

    def stop_clock(self) -> None:
        """Note that what follows is no training, until `resume_clock`."""
        if self._pause is None and self.tracker is not None:
            self._pause = self.tracker.pause()
            self._pause.__enter__()

    def resume_clock(self) -> None:
        """Note that training goes on."""
        if self._pause is not None:
            self._pause.__exit__(None, None, None)
            self._pause = None
