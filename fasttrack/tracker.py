"""ExperimentTracker: the API. What it does is `engine.py`'s and `hotpath/step_logger.py`'s."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import update_wrapper
from typing import TYPE_CHECKING, Any

from fasttrack.collective.calls import CollectiveCalls
from fasttrack.copies import OneOfAKind
from fasttrack.display import Shown
from fasttrack.exit_codes import exit_code_of
from fasttrack.opaque import hide_from_dynamo, opaque
from fasttrack.preemption.stopping import Stopping
from fasttrack.quick_calls import QuickCalls
from fasttrack.run_page import RunPage
from fasttrack.settings import resolve_settings
from fasttrack.stats import Stats
from fasttrack.timing_calls import TimingCalls

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import torch
    from typing_extensions import Self

    from fasttrack.audit.session import Audit
    from fasttrack.context.shared_id import SharedRunId
    from fasttrack.engine import Engine
    from fasttrack.nodes.member import Member
    from fasttrack.options import Options


class ExperimentTracker(QuickCalls, OneOfAKind, RunPage, TimingCalls, CollectiveCalls, Shown):
    """Track one training run: cheap calls in the loop, every row on disk, delivered to W&B.

    Only the main process records; on other ranks, and when disabled, every method answers and
    does nothing. Use it as a context manager: an exception that leaves the block marks the run as
    failed. After construction nothing raises into training.

    In a notebook, a tracker that is made while an earlier one is open leaves that one open: its
    run goes on, which is said. Call `finish()` before you make another.

    A copy (of what holds it, too) is the tracker itself, as is what is unpickled in its process; in
    another that is inert and knows the run's id and name. There, and in a forked child, a log call
    is ignored, counted, and said once.

    Threads: log from any; build, finish and close from one.
    """

    def __init__(
        self,
        project: str | None = None,
        config: Any = None,
        tags: Mapping[str, str] | None = None,
        name: str | None = None,
        resume_id: str | None = None,
        *,
        mode: str | None = None,
        entity: str | None = None,
        enabled: bool = True,
        log_interval: int = 10,
        gpu_stats_interval: int = 50,
        group: str | None = None,
        notes: str | None = None,
        required_tags: Sequence[str] | None = None,
        options: Options | None = None,
    ) -> None:
        """Open the journal and start the worker and delivery.

        Never waits for the network: returns in under a second. Arguments beat the environment.

        Args:
            project: W&B project; default WANDB_PROJECT, then "vla-lego".
            config: the training configuration: a mapping, dataclass, `argparse.Namespace`,
                OmegaConf or pydantic object. Values whose names look secret are redacted.
            tags: the run's tags, written to W&B as `name:value`; also the parts of its name.
            name: run name; default `{model}_{objective}_{dataset}_{YYYYMMDD}_{HHMMSS}_{commit}`,
                without these tags `{project}_{YYYYMMDD}_{HHMMSS}_{commit}`.
            resume_id: the id of a run to go on with, from `get_run_id()`; None begins a new one;
                "auto" goes on with the one that this job of Slurm's or torchrun's began before, and
                begins a new one otherwise.
            mode: "online", "offline" or "disabled"; default WANDB_MODE, then "online".
            entity: W&B user or team; default WANDB_ENTITY, then the account's own.
            enabled: False is the same as mode="disabled".
            log_interval: training steps between logged rows; a step is logged when
                `step % log_interval == 0`.
            gpu_stats_interval: training steps between samples of `gpu/` metrics, taken with the
                first logged step of each interval.
            group: W&B group; default the tag `experiment_group`.
            notes: free text for the run's page.
            required_tags: tags that must be there, unless a run is resumed without tags; default
                FASTTRACK_REQUIRED_TAGS, then, where tags are given, `model`, `dataset`,
                `objective` and `experiment_group`. () asks for none.
            options: everything else; see `Options`.

        Raises:
            ConfigurationError: an argument or environment variable is wrong.
            DirectoryError: the run's directory cannot be made or written.
            FasttrackError: the delivery process cannot be started.
        """
        settings = resolve_settings(
            project=project,
            config=config,
            tags=tags,
            name=name,
            resume_id=resume_id,
            mode=mode,
            entity=entity,
            enabled=enabled,
            log_interval=log_interval,
            gpu_stats_interval=gpu_stats_interval,
            group=group,
            notes=notes,
            required_tags=required_tags,
            options=options,
        )
        super().__init__()
        self._name = settings.name
        self._run_id = settings.run_id
        self._offline = settings.mode == "offline"
        self._engine: Engine | None = None
        self._shared_id: SharedRunId | None = None
        self._nodes: Member | None = None
        self._options = settings.options
        self._stopping = Stopping(settings.options)
        self._calls = self._stopping.calls  # one look-up nearer
        if settings.options.ranks == "all":
            from fasttrack.ranks.joining import join  # few runs need it

            self._engine, self._other = join(settings, hot=self, on_fork=self._stand_by)
        elif settings.records:
            from fasttrack.engine import Engine  # other ranks need none of what it loads

            self._engine = Engine(settings, hot=self, on_fork=self._stand_by)
        if settings.options.share_run_id and settings.mode != "disabled":
            from fasttrack.context.shared_id import SharedRunId

            self._shared_id = SharedRunId(publish=settings.run_id if settings.records else None)
        if settings.options.nodes == "all" and settings.mode != "disabled":
            from fasttrack.nodes.joining import sample_nodes

            self._nodes = sample_nodes(settings, self._engine)
        hide_from_dynamo()
        self._register()

    # --- logging: the caller's thread, microseconds ------------------------------------------

    def log_training_step(
        self,
        loss: Any,
        step: int,
        batch_size: int | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        model: torch.nn.Module | None = None,
        *,
        scaler: Any = None,
        loss_ar: Any = None,
        loss_fm: Any = None,
        grad_norm: Any = None,
        extra: Mapping[str, Any] | None = None,
        tokens: Any = None,
    ) -> None:
        """Queue this step's metrics. Never waits for the device, the disk or the network.

        Call it at every step: all but every `log_interval`-th return after noting the time, from
        which `perf/` metrics are made. Values are single numbers: floats, ints, bools, NumPy
        scalars, or one-element tensors on any device (pass `loss`, not `loss.item()`). Anything
        else is refused, counted and said once, with what to do instead. What is split over ranks
        (DTensors, a model of them) is reduced here with `Options(ranks="all")`: such calls wait for
        the other ranks', at most two minutes once; without it, it is refused.

        Args:
            loss: this rank's total loss, `loss/total` (`reduce` gives that of all). None where
                there is none to log, as in a trainer's callback.
            step: the training step, an integer.
            batch_size: this rank's samples in the step, for `perf/samples_per_sec` (global).
            optimizer: `train/lr` is its first parameter group's; further groups are
                `train/lr/<name or number>`. DeepSpeed's tells its fp16 loss scale and grad norm.
            model: for `train/grad_norm`, the L2 norm over its gradients as they are at the call,
                so call between `backward()` and `zero_grad()`. A DeepSpeed engine gives its own,
                after `step()`.
            scaler: a GradScaler, for `train/amp_scale`. With it and `optimizer` at every call the
                norm is that of unscaled gradients, wherever you call; without it what is logged
                before `scaler.step()` is scaled, which cannot be seen.
            loss_ar: autoregressive part, `loss/ar`.
            loss_fm: flow-matching part, `loss/fm`.
            grad_norm: a norm that is known already: what `clip_grad_norm_` returned, or, for
                sharded gradients, `reduce_grad_norm`.
            extra: further metrics by name; nested as in `log_metrics`.
            tokens: this rank's tokens in the step, for `perf/tokens_per_sec` (global); pass them
                at every step (docs/throughput.md). A tensor must be in the host's memory.
        """
        self._quick_training_step(
            loss,
            step,
            batch_size,
            optimizer,
            model,
            scaler=scaler,
            loss_ar=loss_ar,
            loss_fm=loss_fm,
            grad_norm=grad_norm,
            extra=extra,
            tokens=tokens,
        )

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Queue any metrics for `step`, whatever the interval. Never waits, as `log_training_step`.

        Args:
            metrics: names (strings) to single numbers; see `log_training_step` for what counts.
                What stands in mappings is logged under dotted names, as W&B shows it:
                `{"val": {"loss": 0.1}}` is `val.loss`, at any depth.
            step: the training step they belong to, an integer. It may lie behind earlier ones.
                None: that of the last call that had one, of this method or `log_training_step`,
                whether or not it was logged; 0 before any.
        """
        self._quick_metrics(metrics, step)

    def log_config(self, config: Any) -> None:
        """Record the full configuration: as the run's config, and as an artifact (YAML).

        Values whose names look secret are redacted. Blocks for one small file. Where no backend
        of the run takes files (TensorBoard, trackio, "none"), there is no artifact.

        Args:
            config: a mapping, dataclass, `argparse.Namespace`, OmegaConf or pydantic object. What
                in it has no plain form is written as text, and said.
        """
        if self._engine is not None:
            self._engine.log_config(config)
        elif self._logger is not None:
            self._logger.late_call()

    def log_checkpoint(
        self, path: str | Path, aliases: Sequence[str] = ("latest",), force: bool = False
    ) -> None:
        """Upload a checkpoint as a version of the artifact `model-<run id>`.

        Does nothing, and says so once, unless WANDB_LOG_MODEL is 1 or `force` is given, or where
        no backend of the run takes files. When it returns, the contents are the run's own: delete,
        rotate and overwrite yours at once. Call it when the save is complete: after `result()` of
        an asynchronous one, and after a barrier where other ranks save, too.

        Blocks while the files are cloned or copied on the disk, about as long as saving them took,
        at most `Options.checkpoint_wait_s`; hashing and uploading are the delivery process's. What
        goes wrong, such as a file that is written to meanwhile, is counted and said.

        Args:
            path: a file or a directory. Symbolic links are followed, loops and special files left
                out, which is said.
            aliases: names of this version, such as "latest", "best", "step1000".
            force: upload whatever WANDB_LOG_MODEL says.
        """
        if self._engine is not None:
            self._engine.log_checkpoint(path, aliases, force)
        elif self._logger is not None:
            self._logger.late_call()

    # --- asking, and being asked to stop --------------------------------------------------------

    def should_stop(self) -> bool:
        """Return whether training is asked to stop: save a checkpoint then, `finish()` and leave.

        Call it once a step, on every rank that trains, whether it records or not: it looks at a
        flag. All ranks get True at the same call, some seconds after the first was asked to stop:
        they agree through torch.distributed's key-value store, without a collective. Only calls in
        these seconds may wait, until the slowest rank has heard of it. Once True, it stays True.

        Asked to stop is a program by SIGTERM and SIGUSR1 (`Options.stop_signals`) on any rank, by
        the near end of its Slurm job (`Options.stop_before_end_s`), by W&B's stop button, by
        `fasttrack stop RUN`, and by `request_stop()`. The first call begins to listen: until then a
        signal does what it did. Make it early, on the main thread.
        """
        calls = self._calls
        calls.newest = number = calls.newest + 1
        return number >= calls.limit and self._stopping.look(number, self._engine)

    def stop_reason(self) -> str | None:
        """Return why `should_stop()` is True, the same on all ranks; None while it is False.

        The signal's name, "time_limit", "wandb" (its stop button), "command" (`fasttrack stop`), or
        what `request_stop` was given.
        """
        return self._stopping.reason

    def request_stop(self, reason: str = "request") -> None:
        """Have `should_stop()` answer True, on all ranks. For signal handlers of your own, too.

        Never waits. Call `should_stop()` once before, to listen.
        """
        self._stopping.request(reason)

    def get_run_id(self) -> str | None:
        """Return the run's id, to be kept in checkpoints and passed back as `resume_id`.

        Where this process does not record (another rank, disabled), that is the `resume_id` that
        was given, else None. With `Options(share_run_id=True)` every rank gets the recording one's
        id: another rank's first call waits up to 30 s for it; in vain it is None, which is said.
        """
        if self._run_id is None and self._shared_id is not None:
            return self._shared_id.get()
        return self._run_id

    def get_run_name(self) -> str | None:
        """Return the run's name; None where this process does not record and none was given."""
        return self._name if self._engine is None else self._engine.name

    def is_active(self) -> bool:
        """Return whether this process records: the right rank, enabled, not finished."""
        return self._engine is not None and self._engine.running

    def is_offline(self) -> bool:
        """Return whether rows go to a local W&B directory for now (asked for, or fallen back)."""
        return self._offline if self._engine is None else self._engine.offline

    def stats(self) -> Stats:
        """Return what was written, delivered and lost so far. Never waits."""
        if (run := self._engine or self._other) is not None:
            return run.stats()
        ignored = getattr(self._logger, "calls", 0)  # a bystander's
        return dataclasses.replace(Stats.of_nothing(), late_calls=ignored)

    def audit(self) -> Audit:
        """Return a context manager that reports the lines of its block that wait for the device.

        Some steps of the loop are enough: each operation runs slower by microseconds. `findings`
        are for programs; the report goes to stderr, also that there is no accelerator. On an inert
        tracker the block just runs.
        """
        from fasttrack.audit.session import Audit  # few runs need it

        return Audit((), silent=True) if self._engine is None else Audit()

    # --- ending ---------------------------------------------------------------------------------

    def flush(self, timeout_s: float = 10.0) -> bool:
        """Wait until all that was logged so far is in the journal; return whether it is.

        Blocks up to `timeout_s` seconds, on the device and the disk, never on the network.
        """
        return True if self._engine is None else self._engine.flush(timeout_s)

    def finish(self, exit_code: int = 0, *, preempting: bool = False) -> None:
        """Write what is left, deliver it, end the run, and say where it is. Idempotent.

        Blocks until everything is delivered, at most about `Options.finish_timeout_s`, longer only
        while artifacts are uploaded; what could not be delivered by then is named, with the command
        that delivers it.

        Args:
            exit_code: 0 marks the run as finished, anything else as failed.
            preempting: whether the job is to be requeued and the run to go on then; for programs
                with a SIGTERM handler of their own.
        """
        self._stopping.close()
        if self._nodes is not None:
            self._nodes.close()
        if (run := self._engine or self._other) is not None:
            run.finish(exit_code, preempting=preempting)

    def __enter__(self) -> Self:
        """Return the tracker."""
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        """Finish the run, as failed if an exception leaves the block (which goes on its way)."""
        self.finish(exit_code_of(error))


# What is called are the quick ones themselves, described as above: their signature is not the whole
# one (`QuickCalls` says why), and one call more would cost a sixth.
for _quick, _described in (
    (QuickCalls._quick_training_step, ExperimentTracker.log_training_step),
    (QuickCalls._quick_metrics, ExperimentTracker.log_metrics),
):
    setattr(ExperimentTracker, _described.__name__, update_wrapper(_quick, _described))
for _name in ("log_training_step", "log_metrics"):
    opaque(getattr(ExperimentTracker, _name))  # no decorator: type checkers see less through one
