"""Keras 3 on its torch backend: a callback.

    model.fit(x, y, callbacks=[FasttrackCallback(project="digits")])

Keras reads every batch's metrics off the device as soon as one callback has an
`on_train_batch_end`. This one has none: it takes the metrics, tensors still, when the next batch
begins.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from fasttrack.errors import ConfigurationError
from fasttrack.handler_errors import is_handlers
from fasttrack.integrations.describing import check_arguments
from fasttrack.notices import say
from fasttrack.tracker import ExperimentTracker

try:
    import keras
except ImportError as error:
    raise ImportError(
        "fasttrack.integrations.keras needs Keras: pip install 'fasttrack[keras]'"
    ) from error

__all__ = ["FasttrackCallback"]

_WRITTEN_WITHIN_S = 5.0


class FasttrackCallback(keras.callbacks.Callback):  # type: ignore[misc]
    """Record what `fit` reports: `batch/` metrics at each logged step, `epoch/` ones, throughput.

    A step is a batch that was trained on, counted from 1. The run begins with `fit` and ends with
    the program, as failed where that ends by an exception; another `fit` goes on with it.

    Threads: the training script's.
    """

    def __init__(self, run_file: str | Path | None = None, **arguments: Any) -> None:
        """Prepare; the run begins with training.

        Args:
            run_file: where the run's id stands until `fit` has ended: a program that is started
                again, with `BackupAndRestore`, goes on with the run. Before it in `callbacks=[]`,
                this callback has the rows on disk when a backup is made.
            **arguments: those of `ExperimentTracker`.

        Raises:
            ConfigurationError: Keras has another backend; or an argument is wrong.
            TypeError: an argument is not one of `ExperimentTracker`'s.
        """
        super().__init__()
        if keras.backend.backend() != "torch":
            raise ConfigurationError(
                f"the callback needs KERAS_BACKEND=torch, not {keras.backend.backend()}"
            )
        check_arguments(arguments)
        self.tracker: ExperimentTracker | None = None
        """The run's tracker, once `fit` has begun."""
        self._run_file = None if run_file is None else Path(run_file)
        self._arguments = arguments
        self._every = arguments.get("log_interval", 10)
        self._first: int | None = None  # steps before this epoch
        self._batch = 0

    def on_train_begin(self, logs: Any = None) -> None:
        """Begin the run, or go on with it."""
        self._first = None
        if self.tracker is not None and self.tracker.is_active():
            return
        given = dict(self._arguments)
        if self._run_file is not None:
            with suppress(OSError):
                given["resume_id"] = self._run_file.read_text(encoding="utf-8").strip()
        self.tracker = ExperimentTracker(**given)
        self.tracker.update_config(self._describe())
        run_id = self.tracker.get_run_id()
        if self._run_file is not None and run_id is not None and self.tracker.is_active():
            try:
                self._run_file.write_text(run_id, encoding="utf-8")
            except OSError as error:
                say(f"the run's id is not kept: {error}")

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Count on; a backup has been restored by now."""
        if self._first is None:
            optimizer = self.model.optimizer
            together = getattr(optimizer, "gradient_accumulation_steps", None) or 1
            self._first = 0 if optimizer is None else int(optimizer.iterations) * together
        self._batch = 0

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Log the step before."""
        if batch:
            self._log_step(batch)
        self._batch = batch

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Log the epoch's last step, then the epoch."""
        count = self._batch + (self.model.steps_per_execution or 1)
        count = min(count, self.params.get("steps") or count)
        logs = dict(logs or {})
        trained = {name: value for name, value in logs.items() if not name.startswith("val_")}
        self._log_step(count, trained)
        self._first = step = (self._first or 0) + count
        if self.tracker is not None:
            rate = getattr(self.model.optimizer, "learning_rate", None)
            row = {"epoch": epoch, "learning_rate": getattr(rate, "value", rate), **logs}
            told = {f"epoch/{name}": value for name, value in row.items() if value is not None}
            self.tracker.log_metrics(told, step)
            if self._run_file is not None:
                self.tracker.flush(_WRITTEN_WITHIN_S)

    def on_train_end(self, logs: Any = None) -> None:
        """Forget the run's id: the next program begins a run of its own."""
        if self._run_file is not None:
            with suppress(OSError):
                self._run_file.unlink()

    def _log_step(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        tracker = self.tracker
        if tracker is None:
            return
        step, extra = (self._first or 0) + batch, None
        if step % self._every == 0:
            if logs is None and not torch.distributed.is_initialized():  # else a collective
                with torch.no_grad():
                    logs = self.model.get_metrics_result()
            extra = {f"batch/{name}": value for name, value in (logs or {}).items()}
        tracker.log_training_step(None, step, extra=extra)

    def _describe(self) -> dict[str, Any]:
        found = {"epochs": self.params.get("epochs"), "steps_per_epoch": self.params.get("steps")}
        try:
            found["model/num_parameters"] = self.model.count_params()
            found["optimizer"] = self.model.optimizer.get_config()
        except Exception as error:  # not built yet, or the user's own
            if is_handlers(error):
                raise
            say(f"not all of the model is in the run's configuration: {error}")
        return found
