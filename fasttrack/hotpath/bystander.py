"""What stands for the logging calls in a process that does not record its run."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from fasttrack.notices import say


class Bystander:
    """Ignore what is logged in a forked child, or on a tracker that another process made.

    The first call is answered with a word, all are counted: such a call is nearly always meant for
    the process that records. It looks like a closed `StepLogger`.

    Threads: any; the count may miss calls of threads that log at once.
    """

    __slots__ = ("_run_id", "calls")

    def __init__(self, run_id: str | None) -> None:
        """Stand for the run's logger; nothing was ignored yet."""
        self._run_id = run_id
        self.calls = 0
        """How many calls were ignored."""

    def training_step(self, *values: Any, **further: Any) -> None:
        """Ignore a training step."""
        self.late_call()

    def metrics(self, metrics: Any, step: Any) -> None:
        """Ignore metrics."""
        self.late_call()

    def not_floats(self, values: dict[Any, Any], metrics: object) -> dict[Any, Any]:
        """Return all."""
        return values

    def note_logged(self, step: int, entered_s: float) -> None:
        """Note nothing."""

    def note_metrics(self, entered_s: float) -> None:
        """Note nothing."""

    def pause(self) -> AbstractContextManager[None]:
        """Return what does nothing: whoever shares its code with the trainer may pause."""
        return nullcontext()

    def phase(self, name: str) -> AbstractContextManager[None]:
        """Return what does nothing, as `pause`."""
        return nullcontext()

    def late_call(self) -> None:
        """Count a call that is ignored; say so at the first."""
        self.calls += 1
        if self.calls == 1:
            say(
                f"this process does not record the run {self._run_id}: its tracker was made in "
                "another process (a DataLoader's worker?); what is logged here is ignored"
            )
