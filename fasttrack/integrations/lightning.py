"""Lightning's Trainer and Fabric: a logger and a callback on one run.

    from fasttrack.integrations.lightning import FasttrackLogger

    Trainer(logger=FasttrackLogger(project="digits"))

or `Trainer(callbacks=[FasttrackCallback(project="digits")])`: each brings the other along. The
logger gets what `self.log` reports, the callback sees the steps, exceptions and checkpoints.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from fasttrack.handler_errors import is_handlers
from fasttrack.integrations.batches import TokenCount, samples_of
from fasttrack.integrations.describing import as_mapping, check_arguments
from fasttrack.integrations.lasting_run import LastingRun
from fasttrack.integrations.lightning_package import (
    AsyncCheckpointIO,
    Callback,
    Logger,
    SIGTERMException,
    SLURMEnvironment,
)
from fasttrack.integrations.nonfinite import NonfiniteLosses
from fasttrack.notices import say
from fasttrack.settings import resolve_log_model
from fasttrack.sigterm import SIGTERM_EXIT_CODE
from fasttrack.tracker import ExperimentTracker

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable

__all__ = ["FasttrackCallback", "FasttrackLogger"]

_SAVED_WITHIN_S = 5.0
_KEY = "fasttrack"  # in a checkpoint


class FasttrackLogger(Logger):  # type: ignore[misc]
    """Record what a Trainer's `self.log` and Fabric's `log_dict` report, and hyperparameters.

    The run begins with training, or with the first thing that is logged. It goes on after `fit()`,
    so that a later `test()` is in it, and ends with the program, by `finish()`, or when another
    logger's run begins; one that training raises out of ends at once, as failed. Its id is in every
    checkpoint: `fit(ckpt_path=...)` goes on with it. Only the first rank records.

    Threads: the training script's.
    """

    def __init__(
        self,
        tracker: ExperimentTracker | None = None,
        *,
        tokens_fn: Callable[[Any], Any] | None = None,
        **arguments: Any,
    ) -> None:
        """Prepare; the run begins later.

        Args:
            tracker: one to log to, which stays yours to finish; None: the logger makes its own.
            tokens_fn: returns this rank's tokens of a batch, for `perf/tokens_per_sec`; a number,
                or a tensor in the host's memory.
            **arguments: those of `ExperimentTracker`, for a tracker of its own. Other defaults: the
                project is WANDB_PROJECT, then "lightning_logs"; steps are logged every
                `log_every_n_steps`; hyperparameters are in the configuration, and `config` adds to
                them.

        Raises:
            ConfigurationError: an argument or environment variable is wrong.
            TypeError: an argument is not one of `ExperimentTracker`'s.
        """
        super().__init__()
        self.run = LastingRun(tracker)
        self.losses = NonfiniteLosses(self.run)
        self.tokens = TokenCount(tokens_fn)
        if arguments.get("project") is None:
            arguments["project"] = os.environ.get("WANDB_PROJECT") or "lightning_logs"
        self._arguments = arguments
        if tracker is None:
            check_arguments(arguments)
        self._config: dict[str, Any] = {}
        self._version: int | str | None = None
        self._next_step: int | None = None
        self._saved_step: int | None = None
        self._uploaded_step: int | None = None
        self._row_of_checkpoint_to_come = False
        self.default_dir = "."
        """Where checkpoints go, in a folder of the run's, unless the Trainer is told otherwise."""
        self.saves_later = False
        """Whether a checkpoint that is said to be saved may be written still."""
        self._said_later = False

    @property
    def tracker(self) -> ExperimentTracker:
        """The `ExperimentTracker`, which is inert on other ranks. Asking for it begins the run."""
        return self.run.open(self._make)

    def begin(self, log_interval: int) -> ExperimentTracker:
        """Return the tracker of a training that logs every so many steps."""
        self._arguments.setdefault("log_interval", max(1, log_interval))
        return self.tracker

    def _make(self, run_id: str | None) -> ExperimentTracker:
        given = self._arguments
        config = {**self._config, **as_mapping(given.get("config"))}
        resume_id = run_id or given.get("resume_id")
        return ExperimentTracker(**{**given, "config": config, "resume_id": resume_id})

    def finish(self, exit_code: int = 0) -> None:
        """End the run now, as `ExperimentTracker.finish`. What is logged later goes on with it."""
        self.run.end(exit_code)

    # --- the checkpoint ---------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps. Waits until the rows before it are on disk, up to 5 s."""
        if self.run.tracker is not None:
            self.run.tracker.flush(_SAVED_WITHIN_S)
        if self.run.id is None:
            return {}
        return {"run_id": self.run.id, "first_nonfinite_step": self.losses.first_step}

    def go_on(self, state: Any) -> None:
        """Go on with the run of a checkpoint, if it is of one."""
        run_id = state.get("run_id") if isinstance(state, dict) else None
        if run_id and run_id != self.run.id and self.run.own:
            if self.run.is_open:
                say(f"the checkpoint's run goes on, {run_id}; the one before it has ended")
            self.run.id = run_id
            self.losses.first_step = state.get("first_nonfinite_step")

    def saving(self, step: Any) -> None:
        """Note that a checkpoint of `step` is about to be written."""
        self._saved_step = step
        # Lightning saves within a step, and logs what the step has reported after it.
        self._row_of_checkpoint_to_come = True

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        """Upload the checkpoint, if WANDB_LOG_MODEL says so."""
        tracker, step = self.run.tracker, self._saved_step
        best = getattr(checkpoint_callback, "best_model_path", "")
        path = getattr(checkpoint_callback, "_last_checkpoint_saved", "") or best
        if tracker is None or not path:
            return
        if self.saves_later:
            if resolve_log_model() and not self._said_later:
                self._said_later = True
                say("checkpoints that are saved asynchronously are not uploaded")
            return
        copied = path == getattr(checkpoint_callback, "last_model_path", "")  # as save_last has it
        if copied and step == self._uploaded_step:
            return
        self._uploaded_step = step
        is_best = path == best and getattr(checkpoint_callback, "monitor", None) is not None
        named = [] if step is None else [f"step{step}"]
        tracker.log_checkpoint(path, ["latest", *named, *(["best"] if is_best else [])])

    # --- what the Trainer and Fabric call ---------------------------------------------------------

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Queue metrics. Never waits for the device, the disk or the network.

        Args:
            metrics: names to numbers, or tensors of one element, which are not waited for.
            step: None: one more than the last.
        """
        tracker = self.run.open(self._make)
        if step is None:
            step = self._next_step
            if step is None:
                earlier = tracker.get_earlier_step()
                step = 0 if earlier is None else earlier + 1
        if type(step) is int:
            self._next_step = step + 1
        tracker.log_metrics(metrics, step)

    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any
    ) -> None:
        """Add to the run's configuration. Secrets are redacted."""
        try:
            told = as_mapping(params)
        except Exception as error:  # the user's own objects are asked here
            if is_handlers(error):
                raise
            say(f"hyperparameters are not in the run's configuration: {error}")
            return
        self._config.update(told)
        if self.run.is_open:
            self.tracker.update_config(told)

    def log_graph(self, model: Any, input_array: Any = None) -> None:
        """Draw no graph; bring the callback along, to a Trainer that has none for this logger.

        The Trainer calls it before training, when it has read the checkpoint.
        """
        try:
            trainer = model.trainer
        except (AttributeError, RuntimeError):  # it is not in training
            return
        callback = FasttrackCallback(self)
        if callback.first_of(trainer) is not None:
            return
        trainer.callbacks.insert(0, callback)
        connector = getattr(trainer, "_checkpoint_connector", None)
        checkpoint = getattr(connector, "_loaded_checkpoint", None)
        if checkpoint:
            callback.on_load_checkpoint(trainer, model, checkpoint)
        elif checkpoint is None:
            say("no checkpoint's run goes on here: pass callbacks=[FasttrackCallback(logger)], too")

    def save(self) -> None:
        """Wait for the disk after a checkpoint's own row, up to 5 s; else do nothing."""
        if self._row_of_checkpoint_to_come and self.run.tracker is not None:
            self._row_of_checkpoint_to_come = False
            self.run.tracker.flush(_SAVED_WITHIN_S)

    def finalize(self, status: str) -> None:
        """Write out what was logged, up to 5 s. The run goes on, unless it has failed."""
        if status in ("failed", "aborted"):
            self._fail(sys.exc_info()[1])
            return
        if status == "success":
            self.run.rest()
        if self.run.tracker is not None:
            self.run.tracker.flush(_SAVED_WITHIN_S)

    def _fail(self, error: BaseException | None) -> None:
        if isinstance(error, SIGTERMException):
            say("training ended by SIGTERM")
            self.run.end(SIGTERM_EXIT_CODE, preempting=True)
        elif error is None:
            self.run.end(1)
        else:
            self.run.fail(error)

    # --- what else a logger is asked --------------------------------------------------------------

    @property
    def name(self) -> str:
        """The project."""
        return str(self._arguments["project"])

    @property
    def version(self) -> int | str:
        """What tells this run's checkpoints from others': the run's id, if it is known when asked.

        Else the Slurm job's, which stays when it is requeued; else the time.
        """
        if self._version is None:
            job = SLURMEnvironment.job_id()
            now = datetime.now().strftime("%Y%m%d_%H%M%S")
            self._version = self.run.id or (now if job is None else job)
        return self._version

    @property
    def save_dir(self) -> str:
        """The folder of the runs' folders of checkpoints."""
        return self.default_dir


class FasttrackCallback(Callback):  # type: ignore[misc]
    """Record the steps of a training, keep the run's id in checkpoints, and see how it ends.

    Threads: the Trainer's.
    """

    def __init__(
        self, logger: FasttrackLogger | ExperimentTracker | None = None, **arguments: Any
    ) -> None:
        """Prepare; the run begins with training.

        Args:
            logger: the one to log with, or a tracker; None: the Trainer's, if it has one, else a
                new one.
            **arguments: of a new `FasttrackLogger`.

        Raises:
            ConfigurationError: an argument or environment variable is wrong.
            TypeError: an argument is not one of `ExperimentTracker`'s.
        """
        super().__init__()
        self._given = logger is not None or bool(arguments)
        if not isinstance(logger, FasttrackLogger):
            logger = FasttrackLogger(logger, **arguments)
        self.logger = logger
        """Where what `self.log` reports goes, too."""
        self._tracker: ExperimentTracker | None = None  # while a training is recorded
        self._loop: Any = None
        self._step = 0
        self._loss: Any = None
        self._samples = 0

    # --- beginning and end ------------------------------------------------------------------------

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Find the Trainer's logger, or bring one along."""
        there = [one for one in trainer.loggers if isinstance(one, FasttrackLogger)]
        if there and not self._given:
            self.logger = there[0]
        elif self.logger not in there and not (trainer.fast_dev_run or trainer.barebones):
            self.logger.default_dir = str(trainer.default_root_dir)
            trainer.loggers = [*trainer.loggers, self.logger]

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin the run, or go on with the checkpoint's."""
        self._tracker, self._loss, self._samples = None, None, 0
        if self.logger not in trainer.loggers or self.first_of(trainer) is not self:
            return
        tracker = self.logger.begin(int(trainer.log_every_n_steps) or 10)
        if tracker.is_active():
            self._tracker = tracker
        self.logger.losses.begin()
        self.logger.tokens.take()  # of a step that was never done
        self.logger.saves_later = isinstance(
            getattr(trainer.strategy, "checkpoint_io", None), AsyncCheckpointIO
        )
        self._loop = trainer.fit_loop.epoch_loop
        if not hasattr(self._loop, "_batches_that_stepped"):
            say("this lightning does not say which batches are a step: each is taken for one")
            self._loop = None

    def first_of(self, trainer: Any) -> Any:
        """Return the first of a Trainer's callbacks that have this logger; None: it has none."""
        for one in trainer.callbacks:
            if isinstance(one, FasttrackCallback) and one.logger is self.logger:
                return one
        return None

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Note that training is over; the run goes on."""
        if self._tracker is not None:
            self._tracker = None
            self.logger.losses.end(self._step)
            self.logger.run.resume_clock()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Look at the last losses. The logger ends the run, when checkpoints are saved."""
        if self._tracker is not None:
            self._tracker = None
            self.logger.losses.look()
            self.logger.run.resume_clock()

    # --- training ---------------------------------------------------------------------------------

    def on_train_batch_start(self, *args: Any, **kwargs: Any) -> None:
        """Note that training goes on."""
        if self._tracker is not None:
            self.logger.run.resume_clock()

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, *args: Any
    ) -> None:
        """Log the step's throughput and loss, as often as the Trainer logs. Never waits."""
        tracker, loop = self._tracker, self._loop
        if tracker is None:
            return
        step = trainer.global_step if loop is None else loop._batches_that_stepped
        losses = self.logger.losses
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if loss is not None:
            self._loss = losses.note(step, loss, self._loss)
        self._samples += samples_of(batch)
        self.logger.tokens.add(batch)
        if loop is not None and trainer.accumulate_grad_batches > 1 and loop._should_accumulate():
            return
        tokens = self.logger.tokens.take()
        tracker.log_training_step(self._loss, step, self._samples or None, **tokens)
        self._step, self._loss, self._samples = step, None, 0
        losses.look()

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Note that what follows is no training."""
        if self._tracker is not None:
            self.logger.run.stop_clock()

    # --- the checkpoint ---------------------------------------------------------------------------

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Put the run's id into it. Waits until the rows before it are on disk, up to 5 s."""
        if self._tracker is not None:
            self.logger.run.stop_clock()
        if state := self.logger.state():
            checkpoint[_KEY] = state
        self.logger.saving(checkpoint.get("global_step"))

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Go on with the checkpoint's run, where training goes on."""
        if trainer.state.fn == "fit":
            self.logger.go_on(checkpoint.get(_KEY))
