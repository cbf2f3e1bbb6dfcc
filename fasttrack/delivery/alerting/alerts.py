"""All about alerts in one run's delivery, wired: the watch, the book, and who is told."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fasttrack.alerts.judge import Judge
from fasttrack.alerts.settings import (
    COMMAND,
    COMMAND_VARIABLE,
    STDERR,
    WANDB,
    WEBHOOK,
    WEBHOOK_VARIABLE,
    AlertSettings,
)
from fasttrack.delivery.alerting.book import AlertBook
from fasttrack.delivery.alerting.handover import Handover
from fasttrack.delivery.alerting.message import message_of
from fasttrack.delivery.alerting.outlets import Command, Webhook
from fasttrack.delivery.alerting.sender import Sender
from fasttrack.delivery.alerting.standing import Standing
from fasttrack.delivery.alerting.watch import AlertWatch
from fasttrack.delivery.events import Said
from fasttrack.journal.alerts import ASKED
from fasttrack.redaction import redact_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from fasttrack.alerts.judge import Finding
    from fasttrack.delivery.alerting.message import Message
    from fasttrack.delivery.events import Event
    from fasttrack.journal.alerts import Alert
    from fasttrack.journal.entries import Header
    from fasttrack.journal.shared_reads import SharedReads

_TRAINER_WAITS_S = 5.0  # that an end may take longer for alerts, where somebody waits for it
_NOBODY_WAITS_S = 60.0
# What the training process says on its own stderr: twice would be noise.
_SAID_BY_TRAINER = ("training failed",)
_SAID_BY_WORKER = ("non_finite:loss/total:", "non_finite:layers:", "straggler:", "missing:")


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertMeans:
    """What this process has for alerts, beside what the run's header says."""

    webhook: str | None = None
    command: tuple[str, ...] = ()
    look: Callable[[], Standing] = Standing
    """Looks at the training process."""
    say_for_trainer: Callable[[str], bool] = lambda line: False
    """Writes a line where the training process writes its errors, for when it cannot do so itself;
    returns whether that was possible."""
    let_go: Callable[[], None] = lambda: None
    """Called when nothing more is to be said there."""


class Alerts:
    """The alerts of one run.

    Threads: `at_work` and `handover` on one; it has others of its own.
    """

    def __init__(
        self,
        segments: Sequence[Path],
        header: Header,
        means: AlertMeans,
        *,
        trainer_alive: Callable[[], bool] | None,
        report: Callable[[Event], None],
        url: Callable[[], str | None],
        reads: SharedReads | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Prepare; nothing is watched or sent yet.

        Args:
            segments: the run's, oldest first.
            header: the run's.
            means: what there is to tell people with.
            trainer_alive: tells whether more rows may come; None: nothing is watched, and what is
                due is sent.
            report: told what the trainer is to say.
            url: returns where to look at the run, once that is known.
            reads: what others in this process have read of the segments.
            clock: unix time in seconds.
        """
        self._header = header
        self._means = means
        self._trainer_alive = trainer_alive
        self._report = report
        self._url = url
        self._book = AlertBook(segments[0].parent, clock)
        self._settings = AlertSettings.of_entry(header.alerts)
        self._watch: AlertWatch | None = None
        if trainer_alive is not None and self._settings is not None:
            self._watch = AlertWatch(
                segments,
                Judge(self._settings),
                trainer_alive=trainer_alive,
                found=self._found,
                look=means.look,
                reads=reads,
                clock=clock,
            )
        self._senders = [
            Sender(sink, send, self._book, self._message, report) for sink, send in self._outlets()
        ]

    def _outlets(self) -> Iterator[tuple[str, Callable[[Message], None]]]:
        if self._means.webhook is not None:
            yield WEBHOOK, Webhook(self._means.webhook)
        if self._means.command:
            yield COMMAND, Command(self._means.command)

    def handover(self, backend: str) -> Handover | None:
        """Return what hands alerts to sessions of `backend`; None: it is to be told of none."""
        if backend != WANDB or not (self._watch is not None or self._book.due(backend)):
            return None
        expects = self._settings is not None and backend in self._settings.to
        return Handover(backend, self._book, self._message, self._decided, expects=expects)

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Watch and send during the block, and after it until the trainer has left."""
        for sender in self._senders:
            sender.start()
        self._say_what_is_due()
        if self._watch is not None:
            threading.Thread(target=self._run, name="alerts", daemon=True).start()
        else:
            self._means.let_go()
        try:
            yield
            if self._watch is not None:
                self._watch.wait(None)
        finally:
            self._close()

    def _run(self) -> None:
        assert self._watch is not None
        try:
            self._watch.run()
        except Exception as error:  # the boundary of alerts: delivery goes on
            self._report(Said(key="alerts", text=f"alerts have ended: {error!r}"))
        finally:
            self._means.let_go()

    def _decided(self, timeout_s: float) -> bool:
        return self._watch is None or self._watch.wait(timeout_s)

    def _close(self) -> None:
        somebody_waits = self._trainer_alive is not None and self._trainer_alive()
        deadline_s = time.monotonic() + (_TRAINER_WAITS_S if somebody_waits else _NOBODY_WAITS_S)
        for sender in self._senders:
            sender.drain(deadline_s)
            sender.close()
        if self._trainer_alive is None:
            for sink in (WEBHOOK, COMMAND):
                known = any(sender.sink == sink for sender in self._senders)
                if not known and (due := self._book.due(sink)):
                    text = f"alerts that wait for a {sink}: {len(due)}; {_how_to(sink)}"
                    self._report(Said(key=f"alerts:{sink}", text=text))
        if self._book.error is not None:
            text = f"alerts cannot be written down ({self._book.error}); some may come twice"
            self._report(Said(key="alerts_disk", text=text))

    # --- what is found ----------------------------------------------------------------------------

    def _found(self, finding: Finding, attempt: int) -> None:
        assert self._settings is not None
        to = [sink for sink in self._settings.to if sink != STDERR or not _is_said(finding)]
        if finding.kind == ASKED and WANDB in self._header.backends and WANDB not in to:
            to.append(WANDB)  # as the script asks W&B's client for it
        alert = self._book.add(finding, attempt, to)
        if alert is not None and STDERR in to:
            self._say(alert)

    def _say_what_is_due(self) -> None:
        """Say what the training process of an earlier attempt could not."""
        if self._watch is not None:
            for alert in self._book.due(STDERR):
                self._say(alert)

    def _say(self, alert: Alert) -> None:
        message = self._message(alert)
        text = f"alert: {message.words}"
        if alert.kind in ("crash", "hung"):  # then it cannot say anything itself
            said = self._means.say_for_trainer(redact_text(text))
            if not said and alert.kind == "crash" and not self._is_alive():
                return
        else:
            said = False
        if not said:
            self._report(Said(key=f"alert:{alert.key}", text=text))
        self._book.note(alert.key, STDERR)

    def _is_alive(self) -> bool:
        return self._trainer_alive is not None and self._trainer_alive()

    def _message(self, alert: Alert) -> Message:
        header = self._header
        return message_of(alert, header.run_id, header.name or header.run_id, self._url())


def _is_said(finding: Finding) -> bool:
    return finding.title in _SAID_BY_TRAINER or finding.key.startswith(_SAID_BY_WORKER)


def _how_to(sink: str) -> str:
    return f"set {WEBHOOK_VARIABLE if sink == WEBHOOK else COMMAND_VARIABLE} and sync again"
