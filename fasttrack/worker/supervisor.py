"""Start delivery, hear what it reports, and start it again if it dies. Loads none of its code."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from fasttrack.artifacts.snapshot import gb
from fasttrack.delivery.events import (
    Done,
    LeftOut,
    Offline,
    Online,
    Progress,
    StopAsked,
    Trouble,
    Upload,
    decode,
)
from fasttrack.delivery.spawn import delivery_command, delivery_environment
from fasttrack.journal.run_directory import log_path
from fasttrack.notices import say

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from fasttrack.delivery.events import Event

OFFLINE_MESSAGE = "Offline mode. Run 'wandb sync' to upload later."
_RESTARTS = 5
_RESTART_PAUSE_S = 1.0  # doubled with every restart
_POLL_S = 0.02
_SAY_EVERY_S = 10.0


@dataclass
class BackendReport:
    """What delivery last reported of one backend. Threads: written by one, read by any."""

    url: str | None = None
    directory: str | None = None
    offline: bool = False
    rows: int = 0
    uploading: dict[int, str] = field(default_factory=dict)
    """Artifacts that are on their way: number to what it is."""
    uploaded_bytes: int | None = None
    """How much of the run's files was sent, while artifacts are waited for."""
    done: Done | None = None
    """The last word, once it was said."""


class DeliveryReport:
    """What delivery last reported, of all backends together.

    Threads: `apply` from one for each backend; the rest from any.
    """

    def __init__(self, backends: Sequence[str]) -> None:
        """Expect reports of `backends`; of none, all is done already."""
        self.backends = {name: BackendReport() for name in backends}
        self.stop_asked = False
        """Whether somebody at a destination asked the training to stop."""

    def apply(self, event: Event, warn: Callable[[str, str], None]) -> None:
        """Take one report in, and tell the user, through `warn(key, text)`, what is news."""
        if isinstance(event, StopAsked):
            self.stop_asked = True
        if not isinstance(event, (Online, Offline, Trouble, Progress, Upload, LeftOut, Done)):
            return
        known = self.backends.setdefault(event.backend, BackendReport())
        name = f"{event.backend}: " if len(self.backends) > 1 else ""
        if isinstance(event, Online):
            known.offline = False
            known.url, known.directory = event.url, event.directory
            if known.url is not None:
                warn(f"online:{event.backend}", f"View run at: {known.url}")
            elif known.directory is not None:
                warn(f"online:{event.backend}", f"{event.backend}: rows go to {known.directory}")
        elif isinstance(event, Offline):
            known.offline, known.directory = True, event.directory
            if event.reason:
                text = f"{name}Network unavailable, logging offline: {event.reason}"
                warn(f"offline_reason:{event.backend}", text)
            warn("offline", OFFLINE_MESSAGE)
        elif isinstance(event, Trouble):
            known.rows = event.rows
            warn(
                f"trouble:{event.backend}:{event.reason}",
                f"{name}delivery was interrupted ({event.reason}); "
                "all rows are safe in the journal; training goes on",
            )
        elif isinstance(event, Progress):
            known.rows, known.uploaded_bytes = event.rows, event.uploaded_bytes
        elif isinstance(event, LeftOut):
            text = f"{name}left out of delivery: {event.what}"
            warn(f"left_out:{event.backend}:{event.what}", text)
        elif isinstance(event, Upload):
            _note_upload(known, event, warn)
        else:
            known.done, known.rows = event, event.rows
            known.offline = event.offline if event.delivered else known.offline
            known.url = event.url or known.url
            known.directory = event.directory or known.directory

    @property
    def url(self) -> str | None:
        """Where a person looks at the run."""
        return next((known.url for known in self._all() if known.url is not None), None)

    @property
    def directory(self) -> str | None:
        """Where rows are delivered to on this machine."""
        return next((known.directory for known in self._all() if known.directory), None)

    @property
    def offline(self) -> bool:
        """Whether rows of a backend go to a local stand-in now."""
        return any(known.offline for known in self._all())

    @property
    def rows(self) -> int:
        """How many rows the slowest backend was handed."""
        return min((known.rows for known in self._all()), default=0)

    @property
    def uploading(self) -> list[str]:
        """The artifacts that are on their way."""
        return [what for known in self._all() for what in known.uploading.copy().values()]

    @property
    def uploaded_bytes(self) -> int:
        """How much of the run's files was sent, while artifacts are waited for."""
        return sum(known.uploaded_bytes or 0 for known in self._all())

    @property
    def done(self) -> bool:
        """Whether the last word of every backend was said."""
        return all(known.done is not None for known in self._all())

    @property
    def opened(self) -> bool:
        """Whether every backend has told where rows go to."""
        return all(known.url or known.directory for known in self._all())

    @property
    def delivered(self) -> bool:
        """Whether every backend has proven that it has all."""
        return all(known.done is not None and known.done.delivered for known in self._all())

    @property
    def reason(self) -> str | None:
        """Why not all is delivered, where that is known."""
        reasons = {
            name: known.done.reason
            for name, known in self.backends.copy().items()
            if known.done is not None and known.done.reason
        }
        several = len(self.backends) > 1
        told = [f"{name}: {reason}" if several else reason for name, reason in reasons.items()]
        return "; ".join(told) or None

    def _all(self) -> list[BackendReport]:
        return list(self.backends.copy().values())


def _note_upload(known: BackendReport, event: Upload, warn: Callable[[str, str], None]) -> None:
    if event.state in ("hashing", "uploading"):
        known.uploading[event.number] = f"{event.name} ({gb(event.size_bytes)}, {event.state})"
        return
    known.uploading.pop(event.number, None)
    if event.state == "failed":
        key = f"upload:{event.backend}:{event.number}"
        warn(key, f"artifact {event.name} was not uploaded: {event.reason}")


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
        self, segment: Path, backends: Sequence[str], warn: Callable[[str, str], None]
    ) -> None:
        """Start the process for `segment`, which is being written; do not wait for it to be up.

        Raises:
            OSError: it could not be started.
        """
        self.report = DeliveryReport(backends)
        self._segment = segment
        self._log = log_path(segment.parent)
        self._warn = warn
        self._restarts = 0
        self._start()

    def _start(self) -> None:
        ours, theirs = os.pipe()
        os.set_blocking(ours, False)
        command = delivery_command(self._segment)
        command += ["--trainer-pid", str(os.getpid()), "--report-fd", str(theirs)]
        log_flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        log = None
        try:
            log = os.open(self._log, log_flags, 0o600)
            self._process = subprocess.Popen(
                command,
                env=delivery_environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                pass_fds=(theirs,),
                start_new_session=True,  # out of reach of the terminal's Ctrl-C
            )
        except OSError:
            os.close(ours)
            raise
        finally:
            os.close(theirs)
            if log is not None:
                os.close(log)
        self._reports = ours
        self._partial = b""
        self._restart_at_s: float | None = None

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def poll(self) -> None:
        """Take in reports; restart the process if it died before it was done."""
        self._read_reports()
        if self.report.done or self._process.poll() is None:
            return
        self._read_reports()  # what it wrote last
        if self.report.done or self._restarts >= _RESTARTS:
            return
        now_s = time.monotonic()
        if self._restart_at_s is None:
            code = self._process.returncode
            self._restart_at_s = now_s + _RESTART_PAUSE_S * 2**self._restarts
            self._restarts += 1
            self._warn(
                "delivery_died",
                f"the delivery process ended (exit code {code}) and is started again; "
                f"nothing is lost; see {self._log}",
            )
        elif now_s >= self._restart_at_s:
            os.close(self._reports)
            self._start()

    def _read_reports(self) -> None:
        while self._reports >= 0:
            try:
                data = os.read(self._reports, 65536)
            except BlockingIOError:
                return
            if not data:
                return
            *lines, self._partial = (self._partial + data).split(b"\n")
            for line in lines:
                with contextlib.suppress(ValueError):  # torn: the pipe was full
                    self.report.apply(decode(line), self._warn)

    def wait(self, timeout_s: float, upload_timeout_s: float) -> bool:
        """Wait until the process is done or given up on, restarting it if it dies."""
        return wait(self._look, self.report, timeout_s, upload_timeout_s)

    def _look(self) -> bool:
        self.poll()
        over = self.report.done or self._restarts >= _RESTARTS
        return self._process.poll() is not None and over

    def close(self) -> None:
        """Stop listening; the process, if it still runs, delivers on by itself."""
        ours, self._reports = self._reports, -1  # a worker that hangs may still poll
        os.close(ours)
        if self._process.returncode is None:
            self._process.returncode = 0  # or Popen warns that it was left running


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
