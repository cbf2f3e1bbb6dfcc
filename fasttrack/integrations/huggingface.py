"""Hugging Face's Trainer, and what is built on it (TRL, LLaMA-Factory): one callback.

    import fasttrack.integrations.huggingface

    TrainingArguments(..., report_to="fasttrack")

or `Trainer(..., callbacks=[FasttrackCallback(project="digits")])`.

The Trainer calls no event when training raises, and keeps a loss that is no number to itself. So
importing this module has `Trainer.train` and `Trainer.training_step` tell the trainer's
`FasttrackCallback` of both; a trainer without one does what it did.
"""

from __future__ import annotations

import functools
import os
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from fasttrack.integrations.describing import (
    as_mapping,
    check_arguments,
    describe_training,
    rename,
)
from fasttrack.integrations.lasting_run import LastingRun
from fasttrack.integrations.nonfinite import NonfiniteLosses
from fasttrack.notices import say
from fasttrack.tracker import ExperimentTracker

try:
    from transformers import Trainer, TrainerCallback
    from transformers.integrations import integration_utils
    from transformers.trainer_callback import ExportableState
except ImportError as error:  # not there, or too old to keep a callback's state
    raise ImportError(
        "fasttrack.integrations.huggingface needs transformers: "
        "pip install 'fasttrack[huggingface]'"
    ) from error

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["FasttrackCallback"]

_SAVED_WITHIN_S = 5.0
_trainer: ContextVar[Trainer | None] = ContextVar("_trainer", default=None)
_FILTERED = "; by default (logging_nan_inf_filter) the Trainer reports 0.0 or an average for it"


class FasttrackCallback(TrainerCallback, ExportableState):  # type: ignore[misc]
    """Record what a Trainer reports: its logs, evaluations, throughput, configuration, checkpoints.

    The run begins with training. It goes on after it, so that a later `evaluate()` is in it, and
    ends with the program, or when another Trainer's run begins; one that training raises out of
    ends at once, as failed. Its id is in every checkpoint: `resume_from_checkpoint` goes on with
    it. Only the world's first process records.

    Threads: the Trainer's.
    """

    def __init__(
        self, tracker: ExperimentTracker | None = None, *, restored: bool = False, **arguments: Any
    ) -> None:
        """Prepare; the run begins with training.

        Args:
            tracker: one to log to, which stays yours to finish; None: the callback makes its own.
            restored: for the Trainer, which makes its callbacks anew from a checkpoint.
            **arguments: those of `ExperimentTracker`, for a tracker of its own. Other defaults:
                the project is WANDB_PROJECT, then the Trainer's; the name is its `run_name`; steps
                are logged every `logging_steps`; the configuration is the Trainer's arguments and
                the model's configuration, and `config` adds to it.

        Raises:
            ConfigurationError: an argument or environment variable is wrong.
            TypeError: an argument is not one of `ExperimentTracker`'s.
        """
        self._run = LastingRun(tracker)
        self._losses = NonfiniteLosses(self._run, _FILTERED)
        self._arguments = arguments
        self._training = False
        self._loss: Any = None
        self._tokens_seen = 0
        if restored:
            self._take_over()
        elif tracker is None:
            check_arguments(arguments)  # now, not after an hour of loading

    @property
    def run_id(self) -> str | None:
        """Of the run that goes on, once there is one."""
        return self._run.id

    @run_id.setter
    def run_id(self, run_id: str | None) -> None:
        self._run.id = run_id

    @property
    def first_nonfinite_step(self) -> int | None:
        """The first step of the run whose loss was NaN or infinite."""
        return self._losses.first_step

    @first_nonfinite_step.setter
    def first_nonfinite_step(self, step: int | None) -> None:
        self._losses.first_step = step

    # --- the checkpoint ---------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps. Waits until the rows before it are on disk, up to 5 s."""
        if self._run.tracker is not None:
            self._run.tracker.flush(_SAVED_WITHIN_S)
        return {
            "args": {"restored": True},
            "attributes": {
                "run_id": self.run_id,
                "first_nonfinite_step": self.first_nonfinite_step,
            },
        }

    def _take_over(self) -> None:
        """Become the callback that the Trainer replaces by this one: it has what the user gave."""
        for earlier in _callbacks_of(_trainer.get()):
            if type(earlier) is type(self):
                self.__dict__.update(vars(earlier))
                return

    def _remember(self, state: Any) -> None:
        """Go on with the run of the checkpoint that the Trainer has read, if it is of a run."""
        name = type(self).__name__
        # A Trainer that goes on from a checkpoint that has no such callback fails when it saves.
        kept = state.stateful_callbacks.setdefault(name, self.state())
        for one in kept if isinstance(kept, list) else [kept]:
            attributes = one.get("attributes", {})
            run_id = attributes.get("run_id")
            if run_id and run_id != self.run_id:
                self.run_id = run_id
                self.first_nonfinite_step = attributes.get("first_nonfinite_step")

    # --- the run ----------------------------------------------------------------------------------

    def _open(self, args: Any, state: Any, model: Any) -> ExperimentTracker | None:
        """Return the tracker, made if need be; None on other ranks, and where it cannot be made."""
        if not state.is_world_process_zero:
            return None
        return self._run.open(lambda run_id: self._make(run_id, args, state, model))

    def _make(self, run_id: str | None, args: Any, state: Any, model: Any) -> ExperimentTracker:
        given = self._arguments
        named = {"name": getattr(args, "run_name", None)}
        if getattr(state, "trial_name", None) is not None:  # of a search for hyperparameters
            named = {"name": state.trial_name, "group": args.run_name or args.output_dir}
        if not os.environ.get("WANDB_PROJECT"):
            named["project"] = getattr(args, "project", None) or "huggingface"
        every = state.logging_steps if args.logging_strategy == "steps" else 10
        return ExperimentTracker(
            **{
                **named,
                "log_interval": max(1, int(every)),
                **given,
                "config": {**describe_training(args, model), **as_mapping(given.get("config"))},
                "resume_id": run_id or given.get("resume_id"),
            }
        )

    def _end(self, exit_code: int = 0) -> None:
        self._training = False
        self._run.end(exit_code)

    def training_raised(self, error: BaseException) -> None:
        """End the run as failed: `error` leaves `Trainer.train`, which calls no event for it."""
        if self._training:
            self._training = False
            self._losses.look()
            self._run.fail(error)

    # --- the Trainer's events ---------------------------------------------------------------------

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin the run, or go on with the checkpoint's."""
        if state.is_hyper_param_search:  # each trial is a run
            self._run.forget()
            self.first_nonfinite_step = None
            state.stateful_callbacks.pop(type(self).__name__, None)
        self._losses.begin()
        self._tokens_seen = state.num_input_tokens_seen  # also those of the checkpoint
        self._remember(state)
        self._open(args, state, kwargs.get("model"))
        self._training = True

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note that training goes on."""
        self._run.resume_clock()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Log the step's throughput and loss, as often as the Trainer logs."""
        tracker, loss, tokens = self._run.tracker, self._loss, self._tokens(args, state)
        self._loss = None
        if tracker is None or not state.is_world_process_zero:
            return
        size = state.train_batch_size if args.auto_find_batch_size else args.train_batch_size
        samples = size * args.gradient_accumulation_steps
        counted: dict[str, Any] = {} if tokens is None else {"tokens": tokens}
        tracker.log_training_step(loss, state.global_step, samples, **counted)
        self._losses.look()
        self._stop_clock(control)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note an evaluation or a checkpoint to come."""
        self._stop_clock(control)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Log what the Trainer reports."""
        if logs and "loss" in logs:
            self._losses.look(idle=True)  # the Trainer has just waited for the device, to read it
        self._log(args, state, logs, kwargs.get("model"))

    def on_predict(
        self, args: Any, state: Any, control: Any, metrics: dict[str, Any], **kwargs: Any
    ) -> None:
        """Log what a prediction was measured by: the Trainer does not."""
        self._log(args, state, metrics, kwargs.get("model"))

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Upload the checkpoint, if WANDB_LOG_MODEL says so."""
        tracker = self._run.tracker
        if tracker is None or not state.is_world_process_zero:
            return
        path = os.path.join(args.output_dir, f"checkpoint-{state.global_step}")
        best = state.best_model_checkpoint
        is_best = best is not None and os.path.abspath(best) == os.path.abspath(path)
        aliases = ["latest", f"step{state.global_step}", *(["best"] if is_best else [])]
        tracker.log_checkpoint(path, aliases)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note that training is over; the run goes on."""
        self._training = False
        self._losses.end(state.global_step)
        self._run.rest()

    def _log(self, args: Any, state: Any, logs: Mapping[str, Any] | None, model: Any) -> None:
        if logs:
            tracker = self._open(args, state, model)
            if tracker is not None:
                named = {rename(name): value for name, value in logs.items()}
                tracker.log_metrics(named, state.global_step)

    def _tokens(self, args: Any, state: Any) -> float | None:
        """Return a rank's tokens since the last step, where the Trainer counts those of all."""
        before, self._tokens_seen = self._tokens_seen, state.num_input_tokens_seen
        if args.include_num_input_tokens_seen in ("no", False):
            return None
        return (self._tokens_seen - before) / args.world_size  # type: ignore[no-any-return]

    def note_loss(self, loss: Any, step: int) -> None:
        """Look at what `Trainer.training_step` returned for a batch of `step`. Never waits."""
        if self._run.tracker is not None:
            self._loss = self._losses.note(step, loss, self._loss)

    def _stop_clock(self, control: Any) -> None:
        if control.should_evaluate or control.should_save:
            self._run.stop_clock()


# --- the Trainer ----------------------------------------------------------------------------------


def _callbacks_of(trainer: Any) -> Iterator[FasttrackCallback]:
    handler = getattr(trainer, "callback_handler", None)
    for callback in getattr(handler, "callbacks", ()):
        if isinstance(callback, FasttrackCallback):
            yield callback


def _telling_what_it_raises(train: Any) -> Any:
    @functools.wraps(train)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        token = _trainer.set(self)
        try:
            return train(self, *args, **kwargs)
        except BaseException as error:
            for callback in list(_callbacks_of(self)):
                callback.training_raised(error)
            raise
        finally:
            _trainer.reset(token)

    return wrapper


def _telling_the_loss(training_step: Any) -> Any:
    @functools.wraps(training_step)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        loss = training_step(self, *args, **kwargs)
        for callback in _callbacks_of(self):
            callback.note_loss(loss, self.state.global_step + 1)
        return loss

    return wrapper


def _make_known() -> None:
    known = getattr(integration_utils, "INTEGRATION_TO_CALLBACK", None)
    if isinstance(known, dict):
        known["fasttrack"] = FasttrackCallback
    else:
        say(
            "this transformers takes no report_to='fasttrack': pass callbacks=[FasttrackCallback()]"
        )
    if Trainer.train.__globals__ is globals():  # the module is loaded again
        return
    Trainer.train = _telling_what_it_raises(Trainer.train)
    if hasattr(Trainer, "training_step"):
        Trainer.training_step = _telling_the_loss(Trainer.training_step)
    else:
        say("this transformers' Trainer shows no losses: a loss that is no number may go unseen")


_make_known()
