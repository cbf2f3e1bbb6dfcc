"""ExperimentTracker: the API, and the only place that wires the parts together."""

from __future__ import annotations

import enum
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from fasttrack import process_hooks
from fasttrack.artifacts.recorder import Recorder
from fasttrack.context.config import as_config, config_refusal, to_plain
from fasttrack.context.distributed import get_world_size, is_main_process
from fasttrack.context.identity import identify_trainer
from fasttrack.context.metadata import get_metadata
from fasttrack.context.naming import make_run_id, make_run_name
from fasttrack.context.redaction import redact
from fasttrack.errors import ConfigurationError, DirectoryError, FasttrackError
from fasttrack.hotpath.call_meter import LOGGED, METRICS, METRICS_EVERY, CallMeter
from fasttrack.hotpath.capture import Capture, Refused, describe, mark_streams, step_number
from fasttrack.hotpath.console import ConsoleCapture
from fasttrack.hotpath.deepspeed import deepspeed_loss_scale
from fasttrack.hotpath.gradients import GradientSource
from fasttrack.hotpath.records import Gradients
from fasttrack.hotpath.ring import Ring
from fasttrack.journal.entries import FORMAT_VERSION
from fasttrack.journal.run_directory import run_directory
from fasttrack.journal.writer import SegmentWriter
from fasttrack.notices import Notices, say
from fasttrack.options import Options
from fasttrack.settings import (
    resolve_base_dir,
    resolve_entity,
    resolve_log_model,
    resolve_mode,
    resolve_project,
)
from fasttrack.stats import Stats
from fasttrack.validation import (
    check_aliases,
    check_tags,
    require_integer,
    require_run_id,
    require_strings,
)
from fasttrack.worker.loop import Worker
from fasttrack.worker.meters import MOST_TICKS
from fasttrack.worker.overhead import Overhead
from fasttrack.worker.resolve import GRAD_NORM, LOSS, Resolver
from fasttrack.worker.supervisor import DeliveryProcess, DeliveryThread

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    import torch

    from fasttrack.audit.session import Audit
    from fasttrack.hotpath.records import Console, RawRecord
    from fasttrack.worker.supervisor import Delivery

REQUIRED_TAGS = ("model", "dataset", "objective", "experiment_group")

_GIB = 2**30
_CONSOLE_SLOTS = 4096
_PREEMPT_FLUSH_S = 5.0  # Slurm kills 30 s after SIGTERM by default; checkpoints come first


class State(enum.Enum):
    """A tracker's life."""

    RUNNING = enum.auto()
    FINISHING = enum.auto()
    FINISHED = enum.auto()
    INERT = enum.auto()  # another rank, disabled, or a forked child


_RUNNING = State.RUNNING
_INERT = State.INERT


class ExperimentTracker:
    """Track one training run: cheap calls in the loop, every row on disk, delivered to W&B.

    Only the main process records; on other ranks, and when disabled, every method answers and
    does nothing. Use it as a context manager: an exception that leaves the block marks the run as
    failed. After construction nothing raises into training.

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
        required_tags: Sequence[str] = REQUIRED_TAGS,
        options: Options | None = None,
    ) -> None:
        """Open the journal and start the worker and delivery.

        Never waits for the network: returns in well under a second. Arguments beat the
        environment.

        Args:
            project: W&B project; default WANDB_PROJECT, then "vla-lego".
            config: the training configuration: a mapping, dataclass, `argparse.Namespace`,
                OmegaConf or pydantic object. Values whose names look secret are redacted.
            tags: the run's tags, written to W&B as `name:value`; also the parts of its name.
            name: run name; default `{model}_{objective}_{dataset}_{YYYYMMDD}_{HHMMSS}_{commit}`.
            resume_id: the id of a run to go on with, from `get_run_id()`; None begins a new one.
            mode: "online", "offline" or "disabled"; default WANDB_MODE, then "online".
            entity: W&B user or team; default WANDB_ENTITY, then the account's own.
            enabled: False is the same as mode="disabled".
            log_interval: training steps between logged rows; a step is logged when
                `step % log_interval == 0`.
            gpu_stats_interval: training steps between samples of `gpu/` metrics, taken with the
                first logged step of each interval.
            group: W&B group; default the tag `experiment_group`.
            notes: free text for the run's page.
            required_tags: tags that must be there, unless a run is resumed without tags.
            options: everything else; see `Options`.

        Raises:
            ConfigurationError: an argument or environment variable is wrong.
            DirectoryError: the run's directory cannot be made or written.
        """
        options = Options() if options is None else options
        if not isinstance(options, Options):
            raise ConfigurationError(f"options must be fasttrack.Options, not {options!r}")
        chosen_mode = resolve_mode(mode, enabled)
        chosen_project = resolve_project(project)
        upload_models = resolve_log_model()
        require_integer("log_interval", log_interval, least=1)
        require_integer("gpu_stats_interval", gpu_stats_interval, least=1)
        require_strings(name=name, entity=entity, group=group, notes=notes)
        plain_config = as_config({} if config is None else config)
        if plain_config is None:
            raise ConfigurationError(config_refusal(config))
        require_run_id("resume_id", resume_id)
        needs_tags = chosen_mode != "disabled" and not (resume_id is not None and tags is None)
        chosen_tags = check_tags(tags, required_tags if needs_tags else ())

        self._options = options
        self._run_id = resume_id
        self._state = _INERT
        self._offline = chosen_mode == "offline"
        if chosen_mode == "disabled" or not is_main_process(options.log_rank):
            return

        now_s = time.time()
        self._run_id = resume_id or make_run_id()
        if name is None and chosen_tags and resume_id is None:
            name = make_run_name(chosen_tags, datetime.fromtimestamp(now_s))
        self._run_dir = run_directory(resolve_base_dir(), self._run_id)
        header = to_plain(
            {
                "version": FORMAT_VERSION,
                "run_id": self._run_id,
                "resumed": resume_id is not None,
                "project": chosen_project,
                "entity": resolve_entity(entity),
                "name": name,
                "tags": [f"{key}:{value}" for key, value in chosen_tags.items()] or None,
                "group": group if group is not None else chosen_tags.get("experiment_group"),
                "notes": notes,
                "config": redact(plain_config),
                "mode": chosen_mode,
                "time": now_s,
                "console": options.console,
                "finish_timeout_s": options.finish_timeout_s,
                "upload_timeout_s": options.upload_timeout_s,
                "online_timeout_s": options.online_timeout_s,
                "world_size": get_world_size(),
                **identify_trainer(),
            }
        )
        try:
            writer = SegmentWriter(self._run_dir, header)
        except OSError as error:
            raise DirectoryError(
                f"cannot write run files to {self._run_dir}: {error}; "
                "set WANDB_DIR to a directory that can be written"
            ) from error

        # caller thread
        self._log_interval = log_interval
        self._notices = Notices()
        self._ring: Ring[RawRecord] = Ring(options.ring_capacity, options.full_wait_s)
        self._capture = Capture(options.capture)
        self._gradients = GradientSource(
            options.grad_norm, int(options.grad_hold_limit_gb * _GIB), self._notices.warn
        )
        self._ticks: deque[tuple[float, Any]] = deque(maxlen=MOST_TICKS)
        self._lr_names: tuple[str, ...] = ("train/lr",)
        self._step: int | None = None
        self._calls = CallMeter()
        self._metrics_calls = 0
        # worker thread
        console_ring: Ring[Console] = Ring(_CONSOLE_SLOTS, 0.0)
        try:
            self._delivery = self._start_delivery(writer.path)
        except FasttrackError:
            writer.close()
            raise
        self._overhead = Overhead(
            self._calls,
            budget=options.overhead_budget,
            log_interval=log_interval,
            set_interval=self._set_interval,
            warn=self._notices.warn,
        )
        self._worker = Worker(
            self._ring,
            console_ring,
            Resolver(self._capture, self._gradients, self._notices),
            writer,
            self._notices,
            delivery=self._delivery,
            overhead=self._overhead,
            flush_interval_s=options.flush_interval_s,
            gpu_stats_interval=gpu_stats_interval,
        )
        self._worker.start()
        self._recorder = Recorder(
            self._run_id,
            writer.path,
            self._worker.write,
            self._notices,
            upload_models=upload_models,
        )
        self._recorder.record_metadata(get_metadata)
        # In the thread mode wandb, being in this process, captures the console by itself.
        capture_console = options.console and options.delivery == "process"
        self._console = ConsoleCapture(console_ring) if capture_console else None
        self._finish_lock = threading.Lock()
        self._state = _RUNNING
        process_hooks.register(self)

    def _set_interval(self, steps: int) -> None:
        self._log_interval = steps

    def _start_delivery(self, segment: Path) -> Delivery:
        if self._options.delivery == "thread":
            return DeliveryThread(segment, self._notices.warn, process_hooks.run_first_at_exit)
        try:
            return DeliveryProcess(segment, self._notices.warn)
        except OSError as error:
            raise FasttrackError(
                f"the delivery process could not be started ({sys.executable!r}: {error}); "
                "where Python is embedded, pass options=Options(delivery='thread')"
            ) from error

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
    ) -> None:
        """Queue this step's metrics. Never waits for the device, the disk or the network.

        Call it at every step: all but every `log_interval`-th return after noting the time, from
        which `perf/` metrics are made. Values are single numbers: floats, ints, bools, NumPy
        scalars, or one-element tensors on any device (pass `loss`, not `loss.item()`). Anything
        else is refused, counted and said once.

        Args:
            loss: the total loss, `loss/total`, of this rank (reduce it yourself if it must be
                global).
            step: the training step, an integer.
            batch_size: this rank's samples in the step, for `perf/samples_per_sec` (global).
            optimizer: `train/lr` is its first parameter group's; further groups are
                `train/lr/<name or number>`. DeepSpeed's tells its fp16 loss scale and grad norm.
            model: for `train/grad_norm`, the L2 norm over its gradients as they are at the call,
                so call before `zero_grad()`. A DeepSpeed engine gives its own, after `step()`.
            scaler: a GradScaler, for `train/amp_scale`.
            loss_ar: autoregressive part, `loss/ar`.
            loss_fm: flow-matching part, `loss/fm`.
            grad_norm: a norm that is known already, such as what `clip_grad_norm_` returned; it
                spares computing one and is the only right one for sharded gradients.
            extra: further metrics by name.
        """
        if self._state is not _RUNNING:
            if self._state is not _INERT:
                self._late_call()
            return
        try:
            if type(step) is not int:
                step = step_number(step)
            now_s = perf_counter()
            self._ticks.append((now_s, batch_size))
            self._step = step
            if step % self._log_interval:
                if step >= self._calls.next_step:
                    self._calls.time_skipped(now_s, step)
                return
            metrics: dict[str, Any] = {LOSS: loss}
            if loss_ar is not None:
                metrics["loss/ar"] = loss_ar
            if loss_fm is not None:
                metrics["loss/fm"] = loss_fm
            if optimizer is not None:
                self._add_learning_rates(metrics, optimizer)
            if scaler is not None:
                # get_scale() would wait for the device; _scale is the tensor behind it.
                scale = getattr(scaler, "_scale", None)
                metrics["train/amp_scale"] = scaler.get_scale() if scale is None else scale
            elif (scale := deepspeed_loss_scale(optimizer)) is not None:
                metrics["train/amp_scale"] = scale
            gradients = None
            if grad_norm is not None:
                metrics[GRAD_NORM] = grad_norm
            elif model is not None:
                gradients = self._add_grad_norm(metrics, model, optimizer)
            if extra is not None:
                metrics.update(extra)
            ticks = tuple(self._ticks)
            self._ticks.clear()
            self._push(step, metrics, ticks, gradients)
            self._calls.timed.append((LOGGED, perf_counter() - now_s, now_s))
        except Exception as error:  # nothing may raise into training
            self._failed_call("log_training_step", error)

    def log_metrics(self, metrics: Mapping[str, Any], step: int) -> None:
        """Queue any metrics for `step`, whatever the interval. Never waits, as `log_training_step`.

        Args:
            metrics: names (strings) to single numbers; see `log_training_step` for what counts.
            step: the training step they belong to, an integer. It may lie behind earlier ones.
        """
        if self._state is not _RUNNING:
            if self._state is not _INERT:
                self._late_call()
            return
        try:
            self._metrics_calls += 1
            start_s = 0.0 if self._metrics_calls % METRICS_EVERY else perf_counter()
            if type(step) is not int:
                step = step_number(step)
            try:
                values = {**metrics}
            except TypeError:
                raise Refused(f"metrics must be a mapping, not {describe(metrics)}") from None
            self._push(step, values, None, None)
            if start_s:
                self._calls.timed.append((METRICS, perf_counter() - start_s, start_s))
        except Exception as error:  # nothing may raise into training
            self._failed_call("log_metrics", error)

    def log_config(self, config: Any) -> None:
        """Record the full configuration: as the run's config, and as an artifact (YAML).

        Values whose names look secret are redacted. Blocks for one small file.

        Args:
            config: a mapping, dataclass, `argparse.Namespace`, OmegaConf or pydantic object. What
                in it has no plain form is written as text, and said.
        """
        if self._state is not _RUNNING:
            if self._state is not _INERT:
                self._late_call()
            return
        try:
            self._recorder.log_config(config, self._step)
        except Exception as error:  # nothing may raise into training
            self._failed_call("log_config", error)

    def log_checkpoint(
        self, path: str | Path, aliases: Sequence[str] = ("latest",), force: bool = False
    ) -> None:
        """Upload a checkpoint as a version of the artifact `model-<run id>`.

        Does nothing, and says so once, unless WANDB_LOG_MODEL is 1 or `force` is given. Returns
        as soon as the files are hard-linked into the run's directory, some system calls a file, so
        that the trainer may rotate or delete its own; across file systems they are held open and
        copied in the background. Hashing and uploading happen in the delivery process. Files
        overwritten in place after the call are noticed: then nothing is uploaded, which is said.

        Args:
            path: a file or a directory. Symbolic links are followed, loops and special files left
                out, which is said.
            aliases: names of this version, such as "latest", "best", "step1000".
            force: upload whatever WANDB_LOG_MODEL says.
        """
        if self._state is not _RUNNING:
            if self._state is not _INERT:
                self._late_call()
            return
        try:
            self._recorder.log_checkpoint(path, check_aliases(aliases), force, self._step)
        except Exception as error:  # nothing may raise into training
            self._failed_call("log_checkpoint", error)

    def _add_grad_norm(
        self, metrics: dict[str, Any], model: Any, optimizer: Any
    ) -> Gradients | None:
        try:
            norm = self._gradients.capture(model, optimizer)
        except Exception as error:  # the model's own code runs here; the row must not suffer
            self._notices.refuse(GRAD_NORM, repr(error))
            return None
        if isinstance(norm, Gradients):
            return norm
        if norm is not None:
            metrics[GRAD_NORM] = norm
        return None

    def _add_learning_rates(self, metrics: dict[str, Any], optimizer: Any) -> None:
        groups = optimizer.param_groups
        metrics["train/lr"] = groups[0]["lr"]
        if len(groups) == 1:
            return
        if len(groups) != len(self._lr_names):
            rest = [f"train/lr/{g.get('name', i)}" for i, g in enumerate(groups) if i > 0]
            self._lr_names = ("train/lr", *rest)
        for name, group in zip(self._lr_names, groups, strict=False):
            metrics[name] = group["lr"]

    def _push(
        self,
        step: int,
        values: dict[str, Any],
        ticks: tuple[tuple[float, Any], ...] | None,
        gradients: Gradients | None,
    ) -> None:
        pending = self._capture.mapping(values, self._notices.refuse)
        events: tuple[torch.Event, ...] = ()
        if pending is not None:
            for tensor in pending.values():
                if not tensor.is_cpu:
                    events = mark_streams({tensor.device for tensor in pending.values()})
                    break
        if gradients is not None:
            events += mark_streams(gradients.devices)
        pushed = self._ring.push((step, time.time(), values, pending, ticks, gradients, events))
        if gradients is not None:
            self._worker.wake()  # gradients are large, and may soon be zeroed in place
        if not pushed:
            self._notices.warn("ring", "the ring is full (the worker hangs?); rows are dropped")

    def _late_call(self) -> None:
        self._notices.count("late_calls")
        self._notices.warn("late", "a log call came after finish(); nothing is logged any more")

    def _failed_call(self, method: str, error: Exception) -> None:
        self._notices.count("failed_calls")
        known = isinstance(error, (Refused, FasttrackError))
        text = str(error) if known else repr(error)
        key = f"call:{method}:{type(error)}"
        self._notices.warn(key, f"{method}: {text}; the call was ignored")

    # --- asking ---------------------------------------------------------------------------------

    def get_run_id(self) -> str | None:
        """Return the run's id, to be kept in checkpoints and passed back as `resume_id`.

        On an inert tracker it is the `resume_id` that was given, if any.
        """
        return self._run_id

    def get_run_dir(self) -> Path | None:
        """Return the directory of the run's journal, `wandb/fasttrack/<run id>`; None if inert."""
        return None if self._state is _INERT else self._run_dir

    def get_run_url(self) -> str | None:
        """Return the run's page, or None while it is offline or not known yet. Never waits."""
        return None if self._state is _INERT else self._delivery.state.url

    def is_active(self) -> bool:
        """Return whether this process records: the right rank, enabled, not finished."""
        return self._state is _RUNNING

    def is_offline(self) -> bool:
        """Return whether rows go to a local W&B directory for now (asked for, or fallen back)."""
        return self._offline or (self._state is not _INERT and self._delivery.state.offline)

    def stats(self) -> Stats:
        """Return what was written, delivered and lost so far. Never waits."""
        if self._state is _INERT:
            return Stats(**dict.fromkeys(Stats.__slots__, 0))
        counts = self._notices.counts()
        p50_us, p99_us = self._calls.percentiles_us() or (0.0, 0.0)
        return Stats(
            rows_written=self._worker.rows_written,
            rows_delivered=self._delivery.state.rows,
            dropped=self._ring.dropped,
            refused=counts.get("refused", 0),
            stale=counts.get("stale", 0),
            out_of_order=counts.get("out_of_order", 0),
            journal_errors=counts.get("journal_error", 0),
            worker_errors=counts.get("worker_errors", 0),
            failed_calls=counts.get("failed_calls", 0),
            late_calls=counts.get("late_calls", 0),
            ring_high_water=self._worker.ring_high_water,
            delivery_lag_rows=self._worker.delivery_lag_rows,
            call_us_p50=p50_us,
            call_us_p99=p99_us,
            worker_cpu_pct=self._overhead.worker_cpu_pct,
            effective_interval=self._overhead.effective_interval,
        )

    def audit(self) -> Audit:
        """Return a context manager that reports the lines of its block that wait for the device.

        Some steps of the loop are enough: the block runs slower, each operation by microseconds.
        Its `findings` are for programs; the report goes to stderr. Without an accelerator that is
        said and the block just runs; on an inert tracker nothing is said either.
        """
        from fasttrack.audit.session import Audit  # few runs need it

        return Audit((), silent=True) if self._state is _INERT else Audit()

    # --- ending ---------------------------------------------------------------------------------

    def flush(self, timeout_s: float = 10.0) -> bool:
        """Wait until all that was logged so far is in the journal; return whether it is.

        Blocks up to `timeout_s` seconds, on the device and the disk, never on the network.
        """
        return self._worker.flush(timeout_s) if self._state is _RUNNING else True

    def finish(self, exit_code: int = 0, *, preempting: bool = False) -> None:
        """Write what is left, deliver it, and end the run. Idempotent.

        Blocks until everything is delivered, at most about `Options.finish_timeout_s`, longer only
        while artifacts are uploaded; what could not be delivered by then is named, with the command
        that delivers it.

        Args:
            exit_code: 0 marks the run as finished, anything else as failed.
            preempting: whether the job is to be requeued and the run to go on then; for programs
                with a SIGTERM handler of their own.
        """
        if self._state is not _RUNNING:
            return
        # Still running meanwhile: SIGTERM or Ctrl-C find a journal that they can end.
        if not self._recorder.wait(self._options.upload_timeout_s):
            self._notices.warn("copies", "a checkpoint is still being copied; it is not uploaded")
        with self._finish_lock:
            if self._state is not _RUNNING:
                return
            self._state = State.FINISHING
        try:
            deadline = time.monotonic() + self._options.finish_timeout_s
            if self._end_journal(exit_code, preempting, self._options.finish_timeout_s):
                left_s = max(0.0, deadline - time.monotonic())
                self._delivery.wait(left_s, self._options.upload_timeout_s)
            self._say_result()
        finally:
            self._state = State.FINISHED
            self._delivery.close()
            process_hooks.unregister(self)

    def _end_journal(self, exit_code: int, preempting: bool, timeout_s: float) -> bool:
        """Stop the worker and close the segment; return False where the worker hangs."""
        if self._console is not None:
            self._console.stop()
        if not self._worker.stop(timeout_s):
            self._notices.warn("stuck", "the worker waits for the device; its last rows are lost")
            return False
        now_s = time.time()
        self._worker.end_segment(
            {
                "exit_code": int(exit_code) if isinstance(exit_code, int) else 1,
                "preempting": preempting,
                "time": now_s,
                "deadline": now_s + timeout_s,
            }
        )
        return True

    def _say_result(self) -> None:
        stats, state = self.stats(), self._delivery.state
        lost = stats.dropped + stats.journal_errors + stats.worker_errors
        if lost:
            say(f"{lost} rows were lost; see stats()")
        if state.delivered and state.offline:
            say(f"rows kept: {stats.rows_written}, in {state.directory}")
        elif state.delivered:
            say(f"rows delivered: {stats.rows_written}. View run at: {state.url}")
        else:
            why = f" ({state.reason})" if state.reason else ""
            say(
                f"not all is delivered{why}; {stats.rows_written} rows are safe in "
                f"{self._run_dir}; to deliver: fasttrack sync {self._run_dir}"
            )

    def preempt(self) -> None:
        """Flush and mark the run as preempting; the process is about to end (SIGTERM)."""
        if self._state is _RUNNING:
            self._state = State.FINISHING
            if self._recorder.busy:
                self._notices.warn("copies", "SIGTERM cut off a copy; it is not uploaded")
            self._end_journal(process_hooks.SIGTERM_EXIT_CODE, True, _PREEMPT_FLUSH_S)
        elif self._state is State.FINISHING:  # finish() lies below this signal handler
            self._worker.stop(_PREEMPT_FLUSH_S)

    def become_inert(self) -> None:
        """Turn into an inert tracker; this process is a fork of the one that records."""
        if self._state is not _INERT:
            self._state = _INERT
            if self._console is not None:
                self._console.stop()
            self._delivery.close()

    def __enter__(self) -> ExperimentTracker:
        """Return the tracker."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Finish the run, as failed if an exception leaves the block (which goes on its way)."""
        self.finish(_exit_code(error))


def _exit_code(error: BaseException | None) -> int:
    if error is None:
        return 0
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    return 130 if isinstance(error, KeyboardInterrupt) else 1
