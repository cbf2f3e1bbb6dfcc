"""One recording run: its parts wired together, and its life from the first call to the last row."""

from __future__ import annotations

import contextlib
import math
import sys
from typing import TYPE_CHECKING, Any

from fasttrack import process_hooks
from fasttrack.artifacts.recorder import Recorder
from fasttrack.context.identity import identify_trainer
from fasttrack.delivery.backends.registry import BACKENDS
from fasttrack.errors import DirectoryError, FasttrackError
from fasttrack.handler_errors import is_handlers
from fasttrack.hotpath.call_meter import CallMeter
from fasttrack.hotpath.capture import Capture
from fasttrack.hotpath.console import ConsoleCapture
from fasttrack.hotpath.gradients import GradientSource
from fasttrack.hotpath.media import MediaBudget, MediaIntake
from fasttrack.hotpath.ring import Ring
from fasttrack.journal.backwards import last_row
from fasttrack.journal.entries import FORMAT_VERSION, Header, Page, merge_headers
from fasttrack.journal.run_directory import run_directory, segments, stop_path
from fasttrack.journal.writer import SegmentWriter
from fasttrack.life import Life, point_out_open_runs
from fasttrack.notices import Notices, say, spell
from fasttrack.preemption.stop_button import StopButton
from fasttrack.preemption.stop_file import StopFile
from fasttrack.stats import Stats
from fasttrack.validation import artifact_name, check_aliases
from fasttrack.worker.loop import Worker
from fasttrack.worker.media import MediaFiles
from fasttrack.worker.overhead import Overhead
from fasttrack.worker.resolve import Resolver
from fasttrack.worker.supervisor import DeliveryProcess, NoDelivery
from fasttrack.worker.watching import logger_for, watch_steps

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from fasttrack.hotpath.records import Console, RawRecord
    from fasttrack.hotpath.step_logger import StepLogger
    from fasttrack.preemption.watch import Source
    from fasttrack.quick_calls import QuickCalls
    from fasttrack.settings import RunSettings
    from fasttrack.worker.supervisor import Delivery

_GIB = 2**30
_CONSOLE_SLOTS = 4096
_FLUSH_S = 10.0  # that a flush waits where it is given no number


class Engine:
    """The parts of one run, and its life.

    Threads: built on one; the rest from any, signal handlers included.
    """

    def __init__(self, settings: RunSettings, hot: QuickCalls, on_fork: Callable[[], None]) -> None:
        """Open the journal and start the worker and delivery. Never waits for the network.

        Args:
            settings: of a run that records.
            hot: the tracker's calls, which get their logger.
            on_fork: called in a forked child, where the run is the parent's.

        Raises:
            DirectoryError: the run's directory cannot be made or written.
            FasttrackError: the delivery process cannot be started.
        """
        assert settings.run_id is not None
        options = settings.options
        self.settings = settings
        self.run_id = settings.run_id
        self.run_dir = run_directory(settings.base_dir, settings.run_id)
        self.notices = Notices()
        writer = _open_journal(self.run_dir, settings)
        self._note_in_job()
        self.name = settings.name if settings.name is not None else _earlier_name(self.run_dir)
        """Of a resumed run for which none is given: what it was begun with here."""
        process_hooks.SIGTERM.take()
        try:
            self.delivery = self._start_delivery(writer.path)
        except FasttrackError:
            writer.close()
            process_hooks.give_back_if_idle()
            raise
        # caller thread
        ring: Ring[RawRecord] = Ring(options.ring_capacity, options.full_wait_s)
        console_ring: Ring[Console] = Ring(_CONSOLE_SLOTS, 0.0)
        capture = Capture(options.capture)
        gradients = GradientSource(
            options.grad_norm, int(options.grad_hold_limit_gb * _GIB), self.notices.warn
        )
        budget = MediaBudget(options.media_limit_mb)
        self._ring = ring
        self.segment = writer.path
        self._calls = CallMeter()
        # worker thread
        resolver = Resolver(capture, gradients, self.notices, hot._ticks)
        watch = watch_steps(options, writer.path, resolver, gradients, self.notices)
        self._overhead = Overhead(
            self._calls,
            budget=options.overhead_budget,
            log_interval=settings.log_interval,
            set_interval=lambda steps: self.logger.set_interval(steps),
            warn=self.notices.warn,
        )
        self._worker = Worker(
            ring,
            console_ring,
            resolver,
            writer,
            self.notices,
            delivery=self.delivery,
            overhead=self._overhead,
            flush_interval_s=options.flush_interval_s,
            gpu_stats_interval=settings.gpu_stats_interval,
            every_interval=process_hooks.SIGTERM.refresh,
            options=options,
            media=MediaFiles(self.run_dir, self.notices, budget.give_back),
            watch=watch,
        )
        self._media = MediaIntake(ring, budget, self.notices, self._worker.wake)
        self.logger: StepLogger = logger_for(watch)(
            hot,
            ring,
            capture,
            gradients,
            self._calls,
            self.notices,
            log_interval=settings.log_interval,
            wake=self._worker.wake,
            open_pauses=self._worker.open_pauses,
        )
        self.beside = self._worker.beside
        """Where rows of no logged call go, from any thread; written once there is another row."""
        self._worker.start()
        self._recorder = Recorder(
            self.run_id,
            writer.path,
            self._worker.write,
            self.notices,
            upload_models=settings.upload_models,
            takes_artifacts=any(BACKENDS[name].takes_artifacts for name in settings.backends),
            copy_wait_s=options.checkpoint_wait_s,
            is_offline=lambda: self.offline,
        )
        self._recorder.record_metadata(_find_metadata)
        self._console = ConsoleCapture(console_ring) if settings.console else None
        if hasattr(sys, "ps1"):  # somebody types; the cell that made a tracker may be run again
            point_out_open_runs()
        self._life = Life(
            settings,
            self.run_dir,
            self.notices,
            name=self.name,
            worker=self._worker,
            logger=self.logger,
            recorder=self._recorder,
            console=self._console,
            delivery=self.delivery,
            stats=self.stats,
            on_fork=on_fork,
            flight=None if watch is None else watch.flight,
        )
        process_hooks.register(self._life)

    def _start_delivery(self, segment: Path) -> Delivery:
        backends = self.settings.backends
        alerts = self.settings.alerts
        if not backends and not alerts.are_told(backends):
            return NoDelivery()
        if self.settings.options.delivery == "thread":
            from fasttrack.worker.delivery_thread import DeliveryThread  # few runs want its imports

            return DeliveryThread(
                segment, backends, self.notices.warn, process_hooks.run_first_at_exit, alerts
            )
        try:
            return DeliveryProcess(
                segment,
                backends,
                self.notices.warn,
                silence_s=2 * self.settings.options.hang_timeout_s,
                lend_signals=process_hooks.SIGTERM.lend,
                private=alerts.private(),
            )
        except OSError as error:
            raise FasttrackError(
                f"the delivery process could not be started ({sys.executable!r}: {error}); "
                "where Python is embedded, pass options=Options(delivery='thread')"
            ) from error

    def _note_in_job(self) -> None:
        if (job_runs := self.settings.job_runs) is None:
            return
        if text := job_runs.describe(self.run_id, found=self.settings.resumed):
            say(text)
        try:
            job_runs.note(self.run_id)
        except OSError as error:
            self.notices.warn("job_runs", f"this job, requeued, will not find its run: {error}")

    # --- what is no row ---------------------------------------------------------------------------

    def update_config(self, config: Any) -> None:
        """Do what `ExperimentTracker.update_config` says."""
        self._record("update_config", lambda: self._recorder.update_config(config))

    def log_config(self, config: Any) -> None:
        """Do what `ExperimentTracker.log_config` says."""
        step = self.logger.training_step_number
        self._record("log_config", lambda: self._recorder.log_config(config, step))

    def log_checkpoint(self, path: str | Path, aliases: Sequence[str], force: bool) -> None:
        """Do what `ExperimentTracker.log_checkpoint` says."""
        step = self.logger.training_step_number
        self._record(
            "log_checkpoint",
            lambda: self._recorder.log_checkpoint(path, check_aliases(aliases), force, step),
        )

    def log_artifact(self, path: str | Path, name: str, kind: str, aliases: Sequence[str]) -> None:
        """Do what `ExperimentTracker.log_artifact` says."""
        step = self.logger.training_step_number
        self._record(
            "log_artifact",
            lambda: self._recorder.log_checkpoint(
                path, check_aliases(aliases), True, step, kind=kind, name=artifact_name(name)
            ),
        )

    def log_media(self, name: Any, value: Any, step: Any) -> None:
        """Do what `ExperimentTracker.log_media` says."""
        self._record("log_media", lambda: self._media.take(name, value, self.logger.step_of(step)))

    def describe(self, make: Callable[[], Page]) -> None:
        """Do what `ExperimentTracker.describe` says, of what `make` returns."""
        self._record("describe", lambda: self._recorder.describe(make()))

    def alert(self, title: Any, text: Any, level: Any, *, heard: bool) -> None:
        """Do what `ExperimentTracker.alert` says; `heard`: whether anybody tells the run's."""
        step = self.logger.training_step_number
        self._record("alert", lambda: self._recorder.alert(title, text, level, step, heard=heard))

    def before_end(self, log_the_last: Callable[[], object]) -> None:
        """Call `log_the_last` when the run is about to end. See `Life.before_end`."""
        self._life.before_end = log_the_last

    def _record(self, method: str, record: Callable[[], object]) -> None:
        if not self.running:
            self.logger.late_call()
            return
        try:
            record()
        except Exception as error:  # nothing of ours may raise into training
            if is_handlers(error):
                raise
            self.logger.failed_call(method, error)

    # --- asking -----------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether it records."""
        return self._life.running

    @property
    def offline(self) -> bool:
        """Whether offline was asked for, or a backend fell back to it."""
        return self.settings.mode == "offline" or self.delivery.report.offline

    def earlier_step(self) -> int | None:
        """Return the step of the last row that an earlier attempt left here. Reads the disk."""
        for path in reversed([each for each in segments(self.run_dir) if each != self.segment]):
            with contextlib.suppress(OSError):
                if (row := last_row(path)) is not None:
                    return row.step
        return None

    def stop_sources(self) -> list[Source]:
        """Return who may ask this run's program to stop, beside signals and Slurm."""
        report = self.delivery.report
        return [StopFile(stop_path(self.segment)), StopButton(lambda: report.stop_asked)]

    def state_and_link(self) -> tuple[str, str]:
        """Return in words what the run does, and where to look at it."""
        state = f"{self._life.lifecycle.value}{', offline' if self.offline else ''}"
        return state, self.delivery.report.url or str(self.run_dir)

    def stats(self) -> Stats:
        """Return what was written, delivered and lost so far. Never waits."""
        counts = self.notices.counts()
        p50_us, p99_us = self._calls.percentiles_us() or (0.0, 0.0)
        return Stats(
            rows_written=self._worker.rows_written,
            rows_delivered=self.delivery.report.rows,
            dropped=self._ring.dropped,
            refused=counts.get("refused", 0),
            stale=counts.get("stale", 0),
            out_of_order=counts.get("out_of_order", 0),
            journal_errors=counts.get("journal_error", 0),
            worker_errors=counts.get("worker_errors", 0),
            cut_off=self._worker.left_behind,
            failed_calls=counts.get("failed_calls", 0),
            late_calls=counts.get("late_calls", 0),
            media_dropped=counts.get("media_dropped", 0),
            ring_high_water=self._worker.ring_high_water,
            delivery_lag_rows=self._worker.delivery_lag_rows,
            call_us_p50=p50_us,
            call_us_p99=p99_us,
            worker_cpu_pct=self._overhead.worker_cpu_pct,
            effective_interval=self._overhead.effective_interval,
            reasons=self.notices.reasons(),
        )

    # --- ending -----------------------------------------------------------------------------------

    def flush(self, timeout_s: Any) -> bool:
        """Wait until all that was logged so far is in the journal; return whether it is."""
        return not self.running or self._worker.flush(self._seconds(timeout_s))

    def _seconds(self, timeout_s: Any) -> float:
        try:
            seconds = float(timeout_s)
        except Exception as error:  # of whatever class it is
            if is_handlers(error):
                raise
            seconds = math.nan
        if math.isnan(seconds):
            text = f"flush: timeout_s must be a number, not {spell(timeout_s)}"
            self.notices.warn("timeout_s", f"{text}; {_FLUSH_S:g} is taken")
            return _FLUSH_S
        return seconds

    def finish(self, exit_code: Any = 0, *, preempting: bool = False) -> None:
        """Do what `ExperimentTracker.finish` says."""
        self._life.finish(exit_code, preempting=preempting)


def _open_journal(run_dir: Path, settings: RunSettings) -> SegmentWriter:
    header = _make_header(settings)
    try:
        return SegmentWriter(run_dir, header)
    except OSError as error:
        raise DirectoryError(
            f"cannot write run files to {run_dir}: {error}; "
            "set WANDB_DIR to a directory that can be written"
        ) from error


def _find_metadata() -> dict[str, Any]:
    from fasttrack.context.metadata import get_metadata  # its thread's to load, and not waited for

    return get_metadata()


def _earlier_name(run_dir: Path) -> str | None:
    from fasttrack.journal.reader import read_header  # only a resumed run needs it

    merged = merge_headers([found for path in segments(run_dir) if (found := read_header(path))])
    return None if merged is None else merged.name


def _make_header(settings: RunSettings) -> Header:
    assert settings.run_id is not None
    trainer = identify_trainer()
    return Header(
        version=FORMAT_VERSION,
        run_id=settings.run_id,
        resumed=settings.resumed,
        project=settings.project,
        entity=settings.entity,
        name=settings.name,
        tags=tuple(f"{key}:{value}" for key, value in settings.tags.items()) or None,
        group=settings.group,
        notes=settings.notes,
        config=settings.config,
        mode=settings.mode,
        backends=settings.backends,
        time_s=settings.began_s,
        world_size=settings.world_size,
        console=settings.console,
        sweep_id=settings.sweep_id,
        finish_timeout_s=settings.options.finish_timeout_s,
        upload_timeout_s=settings.options.upload_timeout_s,
        online_timeout_s=settings.options.online_timeout_s,
        hang_timeout_s=settings.options.hang_timeout_s,
        alerts=settings.alerts.as_entry(),
        pid=trainer.pid,
        host=trainer.host,
        executable=trainer.executable,
        argv=trainer.argv,
        program=trainer.program,
        program_relpath=trainer.program_relpath,
        cwd=trainer.cwd,
    )
