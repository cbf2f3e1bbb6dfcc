"""Start delivery, hear what it reports, and start it again if it dies."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from fasttrack.artifacts.staging import gb
from fasttrack.delivery.spawn import delivery_command, delivery_environment
from fasttrack.notices import say

if TYPE_CHECKING:
    from collections.abc import Callable

OFFLINE_MESSAGE = "Offline mode. Run 'wandb sync' to upload later."
_RESTARTS = 5
_RESTART_PAUSE_S = 1.0  # doubled with every restart
_POLL_S = 0.02
_SAY_EVERY_S = 10.0


@dataclass
class DeliveryReport:
    """What delivery last reported. Threads: written by one, read by any."""

    url: str | None = None
    offline: bool = False
    directory: str | None = None
    rows: int = 0
    uploading: dict[int, str] = field(default_factory=dict)
    """Artifacts that are on their way: number to what it is."""
    uploaded_bytes: int | None = None
    """How much of the run's files was sent, while artifacts are waited for."""
    done: bool = False
    delivered: bool = False
    reason: str | None = None
    """Why not all is delivered, where that is known."""

    def apply(self, event: dict[str, Any], warn: Callable[[str, str], None]) -> None:
        """Take one report in, and tell the user, through `warn(key, text)`, what is news."""
        kind = event["event"]
        if kind == "online":
            self.offline = False
            self.url = event["url"]
            warn("online", f"View run at: {self.url}")
        elif kind == "offline":
            self.offline = True
            self.directory = event["directory"]
            if event["reason"]:
                warn("offline_reason", f"Network unavailable, logging offline: {event['reason']}")
            warn("offline", OFFLINE_MESSAGE)
        elif kind == "trouble":
            warn(
                f"trouble:{event['reason']}",
                f"delivery was interrupted ({event['reason']}); "
                "all rows are safe in the journal; training goes on",
            )
        elif kind == "progress":
            self.uploaded_bytes = event["uploaded_bytes"]
        elif kind == "upload":
            self._note_upload(event, warn)
        elif kind == "done":
            self.done = True
            self.delivered = event["delivered"]
            self.reason = event["reason"]
        self.rows = event.get("rows", self.rows)

    def _note_upload(self, event: dict[str, Any], warn: Callable[[str, str], None]) -> None:
        number, name = event["number"], event["name"]
        if event["state"] in ("hashing", "uploading"):
            self.uploading[number] = f"{name} ({gb(event['size_bytes'])}, {event['state']})"
            return
        self.uploading.pop(number, None)
        if event["state"] == "failed":
            warn(f"upload:{number}", f"artifact {name} was not uploaded: {event['reason']}")


class Delivery(Protocol):
    """A running courier, wherever it runs. Threads: one at a time."""

    report: DeliveryReport

    def poll(self) -> None:
        """Take in what was reported; mend what died. Never waits."""

    def wait(self, timeout_s: float, upload_timeout_s: float) -> bool:
        """Wait until delivery is over; return whether it is.

        Blocks for `timeout_s`, and up to `upload_timeout_s` longer while artifacts are uploaded.
        """

    def close(self) -> None:
        """Let go of the courier without stopping it: it is done, out of time, or the parent's."""


class DeliveryProcess:
    """Delivery in a process of its own.

    Threads: the worker polls; after the worker has ended, whoever finishes the run.
    """

    def __init__(self, segment: Path, warn: Callable[[str, str], None]) -> None:
        """Start the process for `segment`, which is being written; do not wait for it to be up.

        Raises:
            OSError: it could not be started.
        """
        self.report = DeliveryReport()
        self._segment = segment
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
            log = os.open(self._segment.with_name("delivery.log"), log_flags, 0o600)
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
                f"nothing is lost; see {self._segment.with_name('delivery.log')}",
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
                self.report.apply(json.loads(line), self._warn)

    def wait(self, timeout_s: float, upload_timeout_s: float) -> bool:
        """Wait until the process is done or given up on, restarting it if it dies."""
        return _wait(self._look, self.report, timeout_s, upload_timeout_s)

    def _look(self) -> bool:
        self.poll()
        return self._process.poll() is not None and (
            self.report.done or self._restarts >= _RESTARTS
        )

    def close(self) -> None:
        """Stop listening; the process, if it still runs, delivers on by itself."""
        ours, self._reports = self._reports, -1  # a worker that hangs may still poll
        os.close(ours)
        if self._process.returncode is None:
            self._process.returncode = 0  # or Popen warns that it was left running


class DeliveryThread:
    """Delivery in a thread of the training process: for notebooks, and where `wandb.run` is needed.

    It competes with training for the GIL (bench/README.md); the process is the default for that.
    Threads: as `DeliveryProcess`.
    """

    def __init__(
        self, segment: Path, warn: Callable[[str, str], None], on_open: Callable[[], None]
    ) -> None:
        """Start the thread; `on_open` is called on it whenever wandb has opened a run."""
        self.report = DeliveryReport()
        self._warn = warn
        self._on_open = on_open
        from fasttrack.delivery.backends.wandb.backend import WandbBackend
        from fasttrack.delivery.courier import Courier

        self._over = threading.Event()
        self._courier = Courier(
            segment,
            WandbBackend(in_trainer=True),
            trainer_alive=lambda: not self._over.is_set(),
            report=self._apply,
        )
        self._thread = threading.Thread(target=self._run, name="fasttrack-delivery", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._courier.run()
        except Exception as error:  # the boundary of delivery: nothing may reach training
            self._warn("delivery_died", f"delivery ended: {error!r}; the journal keeps all rows")
            self.report.done = True

    def _apply(self, event: dict[str, Any]) -> None:
        if event["event"] in ("online", "offline"):
            self._on_open()
        self.report.apply(event, self._warn)

    def poll(self) -> None:
        """Nothing to do: the thread reports by itself."""

    def wait(self, timeout_s: float, upload_timeout_s: float) -> bool:
        """Wait until the thread has delivered the finished journal."""
        return _wait(lambda: not self._thread.is_alive(), self.report, timeout_s, upload_timeout_s)

    def close(self) -> None:
        """Tell the thread, should it still run, that no more rows will come."""
        self._over.set()


def _wait(
    is_over: Callable[[], bool], report: DeliveryReport, timeout_s: float, upload_timeout_s: float
) -> bool:
    deadline = time.monotonic() + timeout_s
    latest = deadline + upload_timeout_s
    say_at_s = time.monotonic() + _SAY_EVERY_S
    while not is_over():
        now_s = time.monotonic()
        if report.uploading:  # the run must still be finished and proven after the last one
            deadline = min(now_s + timeout_s, latest)
        if now_s >= deadline:
            return False
        if report.uploading and now_s >= say_at_s:  # somebody sits and waits for it
            say_at_s = now_s + _SAY_EVERY_S
            sent = f"; {gb(report.uploaded_bytes)} sent" if report.uploaded_bytes else ""
            say(f"waiting for {', '.join(report.uploading.copy().values())}{sent}")
        time.sleep(_POLL_S)
    return True
