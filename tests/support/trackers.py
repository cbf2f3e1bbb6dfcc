"""Trackers that keep their journal only: for tests whose subject is not delivery."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from support.journals import read_rows
from support.runs import make_tracker

from fasttrack import Options

if TYPE_CHECKING:
    from fasttrack import ExperimentTracker

HANG_GUARD_S = 30.0


def journal_only(**options: Any) -> Options:
    """Return options without delivery and without console capture, unless told otherwise."""
    return Options(**{"backends": ("none",), "console": False, "finish_timeout_s": 10.0, **options})


class Trackers:
    """Makes trackers that deliver nowhere, and finishes them."""

    def __init__(self) -> None:
        """Begin with none."""
        self._made: list[ExperimentTracker] = []

    def __call__(self, **arguments: Any) -> ExperimentTracker:
        """Return a tracker that logs every step; the arguments are `ExperimentTracker`'s."""
        self._made.append(make_tracker(**{"options": journal_only(), **arguments}))
        return self._made[-1]

    def finish(self) -> None:
        """Finish all of them."""
        for tracker in self._made:
            tracker.finish()


def written_values(tracker: ExperimentTracker) -> list[dict[str, float]]:
    """Return the values of each row that the tracker has logged so far."""
    run_dir = tracker.get_run_dir()
    assert run_dir is not None
    assert tracker.flush(HANG_GUARD_S)
    return [row.values for row in read_rows(run_dir)]
