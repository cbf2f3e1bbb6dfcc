"""A run's alerts, on disk, and who is still to be told of them."""

from __future__ import annotations

import copy
import threading
import time
from typing import TYPE_CHECKING

from fasttrack.journal.alerts import ASKED, Alert, Sending, load_alerts, save_alerts
from fasttrack.journal.run_directory import alerts_path

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from pathlib import Path

    from fasttrack.alerts.judge import Finding

_MOST_ALIKE = 20  # alerts of one cause, at whatever steps; more are noise
_MOST = 1000


class AlertBook:
    """What was found and who knows, written down before anybody is told.

    Threads: any.
    """

    def __init__(self, run_dir: Path, clock: Callable[[], float] = time.time) -> None:
        """Read what is known of the run in `run_dir`; nobody else may write it meanwhile."""
        self._path = alerts_path(run_dir)
        self._clock = clock
        self._changed = threading.Condition()
        self._alerts = load_alerts(self._path)
        self.error: str | None = None
        """Why the last change is not on disk; None: it is."""

    def add(self, finding: Finding, attempt: int, to: Sequence[str]) -> Alert | None:
        """Note what was found; None where it is known, or one of too many of its kind.

        Args:
            finding: what.
            attempt: of the run.
            to: who is to be told.
        """
        with self._changed:
            if any(alert.key == finding.key for alert in self._alerts):
                return None
            cause = finding.key.rpartition(":")[0]
            alike = sum(alert.key.rpartition(":")[0] == cause for alert in self._alerts)
            if (alike >= _MOST_ALIKE and finding.kind != ASKED) or len(self._alerts) >= _MOST:
                return None
            alert = Alert(
                time_s=finding.time_s,
                level=finding.level,
                title=finding.title,
                text=finding.text,
                kind=finding.kind,
                key=finding.key,
                step=finding.step,
                attempt=attempt,
                sent={name: Sending() for name in to},
            )
            self._alerts.append(alert)
            self._save()
        return alert

    def due(self, sink: str) -> list[Alert]:
        """Return the alerts that `sink` has not been told of, oldest first."""
        with self._changed:
            return self._due(sink)

    def wait_for(self, sink: str, left_out: Collection[str], timeout_s: float) -> Alert | None:
        """Return the oldest alert that is due and not among the keys in `left_out`.

        Blocks up to `timeout_s` until there is one.
        """
        with self._changed:
            found = self._next(sink, left_out)
            if found is None:
                self._changed.wait(timeout_s)
                found = self._next(sink, left_out)
            return found

    def wake(self) -> None:
        """Let nobody wait any longer."""
        with self._changed:
            self._changed.notify_all()

    def note(self, key: str, sink: str, why: str | None = None) -> None:
        """Note that `sink` was told of the alert with `key`, or why it was not."""
        with self._changed:
            for alert in self._alerts:
                if alert.key == key and sink in alert.sent:
                    sending = alert.sent[sink]
                    sending.done, sending.why, sending.time_s = why is None, why, self._clock()
                    sending.tries += why is not None
                    self._save()

    def alerts(self) -> list[Alert]:
        """Return all alerts, oldest first."""
        with self._changed:
            return copy.deepcopy(self._alerts)

    def _next(self, sink: str, left_out: Collection[str]) -> Alert | None:
        return next((alert for alert in self._due(sink) if alert.key not in left_out), None)

    def _due(self, sink: str) -> list[Alert]:
        waiting = (a for a in self._alerts if sink in a.sent and not a.sent[sink].done)
        return [copy.deepcopy(alert) for alert in waiting]

    def _save(self) -> None:
        self._changed.notify_all()
        try:
            save_alerts(self._path, self._alerts)
        except OSError as error:  # the disk is full: it is tried with the next change
            self.error = str(error.strerror or error)
        else:
            self.error = None
