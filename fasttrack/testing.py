"""For your own tests: a tracker that records into memory.

    from fasttrack.testing import memory_tracker

    def test_training_lowers_the_loss():
        with memory_tracker() as tracker:
            train(tracker)
        losses = [row.values["loss/total"] for row in tracker.rows]
        assert losses[-1] < losses[0]

It is a real `ExperimentTracker`: capture, worker, journal (in a temporary directory of its own) and
delivery, whose destination is this process's memory. No network, no account, no wandb.
"""

from __future__ import annotations

import copy
import dataclasses
import os
import shutil
import tempfile
import time
import weakref
from typing import TYPE_CHECKING, Any

from fasttrack.options import Options
from fasttrack.tracker import ExperimentTracker

if TYPE_CHECKING:
    from fasttrack.delivery.backends.memory import Store, StoredArtifact
    from fasttrack.journal.rows import Row

__all__ = ["MemoryTracker", "memory_tracker"]

_ARRIVE_S = 30.0
_POLL_S = 0.005


class MemoryTracker(ExperimentTracker):
    """An `ExperimentTracker` whose rows arrive in memory; made by `memory_tracker`.

    Threads: those of `ExperimentTracker`; the properties from any.
    """

    def __init__(self, **arguments: Any) -> None:
        """Take the arguments of `ExperimentTracker`; see `memory_tracker`."""
        directory = tempfile.mkdtemp(prefix="fasttrack-")
        self._remove_directory = weakref.finalize(self, _remove, directory, os.getpid())
        given = arguments.pop("options", None) or Options()
        options = dataclasses.replace(
            given,
            backends=("memory",),
            delivery="thread",
            directory=directory,
            wait_for_delivery="finish",
        )
        defaults = {"project": "test", "required_tags": (), "log_interval": 1, "mode": "online"}
        try:
            super().__init__(**{**defaults, **arguments}, options=options)
        except BaseException:
            self._remove_directory()
            raise
        from fasttrack.delivery.backends.memory import Store, destination_of

        recording = self.is_active() and self._run_id is not None
        self._store: Store = destination_of(str(self._run_id)).server if recording else Store()

    @property
    def rows(self) -> list[Row]:
        """What was logged so far, in order: each row's `step`, `time_s` and `values`.

        Waits until it has arrived, about 0.1 s; on a finished tracker not at all. Empty on a
        tracker that does not record (another rank, disabled).
        """
        self._await_arrival()
        return list(self._store.rows)

    @property
    def config(self) -> dict[str, Any]:
        """The configuration: the constructor's, `update_config`'s and `log_config`'s.

        Secrets are redacted. Complete once the tracker is finished.
        """
        config = dict(self._store.headers[0].config) if self._store.headers else {}
        added = {name: value for name, value in self._store.config.items() if name != "metadata"}
        return {**config, **added}

    @property
    def artifacts(self) -> list[StoredArtifact]:
        """What `log_config` and `log_checkpoint` kept: `type`, `name`, `aliases` and `files`.

        Complete once the tracker is finished.
        """
        return list(self._store.artifacts)

    @property
    def exit_code(self) -> int | None:
        """What the run ended with, 0 for success; None before `finish()`."""
        return self._store.endings[-1][0] if self._store.endings else None

    def finish(self, exit_code: int = 0, *, preempting: bool = False) -> None:
        """End the run and remove its directory. See `ExperimentTracker.finish`."""
        from fasttrack.delivery.backends.memory import forget

        super().finish(exit_code, preempting=preempting)
        self._remove_directory()
        forget(str(self._run_id))

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process may know: what has arrived until now, too."""
        store = self._store
        snapshot = dataclasses.replace(
            store,
            **{
                field.name: copy.copy(getattr(store, field.name))
                for field in dataclasses.fields(store)
            },
        )
        return {**super().__getstate__(), "_store": snapshot, "_remove_directory": _remove_nothing}

    def _await_arrival(self) -> None:
        self.flush(_ARRIVE_S)
        deadline = time.monotonic() + _ARRIVE_S
        while self.is_active() and len(self._store.rows) < self.stats().rows_written:
            if time.monotonic() >= deadline:
                raise TimeoutError(f"rows did not arrive within {_ARRIVE_S:.0f} s")
            time.sleep(_POLL_S)


def _remove(directory: str, pid: int) -> None:
    if os.getpid() == pid:  # in a forked child it is the parent's
        shutil.rmtree(directory, ignore_errors=True)


def _remove_nothing() -> None:
    """Stand for the removal of a directory that is another process's."""


def memory_tracker(**arguments: Any) -> MemoryTracker:
    """Return a tracker that records into memory; use it as a context manager, or `finish` it.

    Args:
        **arguments: those of `ExperimentTracker`. Other defaults: every step is logged
            (`log_interval=1`), no tags are required, project "test". Of `options`, where rows go
            to is replaced.

    Raises:
        ConfigurationError: as `ExperimentTracker`.
    """
    return MemoryTracker(**arguments)
