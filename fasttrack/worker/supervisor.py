"""Start delivery, hear what it reports, and start it again if it dies. Loads none of its code."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import time
from typing import TYPE_CHECKING, Protocol

from fasttrack.delivery.children import kill_children
from fasttrack.delivery.spawn import delivery_command, delivery_environment
from fasttrack.handler_errors import is_handlers
from fasttrack.journal.run_directory import log_path
from fasttrack.notices import gb, say
from fasttrack.worker.delivery_report import DeliveryReport
from fasttrack.worker.restarts import Restarts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

_LONGEST_POLL_S = 1.0  # between two looks; what is beyond it, nobody ran
_START_S = 300.0  # what a process may take to give its first sign of life: imports, mostly
_LEAST_SILENCE_S = 20.0  # at the end, where somebody waits for it
_POLL_S = 0.02
_SAY_EVERY_S = 10.0


class Delivery(Protocol):
    """A running delivery, wherever it runs. Threads: one at a time."""

    report: DeliveryReport

    @property
    def alive(self) -> bool:
        """Whether it is at work."""

    def poll(self) -> None:
        """Take in what was reported; start again what died. Never waits."""

    def wait(self, timeout_s: float, upload_timeout_s: float) -> bool:
        """Wait until delivery is over; return whether it is.

        Blocks for `timeout_s`, and up to `upload_timeout_s` longer while artifacts are uploaded.
        """

    def close(self) -> None:
        """Let go of delivery without stopping it: it is done, out of time, or the parent's."""


class NoDelivery:
    """For a run that keeps its journal only. Threads: any."""

    def __init__(self) -> None:
        """Be done."""
        self.report = DeliveryReport(())
        self.alive = False

    def poll(self) -> None:
        """Nothing to do."""

    def wait(self, timeout_s: float, upload_timeout_s: float) -> bool:
        """Be over at once."""
        return True

    def close(self) -> None:
        """Nothing to let go of."""


class DeliveryProcess:
    """Delivery in a process of its own.

    Threads: the worker polls; after the worker has ended, whoever finishes the run.
    """

    def __init__(
        self,
        segment: Path,
        backends: Sequence[str],
        warn: Callable[[str, str], None],
        *,
        silence_s: float = 120.0,
        lend_signals: Callable[[], int | None] = lambda: None,
        private: Mapping[str, str] | None = None,
        command: Callable[[Path], Sequence[str]] = delivery_command,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start the process for `segment`, which is being written; do not wait for it to be up.

        Args:
            segment: what to deliver.
            backends: where to.
            warn: tells the user something, once for each key.
            silence_s: after how long without a sign of life the process is replaced.
            lend_signals: returns a descriptor, to be closed, for `delivery/stuck_trainer.py`.
            private: environment variables that hold what nobody else may know.
            command: returns the command line that delivers a segment.
            clock: seconds.

        Raises:
            OSError: it could not be started.
        """
        self.report = DeliveryReport(backends)
        self._segment = segment
        self._log = log_path(segment.parent)
        self._warn = warn
        self._silence_s = silence_s
        self._lend_signals = lend_signals
        self._private = private or {}
        self._command = command
        self._clock = clock
        self._restarts = Restarts()
        self._restart_at_s: float | None = None
        self._polled_at_s = clock()
        self._reports = -1
        self._start()

    def _start(self) -> None:
        ours, theirs = os.pipe()
        os.set_blocking(ours, False)
        command = [*self._command(self._segment), "--trainer-pid", str(os.getpid())]
        command += ["--report-fd", str(theirs)]
        log_flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        log = signals = stderr = None
        try:
            log = os.open(self._log, log_flags, 0o600)
            signals = self._lend_signals()
            if signals is not None:
                command += ["--signals-fd", str(signals)]
            stderr = _lend_stderr()
            if stderr is not None:
                command += ["--stderr-fd", str(stderr)]
            self._process = subprocess.Popen(
                command,
                env={**delivery_environment(), **self._private},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                pass_fds=[fd for fd in (theirs, signals, stderr) if fd is not None],
                start_new_session=True,  # out of reach of the terminal's Ctrl-C
            )
        except OSError:
            os.close(ours)
            raise
        finally:
            os.close(theirs)
            for fd in (log, signals, stderr):
                if fd is not None:
                    os.close(fd)
        self._reports = ours
        self._partial = b""
        self._heard = False
        self._up_s = self._silent_s = 0.0

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def poll(self) -> None:
        """Take in reports; replace the process if it died, or lies still, before it was done."""
        now_s = self._clock()
        passed_s = min(now_s - self._polled_at_s, _LONGEST_POLL_S)  # more, and we did not run
        self._polled_at_s = now_s
        self._read_reports()
        if self.report.done or self.report.given_up is not None:
            return
        if self._process.poll() is None:
            self._listen(passed_s)
            return
        self._read_reports()  # what it wrote last
        if self.report.done:
            return
        if self._restart_at_s is None:
            self._plan_restart(now_s, f"ended (exit code {self._process.returncode})")
        elif now_s >= self._restart_at_s:
            self._restart(now_s)

    def _plan_restart(self, now_s: float, why: str) -> None:
        if self._journal_is_gone():
            self._restart_at_s = None
            self.report.given_up = f"the journal is lost: {self._segment} was deleted"
            self._warn("journal_gone", f"{self.report.given_up}, so that nothing more is delivered")
            return
        pause_s = self._restarts.next_pause_s()
        if pause_s is None:
            self.report.given_up = f"the delivery process {why} again and again; see {self._log}"
            self._warn(
                "delivery_given_up",
                f"{self.report.given_up}; it is started once more at finish(); "
                "all rows are kept in the journal; training goes on",
            )
            return
        self._restart_at_s = now_s + pause_s
        self._warn(
            "delivery_died",
            f"the delivery process {why} and is started again; nothing is lost; see {self._log}",
        )

    def _journal_is_gone(self) -> bool:
        try:
            os.stat(self._segment)
        except OSError as error:
            if is_handlers(error):
                raise
            return error.errno in (errno.ENOENT, errno.ENOTDIR)
        return False

    def _restart(self, now_s: float) -> None:
        self._restart_at_s = None
        self._close_reports()
        try:
            self._start()
        except OSError as error:
            if is_handlers(error):
                raise
            self._plan_restart(now_s, f"cannot be started ({error})")

    def _listen(self, passed_s: float) -> None:
        """End the process where it has given no sign of life for long."""
        self._up_s += passed_s
        self._silent_s += passed_s
        if self._silent_s < (self._silence_s if self._heard else max(self._silence_s, _START_S)):
            return
        self._warn(
            "delivery_silent",
            f"the delivery process has given no sign of life for {self._silent_s:.0f} s and is "
            "ended; nothing is lost",
        )
        self._silent_s = 0.0
        kill_children(self._process.pid)
        self._process.kill()  # ours, and not waited for: the number is nobody else's

    def _read_reports(self) -> None:
        while self._reports >= 0:
            try:
                data = os.read(self._reports, 65536)
            except BlockingIOError:
                return
            if not data:
                self._close_reports()
                return
            from fasttrack.delivery.events import Progress, decode  # the constructor needs it not

            self._heard, self._silent_s = True, 0.0
            *lines, self._partial = (self._partial + data).split(b"\n")
            for line in lines:
                try:
                    event = decode(line)
                except ValueError:  # torn: the pipe was full
                    continue
                if isinstance(event, Progress):
                    self._restarts.worked(self._up_s)
                self.report.apply(event, self._warn)

    def wait(self, timeout_s: float, upload_timeout_s: float) -> bool:
        """Wait until the process is done or given up on; one that has ended is started again now.

        Blocks as `Delivery.wait` says.
        """
        self._silence_s = min(self._silence_s, max(_LEAST_SILENCE_S, timeout_s / 3))
        asleep = self._restart_at_s is not None or self.report.given_up is not None
        if asleep and not self._journal_is_gone():
            self._restarts.renew()
            self.report.given_up = None
            self._restart_at_s = self._clock()
        return wait(self._look, self.report, timeout_s, upload_timeout_s)

    def _look(self) -> bool:
        self.poll()
        over = self.report.done or self.report.given_up is not None
        return over and self._process.poll() is not None

    def close(self) -> None:
        """Stop listening; the process, if it still runs, delivers on by itself."""
        self._close_reports()  # a worker that hangs may still poll
        if self._process.returncode is None:
            self._process.returncode = 0  # or Popen warns that it was left running

    def _close_reports(self) -> None:
        """Close the pipe; its number may be another file's from now on."""
        ours, self._reports = self._reports, -1
        if ours >= 0:
            os.close(ours)


def _lend_stderr() -> int | None:
    """Return a descriptor, to be closed, by which delivery says that this process has died.

    None where that is a pipe: who reads it to its end would wait for delivery.
    """
    try:
        if os.isatty(2) or stat.S_ISREG(os.fstat(2).st_mode):
            return os.dup(2)
    except OSError as error:  # it is closed
        if is_handlers(error):
            raise
    return None


def wait(
    is_over: Callable[[], bool],
    report: DeliveryReport,
    timeout_s: float,
    upload_timeout_s: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> bool:
    """Wait until `is_over`; return whether it is.

    Args:
        is_over: asked every 20 ms.
        report: tells of artifacts that are being uploaded, which is said every 10 s.
        timeout_s: seconds to wait; begins anew while artifacts are uploaded.
        upload_timeout_s: seconds beyond it that they may take.
        clock: seconds.
        pause: waits, in seconds.
    """
    deadline = clock() + timeout_s
    latest = deadline + upload_timeout_s
    say_at_s = clock() + _SAY_EVERY_S
    while not is_over():
        now_s = clock()
        if report.uploading:  # the run must still be finished and proven after the last one
            deadline = min(now_s + timeout_s, latest)
        if now_s >= deadline:
            return False
        if report.uploading and now_s >= say_at_s:  # somebody sits and waits for it
            say_at_s = now_s + _SAY_EVERY_S
            sent = f"; {gb(report.uploaded_bytes)} sent" if report.uploaded_bytes else ""
            say(f"waiting for {', '.join(report.uploading)}{sent}")
        pause(_POLL_S)
    return True
