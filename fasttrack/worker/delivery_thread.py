"""Delivery in a thread of the training process; imported only where that is asked for.

It competes with training for the GIL (bench/README.md); a process is the default for that. And it
cannot be ended: where a client hangs for good, it is given up, and said.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from fasttrack.delivery.alerting.alerts import AlertMeans
from fasttrack.delivery.events import Event, Offline, Online, Trouble
from fasttrack.delivery.run_delivery import RunDelivery
from fasttrack.delivery.watchdog import Watchdog
from fasttrack.worker.delivery_report import DeliveryReport
from fasttrack.worker.supervisor import wait

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from fasttrack.alerts.settings import AlertSettings


class DeliveryThread:
    """Delivery for notebooks, and where `wandb.run` is needed in this process.

    Threads: as `DeliveryProcess`.
    """

    def __init__(
        self,
        segment: Path,
        backends: Sequence[str],
        warn: Callable[[str, str], None],
        on_open: Callable[[], None],
        alerts: AlertSettings,
    ) -> None:
        """Start the thread; `on_open` is called on it whenever a backend has opened a run."""
        self.report = DeliveryReport(backends)
        self._warn = warn
        self._on_open = on_open
        self._over = False
        self._ended = False  # as the thread says: where a signal handler raises in its `is_alive`,
        # one that runs is taken for ended (before Python 3.13)
        self._hung: set[str] = set()
        watchdog = Watchdog(on_cut=self._on_cut, on_hang=self._on_hang)
        self._delivery = RunDelivery(
            segment,
            trainer_alive=lambda: not self._over,
            report=self._apply,
            in_trainer=True,
            watchdog=watchdog,
            alert_means=AlertMeans(webhook=alerts.webhook, command=alerts.command),
        )
        watchdog.start()
        self._watchdog = watchdog
        self._thread = threading.Thread(target=self._run, name="fasttrack-delivery", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._delivery.follow()
        except Exception as error:  # the boundary of delivery: nothing may reach training
            self._warn("delivery_died", f"delivery ended: {error!r}; the journal keeps all rows")
        finally:
            self._ended = True
            self._watchdog.stop()

    def _on_cut(self, owner: str, why: str) -> None:
        self._apply(Trouble(backend=owner, reason=why))

    def _on_hang(self, owner: str, why: str) -> None:
        """Give up: a thread cannot be ended."""
        self._hung.add(owner)
        self._warn(
            f"delivery_hangs:{owner}",
            f"delivery hangs in the client ({owner}: {why}) and, being a thread, cannot be begun "
            "anew; all rows are kept in the journal, to be delivered when this program has ended",
        )

    def _is_over(self) -> bool:
        waiting = {name for name, known in self.report.backends.items() if known.done is None}
        return self._ended or (bool(self._hung) and waiting <= self._hung)

    def _apply(self, event: Event) -> None:
        if isinstance(event, (Online, Offline)):
            self._on_open()
        self.report.apply(event, self._warn)

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return not self._ended

    def poll(self) -> None:
        """Nothing to do: the thread reports by itself."""

    def wait(self, timeout_s: float, upload_timeout_s: float) -> bool:
        """Wait until the thread has delivered the finished journal."""
        return wait(self._is_over, self.report, timeout_s, upload_timeout_s)

    def close(self) -> None:
        """Tell the thread, should it still run, that no more rows will come."""
        self._over = True
