"""torchtitan: a metrics processor that a training's configuration names.

    def llama3_tracked() -> Trainer.Config:
        config = llama3_debugmodel()
        config.metrics = FasttrackMetricsProcessor.Config(log_freq=10, project="llama3")
        return config

torchtitan reads its losses off the device before it hands them over, every `log_freq` steps.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fasttrack.exit_codes import exit_code_of
from fasttrack.integrations.describing import describe_error
from fasttrack.notices import say
from fasttrack.options import Options
from fasttrack.tracker import ExperimentTracker

try:
    from torchtitan.components.metrics import BaseLogger, MetricsProcessor
except ImportError as error:
    raise ImportError(
        "fasttrack.integrations.torchtitan needs torchtitan: pip install 'fasttrack[torchtitan]'"
    ) from error

__all__ = ["FasttrackLogger", "FasttrackMetricsProcessor"]

_FILE = "fasttrack_run_id"  # in the dump folder


class FasttrackLogger(BaseLogger):  # type: ignore[misc]
    """Log to a tracker, and to the logger that torchtitan has made.

    Threads: the trainer's.
    """

    def __init__(self, tracker: ExperimentTracker, others: Any, tag: str | None = None) -> None:
        """Prepare; `tag` stands before every name, as torchtitan's own loggers have it."""
        self._tracker, self._others = tracker, others
        self._prefix = "" if tag is None else f"{tag}/"

    def log(self, metrics: dict[str, Any], step: int) -> None:
        """Queue a step's metrics. Never waits; what the other loggers raise is raised."""
        named = {f"{self._prefix}{name}": value for name, value in metrics.items()}
        self._tracker.log_metrics(named, step)
        self._others.log(metrics, step)

    def close(self) -> None:
        """End the run: as failed, with the reason, where torchtitan closes by an exception."""
        error = sys.exc_info()[1]
        if error is not None and self._tracker.is_active():
            say(f"training ended by {describe_error(error)}")
        self._tracker.finish(exit_code_of(error))
        self._others.close()

    def __getattr__(self, name: str) -> Any:
        """Return what is the other loggers': `number_of_loggers` and the like."""
        if name == "_others":  # of a logger that is not made yet
            raise AttributeError(name)
        return getattr(self._others, name)


class FasttrackMetricsProcessor(MetricsProcessor):  # type: ignore[misc]
    """Record what torchtitan reports, and its configuration.

    The run begins with the trainer and ends with it. Its id is kept in the dump folder, so that a
    training that goes on from its checkpoints goes on with the run. The rank that has the loss
    records: with pipeline stages the first of the last one.

    Threads: the trainer's.
    """

    @dataclass(kw_only=True, slots=True)
    class Config(MetricsProcessor.Config):  # type: ignore[misc]
        """torchtitan's, and what of the run is set here; the rest by environment variables."""

        project: str | None = None
        """W&B project; None: WANDB_PROJECT, then "torchtitan"."""
        run_name: str | None = None
        """Name of the run; None: made of the project, the time and the commit."""

    def __init__(
        self,
        config: Config,
        *,
        parallel_dims: Any,
        dump_folder: str = "./outputs",
        pp_schedule: str = "1F1B",
        config_dict: dict[str, Any] | None = None,
        tag: str | None = None,
        **more: Any,
    ) -> None:
        """Do what torchtitan's does, and begin the run.

        Raises:
            ConfigurationError: an argument or environment variable is wrong.
            DirectoryError: the run's directory cannot be made or written.
        """
        super().__init__(
            config,
            parallel_dims=parallel_dims,
            dump_folder=dump_folder,
            pp_schedule=pp_schedule,
            config_dict=config_dict,
            tag=tag,
            **more,
        )
        file = Path(dump_folder) / _FILE
        self.tracker = ExperimentTracker(
            project=config.project or os.environ.get("WANDB_PROJECT") or "torchtitan",
            name=config.run_name,
            config=config_dict,
            resume_id=_run_that_goes_on(file, config_dict or {}),
            options=Options(log_rank=_rank_of_the_loss(parallel_dims, pp_schedule)),
        )
        """The run's tracker."""
        self.logger: Any = FasttrackLogger(self.tracker, self.logger, tag)
        if self.tracker.is_active():
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(str(self.tracker.get_run_id()), encoding="utf-8")
            except OSError as error:
                say(f"the run's id is not kept beside the checkpoints: {error}")


def _run_that_goes_on(file: Path, config: dict[str, Any]) -> str | None:
    """Return the id of the run whose checkpoints torchtitan will go on from."""
    checkpoint = config.get("checkpoint", {})
    folder = file.parent / checkpoint.get("folder", "checkpoint")
    if checkpoint.get("enable") and any(folder.glob("step-*")):
        with suppress(OSError):
            return file.read_text(encoding="utf-8").strip() or None
    return None


def _rank_of_the_loss(parallel_dims: Any, pp_schedule: str) -> int:
    """Return where torchtitan has the loss: on the last pipeline stage, but in a V schedule."""
    if parallel_dims.pp <= 1 or pp_schedule == "ZBVZeroBubble":
        return 0
    return int(parallel_dims.world_size // parallel_dims.pp * (parallel_dims.pp - 1))
