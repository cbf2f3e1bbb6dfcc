"""A recording run's end: its journal closed, its delivery proven or said not to be."""

from __future__ import annotations

import enum
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from fasttrack import process_hooks
from fasttrack.command import spell_command
from fasttrack.exit_codes import as_exit_code
from fasttrack.handler_errors import is_handlers
from fasttrack.journal.entries import Finish
from fasttrack.journal.run_directory import segments
from fasttrack.notices import say
from fasttrack.sigterm import SIGTERM_EXIT_CODE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fasttrack.artifacts.recorder import Recorder
    from fasttrack.hotpath.console import ConsoleCapture
    from fasttrack.hotpath.step_logger import StepLogger
    from fasttrack.notices import Notices
    from fasttrack.settings import RunSettings
    from fasttrack.stats import Stats
    from fasttrack.worker.delivery_report import BackendReport
    from fasttrack.worker.flight import FlightRecorder
    from fasttrack.worker.loop import Worker
    from fasttrack.worker.supervisor import Delivery

_CUT_SHORT_S = 2.0
_END_SOON_FLUSH_S = 5.0  # Slurm kills 30 s after SIGTERM by default; checkpoints come first
_POLL_S = 0.02


class Lifecycle(enum.Enum):
    """A recording run's life; it runs from its construction on."""

    RUNNING = "running"
    FINISHING = "finishing"
    FINISHED = "finished"
    """The journal is closed; delivery may still be at work."""


class Life:
    """End one run: in two steps, so that several runs' deliveries can be waited for together.

    Threads: `end` and `settle` from any, and from signal handlers; a second thread waits for the
    first, a handler that interrupted it does not. `end_soon` takes no lock: on SIGTERM it runs in
    the midst of whatever the main thread does, or beside it.
    """

    def __init__(
        self,
        settings: RunSettings,
        run_dir: Path,
        notices: Notices,
        *,
        name: str | None,
        worker: Worker,
        logger: StepLogger,
        recorder: Recorder,
        console: ConsoleCapture | None,
        delivery: Delivery,
        stats: Callable[[], Stats],
        on_fork: Callable[[], None],
        flight: FlightRecorder | None = None,
    ) -> None:
        """Look after a run whose parts are at work, until it is settled."""
        self._options = settings.options
        self._run_dir = run_dir
        self._name = name
        self._notices = notices
        self._worker = worker
        self._logger = logger
        self._recorder = recorder
        self._console = console
        self._delivery = delivery
        self._stats = stats
        self._on_fork = on_fork
        self._flight = flight
        self._waits = _waits_for_delivery(settings)
        self.lifecycle = Lifecycle.RUNNING
        self.before_end: Callable[[], object] | None = None
        """Called when the run is about to end, however it does, for what is still to be logged. It
        may run in a signal handler."""
        self._end_lock = threading.RLock()
        self._ending = False
        self._segment_closed = threading.Lock()  # held by whoever closes it, and from then on
        self._journal_whole = False
        self._deadline = 0.0
        self._settle_lock = threading.RLock()
        self._settling = False
        self._settled = False
        self._left = False  # to delivery, as is said

    @property
    def running(self) -> bool:
        """Whether it records."""
        return self.lifecycle is Lifecycle.RUNNING

    def finish(self, exit_code: Any, *, preempting: bool = False) -> None:
        """Do what `ExperimentTracker.finish` says."""
        if self.end(exit_code, preempting=preempting) and self._may_return():
            self._leave()
            process_hooks.settle_some()
        elif not self._left:
            self.settle()

    # --- the journal --------------------------------------------------------------------------

    def end(self, exit_code: Any, *, preempting: bool = False) -> bool:
        """Close the journal and log nothing any more; return whether this call did that.

        Blocks on the device, the disk and what is still being copied. What a signal handler raises
        meanwhile goes on its way; then a later call does the rest.
        """
        with self._end_lock:
            if self.lifecycle is Lifecycle.FINISHED or self._ending:
                return False
            self._ending = True
            try:
                self._end(as_exit_code(exit_code), bool(preempting))
            finally:
                self._ending = False
            return True

    def _end(self, exit_code: int, preempting: bool) -> None:
        options = self._options
        try:
            # Still running meanwhile: SIGTERM or Ctrl-C find a journal that they can end.
            whole = self._recorder.wait(options.upload_timeout_s)
            if not whole and not self._recorder.cut_short(_CUT_SHORT_S):
                self._notices.warn(
                    "copies", "a checkpoint is still being copied; it is not uploaded"
                )
            self._log_the_last()
            self.lifecycle = Lifecycle.FINISHING
            self._logger.close()
            self._deadline = time.monotonic() + options.finish_timeout_s
            self._journal_whole = self._close_segment(
                exit_code, preempting, options.finish_timeout_s, by_program=True
            )
        except Exception as error:  # nothing may raise into training
            if is_handlers(error):
                raise
            self._logger.failed_call("finish", error)
        self.lifecycle = Lifecycle.FINISHED
        process_hooks.ended(self)

    def _log_the_last(self) -> None:
        if self.before_end is not None:
            last, self.before_end = self.before_end, None
            try:
                last()
            except Exception as error:  # not ours: the run ends all the same
                if is_handlers(error):
                    raise
                self._logger.failed_call("before_end", error)

    def _close_segment(
        self, exit_code: int, preempting: bool, timeout_s: float, *, by_program: bool
    ) -> bool:
        """Stop the worker and close the segment; return False where the worker hangs.

        Args:
            exit_code: of the attempt.
            preempting: whether the run is to go on.
            timeout_s: that the worker may take.
            by_program: whether the program ends the run itself, else a signal does: one that was
                asked to leave and did so in its own time needs no record of its last steps.
        """
        terminated = preempting and exit_code == SIGTERM_EXIT_CODE
        error = sys.exc_info()[1]
        in_order = preempting and by_program and isinstance(error, SystemExit | None)
        if self._console is not None:
            self._console.stop()
        if self._flight is not None and not in_order:
            self._flight.ask_at_end(exit_code, terminated=terminated)
        if not self._worker.stop(timeout_s):
            if self._flight is not None:
                self._flight.dump_without_worker()
            self._notices.warn(
                "stuck",
                f"the worker waits for the device, or the disk, longer than {timeout_s:g} s; "
                f"{self._worker.left_behind} records are left behind",
            )
            return False
        if not self._segment_closed.acquire(blocking=False):
            return True
        now_s = time.time()
        try:
            self._worker.end_segment(
                Finish(
                    exit_code=exit_code,
                    preempting=preempting,
                    time_s=now_s,
                    deadline_s=now_s + timeout_s,
                    last_step=self._logger.training_step_number,
                )
            )
        except BaseException:  # a signal handler's: what calls next does it again
            self._segment_closed.release()
            raise
        return True

    def end_soon(self, exit_code: int, *, preempting: bool) -> None:
        """Flush and close the journal within seconds; the process is about to end.

        Unlike `end` it takes no lock, and waits for no copy.
        """
        if self.lifecycle is Lifecycle.FINISHED:
            return
        self._log_the_last()
        self.lifecycle = Lifecycle.FINISHING
        self._logger.close()
        if not self._recorder.cut_short(_CUT_SHORT_S):
            self._notices.warn("copies", "a copy was cut off; it is not uploaded")
        self._close_segment(exit_code, preempting, _END_SOON_FLUSH_S, by_program=False)

    # --- delivery -----------------------------------------------------------------------------

    def _may_return(self) -> bool:
        """Return whether the rest is delivery's, which is alive and needs nobody."""
        if self._waits == "finish" or not self._journal_whole or not self._delivery.alive:
            return False
        if not segments(self._run_dir):  # nothing can go on from it
            return False
        if self._waits == "never":  # nobody will look after it: it must have come up
            while not self._delivery.report.opened:
                self._delivery.poll()
                if not self._delivery.alive or time.monotonic() >= self._deadline:
                    return False
                time.sleep(_POLL_S)
        return not self._delivery.report.done

    def settle(self, *, wait: bool = True) -> bool:
        """Say what became of the run once delivery is over; return whether that is said.

        Args:
            wait: for delivery, up to the run's deadline; else only look.
        """
        with self._settle_lock:
            if self._settled or self._settling:
                return self._settled
            self._settling = True
            try:
                if not wait:
                    self._delivery.poll()
                if wait or self._delivery.report.done:
                    self._settle()
            finally:
                self._settling = False
            return self._settled

    def settle_at_exit(self) -> None:
        """Say what became of the run: wait for delivery as far as the user wants that at all."""
        alone = self._waits == "never" and not self.settle(wait=False)
        if alone and (self._left or self._may_return()):
            self._leave()
            self._delivery.close()
        else:
            self.settle()

    def _leave(self) -> None:
        if not self._left:
            self._left = True
            say(f"{self._kept(self._stats())}; delivery goes on beside this process")

    def _settle(self) -> None:
        try:
            if self._journal_whole and segments(self._run_dir):
                left_s = max(0.0, self._deadline - time.monotonic())
                self._delivery.wait(left_s, self._options.upload_timeout_s)
            self._say_result()
        except Exception as error:  # nothing may raise into training
            if is_handlers(error):
                raise
            self._logger.failed_call("finish", error)
        finally:  # also on Ctrl-C: delivery goes on by itself
            self._settled = True
            self._delivery.close()
            process_hooks.settled(self)

    def _say_result(self) -> None:
        stats, report = self._stats(), self._delivery.report
        self._logger.say_if_nothing_was_logged(
            self._worker.training_steps, stats.effective_interval
        )
        for line in stats.describe_losses():
            say(line)
        sync, show = (spell_command(verb, str(self._run_dir)) for verb in ("sync", "show"))
        if not report.backends:
            kept = f"rows kept: {stats.rows_written}, in {self._run_dir}"
            say(kept if segments(self._run_dir) else self._kept(stats))
        for name, known in report.backends.items():
            if known.done is not None and known.done.delivered:
                prefix = f"{name}: " if len(report.backends) > 1 else ""
                say(f"{prefix}{describe_delivered(known, stats.rows_written)}")
                if known.offline:
                    say(f"to upload: {sync}; to look: {show}")
        if not report.delivered:
            why = f" ({report.reason})" if report.reason else ""
            if segments(self._run_dir):
                kept = f"{self._kept(stats)}; to deliver: {sync}; to look: {show}"
            else:
                why, kept = "", self._kept(stats)
            say(f"not all is delivered{why}; {kept}")

    def _kept(self, stats: Stats) -> str:
        if not segments(self._run_dir):  # a client may have made the directory anew
            return f"the journal is lost: {self._run_dir} was deleted"
        return f"{stats.rows_written} rows are safe in {self._run_dir}"

    def point_out(self) -> None:
        """Say that the run is open, to somebody who begins another by hand."""
        if self.running:
            self._notices.warn(
                "still_open",
                f"the run {self._name} ({self._run_dir.name}) that this session began earlier is "
                "still open, and ends with the session; to end it yourself, call finish() on its "
                "tracker before you make another",
            )

    def leave_to_parent(self) -> None:
        """Let go of everything; this process is a fork of the one that records."""
        self.lifecycle = Lifecycle.FINISHED
        self._settled = True
        if self._console is not None:
            self._console.stop()
        self._delivery.close()
        self._on_fork()


def point_out_open_runs() -> None:
    """Say which runs are open, to somebody who begins another by hand."""
    for earlier in process_hooks.open_runs():
        if isinstance(earlier, Life):
            earlier.point_out()


def describe_delivered(report: BackendReport, rows: int) -> str:
    """Return where a person finds `rows` rows that a backend has proven to have."""
    if report.offline:
        return f"rows kept: {rows}, in {report.directory}"
    if report.url is not None:
        return f"rows delivered: {rows}. View run at: {report.url}"
    if report.look is not None:
        return f"rows delivered: {rows}; to look: {report.look}"
    return f"rows delivered: {rows}" + (f", in {report.directory}" if report.directory else "")


def _waits_for_delivery(settings: RunSettings) -> str:
    waits = settings.options.wait_for_delivery
    if waits != "auto":
        return waits
    # Somebody who types has no exit in sight, and may look at the files next.
    return "finish" if settings.mode == "online" or hasattr(sys, "ps1") else "exit"
