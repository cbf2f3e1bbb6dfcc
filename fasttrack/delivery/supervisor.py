"""Start delivery, hear what it reports, and start it again if it dies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from fasttrack.delivery.backends.wandb import WandbBackend
from fasttrack.delivery.courier import OFFLINE_MESSAGE, Courier

if TYPE_CHECKING:
    from collections.abc import Callable

_RESTARTS = 5
_RESTART_PAUSE_S = 1.0  # doubled with every restart
_POLL_S = 0.02


@dataclass
class DeliveryState:
    """What delivery last reported. Threads: written by one, read by any."""

    url: str | None = None
    offline: bool = False
    directory: str | None = None
    rows: int = 0
    done: bool = False
    delivered: bool = False

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
        elif kind == "done":
            self.done = True
            self.delivered = event["delivered"]
        self.rows = event.get("rows", self.rows)


class Delivery(Protocol):
    """A running courier, wherever it runs. Threads: one at a time."""

    state: DeliveryState

    def poll(self) -> None:
        """Take in what was reported; mend what died. Never waits."""

    def wait(self, timeout_s: float) -> bool:
        """Wait until delivery is over; return whether it is."""

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
        self.state = DeliveryState()
        self._segment = segment
        self._warn = warn
        self._restarts = 0
        self._start()

    def _start(self) -> None:
        ours, theirs = os.pipe()
        os.set_blocking(ours, False)
        root = str(Path(__file__).resolve().parents[2])
        path = os.environ.get("PYTHONPATH")
        environment = {
            **os.environ,
            "PYTHONPATH": f"{root}{os.pathsep}{path}" if path else root,
            "PYTHONSAFEPATH": "1",  # a file queue.py beside the user's script is not ours to import
            "CUDA_VISIBLE_DEVICES": "",
        }
        command = [sys.executable, "-m", "fasttrack.delivery", str(self._segment)]
        command += ["--trainer-pid", str(os.getpid()), "--report-fd", str(theirs)]
        log_flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        log = None
        try:
            log = os.open(self._segment.with_name("delivery.log"), log_flags, 0o600)
            self._process = subprocess.Popen(
                command,
                env=environment,
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
        if self.state.done or self._process.poll() is None:
            return
        self._read_reports()  # what it wrote last
        if self.state.done or self._restarts >= _RESTARTS:
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
        while True:
            try:
                data = os.read(self._reports, 65536)
            except BlockingIOError:
                return
            if not data:
                return
            *lines, self._partial = (self._partial + data).split(b"\n")
            for line in lines:
                self.state.apply(json.loads(line), self._warn)

    def wait(self, timeout_s: float) -> bool:
        """Wait until the process is done or given up on, restarting it if it dies."""
        deadline = time.monotonic() + timeout_s
        while True:
            self.poll()
            over = self._process.poll() is not None and (
                self.state.done or self._restarts >= _RESTARTS
            )
            if over or time.monotonic() >= deadline:
                return over
            time.sleep(_POLL_S)

    def close(self) -> None:
        """Stop listening; the process, if it still runs, delivers on by itself."""
        os.close(self._reports)
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
        self.state = DeliveryState()
        self._warn = warn
        self._on_open = on_open
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
            self.state.done = True

    def _apply(self, event: dict[str, Any]) -> None:
        if event["event"] in ("online", "offline"):
            self._on_open()
        self.state.apply(event, self._warn)

    def poll(self) -> None:
        """Nothing to do: the thread reports by itself."""

    def wait(self, timeout_s: float) -> bool:
        """Wait until the thread has delivered the finished journal."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def close(self) -> None:
        """Tell the thread, should it still run, that no more rows will come."""
        self._over.set()
