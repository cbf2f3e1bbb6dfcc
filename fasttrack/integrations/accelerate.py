"""Hugging Face's accelerate: a tracker for `Accelerator(log_with="fasttrack")`.

    import fasttrack.integrations.accelerate

    accelerator = Accelerator(log_with="fasttrack")
    accelerator.init_trackers("digits", config, init_kwargs={"fasttrack": {"mode": "offline"}})
    accelerator.log({"loss": loss}, step=step)  # a tensor: don't call .item()

or `Accelerator(log_with=FasttrackTracker("digits"))`.
"""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

from fasttrack.integrations.describing import check_arguments
from fasttrack.notices import say
from fasttrack.tracker import ExperimentTracker

try:
    from accelerate import tracking
except ImportError as error:
    raise ImportError(
        "fasttrack.integrations.accelerate needs accelerate: pip install 'fasttrack[accelerate]'"
    ) from error

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["FasttrackTracker"]

_FILE = "fasttrack.json"  # in a checkpoint
_SAVED_WITHIN_S = 5.0


class FasttrackTracker(tracking.GeneralTracker):  # type: ignore[misc]
    """Record what `accelerator.log` is given, tensors as they are.

    The run begins with the first thing that is logged, so that `accelerator.load_state` before it
    goes on with the checkpoint's: the run's id is in every checkpoint of `save_state`. It ends with
    `end_training`, or with the program: by an exception, as failed.

    Threads: the training script's.
    """

    name = "fasttrack"
    requires_logging_directory = False
    main_process_only = True

    def __init__(self, project: str | None = None, **arguments: Any) -> None:
        """Prepare.

        Args:
            project: as `init_trackers` gives it.
            **arguments: the others of `ExperimentTracker`.

        Raises:
            ConfigurationError: an argument or environment variable is wrong.
            TypeError: an argument is not one of `ExperimentTracker`'s.
        """
        super().__init__()
        self._arguments: dict[str, Any] = {"project": project, **arguments}
        check_arguments(self._arguments)
        self._tracker: ExperimentTracker | None = None

    @property
    def tracker(self) -> ExperimentTracker:
        """The `ExperimentTracker`; asking for it begins the run."""
        if self._tracker is None:
            self._tracker = ExperimentTracker(**self._arguments)
        return self._tracker

    def start(self) -> None:
        """Have the accelerator keep the run's id in its checkpoints."""
        accelerator = _who_calls()
        if accelerator is None:
            say("this accelerate keeps no run id in its checkpoints: pass resume_id= by hand")
            return
        accelerator.register_save_state_pre_hook(self._save)
        accelerator.register_load_state_pre_hook(self._load)

    def store_init_configuration(self, values: Mapping[str, Any]) -> None:
        """Add to the run's configuration. Secrets are redacted."""
        if self._tracker is None:
            config = self._arguments.get("config")
            if config is None or isinstance(config, dict):
                self._arguments["config"] = {**(config or {}), **values}
                return
        self.tracker.update_config(values)

    def log(self, values: Mapping[str, Any], step: int | None = None, **kwargs: Any) -> None:
        """Queue metrics. Never waits for the device, the disk or the network."""
        tracker = self._tracker
        if tracker is None:
            tracker = self.tracker
        tracker.log_metrics(values, step)

    def finish(self) -> None:
        """End the run."""
        if self._tracker is not None:
            self._tracker.finish()

    def _save(self, models: Any, weights: Any, output_dir: str) -> None:
        """Put the run's id into a checkpoint; wait, up to 5 s, until its rows are on disk."""
        tracker = self.tracker
        tracker.flush(_SAVED_WITHIN_S)
        try:
            with open(os.path.join(output_dir, _FILE), "w", encoding="utf-8") as file:
                json.dump({"run_id": tracker.get_run_id()}, file)
        except OSError as error:  # saving goes on
            say(f"the checkpoint has no run id: {error}")

    def _load(self, models: Any, input_dir: str) -> None:
        """Go on with the run of a checkpoint."""
        try:
            with open(os.path.join(input_dir, _FILE), encoding="utf-8") as file:
                run_id = json.load(file)["run_id"]
        except (OSError, ValueError, KeyError, TypeError):  # saved without fasttrack
            return
        tracker = self._tracker
        if tracker is not None and tracker.get_run_id() == run_id:
            return
        if tracker is not None:
            say(f"load_state came after the run had begun; the checkpoint's, {run_id}, goes on")
            tracker.finish()
        self._arguments["resume_id"] = run_id
        self._tracker = None


def _who_calls() -> Any:
    """Return the accelerator that starts its trackers: it hands them nothing of itself."""
    frame = sys._getframe(2)
    for _ in range(8):
        found = frame.f_locals.get("self")
        if hasattr(found, "register_save_state_pre_hook"):
            return found
        if frame.f_back is None:
            break
        frame = frame.f_back
    return None


def _make_known() -> None:
    register = getattr(tracking, "register_tracker_class", None)
    if register is not None:
        register(FasttrackTracker)
    else:
        say("this accelerate takes no log_with='fasttrack': pass log_with=FasttrackTracker(...)")


_make_known()
