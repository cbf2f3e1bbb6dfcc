"""Tell one place of alerts, on a thread of its own: it may hang or fail, and holds up nobody."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import tenacity

from fasttrack.delivery.alerting.message import SendError
from fasttrack.delivery.events import Said

if TYPE_CHECKING:
    from collections.abc import Callable

    from fasttrack.delivery.alerting.book import AlertBook
    from fasttrack.delivery.alerting.message import Message
    from fasttrack.delivery.events import Event
    from fasttrack.journal.alerts import Alert

_TRIES = 5  # of one alert by one process; the next one, and `fasttrack sync`, try again
_LONGEST_PAUSE_S = 60.0
_POLL_S = 1.0


class Sender:
    """Send what is due.

    Threads: its own sends; the others from any.
    """

    def __init__(
        self,
        sink: str,
        send: Callable[[Message], None],
        book: AlertBook,
        message: Callable[[Alert], Message],
        report: Callable[[Event], None],
        *,
        pause: Callable[[float], None] | None = None,
    ) -> None:
        """Prepare.

        Args:
            sink: its name in the book.
            send: sends one message; raises SendError.
            book: the run's alerts.
            message: returns what is sent of an alert.
            report: told what goes wrong.
            pause: waits between two tries, in seconds; None: it is broken off by `close`.
        """
        self.sink = sink
        self._send = send
        self._book = book
        self._message = message
        self._report = report
        self._closed = threading.Event()
        self._pause = pause or self._wait
        self._given_up: set[str] = set()  # keys
        self._thread = threading.Thread(target=self._run, name=f"alerts-{sink}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def drain(self, deadline_s: float) -> bool:
        """Wait until nothing is due but what was tried in vain; return whether nothing is.

        Args:
            deadline_s: until when, on the clock of `time.monotonic`.
        """
        while self._book.wait_for(self.sink, self._given_up, 0) is not None:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0 or not self._thread.is_alive():
                break
            self._thread.join(min(left_s, 0.05))
        return not self._book.due(self.sink)

    def close(self) -> None:
        """Begin no further try; one that is under way ends with the process."""
        self._closed.set()
        self._book.wake()

    def _run(self) -> None:
        while not self._closed.is_set():
            alert = self._book.wait_for(self.sink, self._given_up, _POLL_S)
            if alert is not None and not self._closed.is_set():
                self._send_patiently(alert)

    def _wait(self, seconds: float) -> None:
        self._closed.wait(seconds)

    def _send_patiently(self, alert: Alert) -> None:
        retrying = tenacity.Retrying(
            stop=tenacity.stop_any(
                tenacity.stop_after_attempt(_TRIES), tenacity.stop_when_event_set(self._closed)
            ),
            wait=tenacity.wait_exponential(multiplier=0.5, max=_LONGEST_PAUSE_S)
            + tenacity.wait_random(0.0, 0.2),
            retry=tenacity.retry_if_exception(
                lambda error: isinstance(error, SendError) and not error.final
            ),
            sleep=self._pause,
            reraise=True,
        )
        try:
            retrying(self._try, alert)
        except SendError as error:
            self._given_up.add(alert.key)
            self._report(
                Said(
                    key=f"alerts:{self.sink}",
                    text=f"an alert did not reach the {self.sink} ({error}); "
                    "it is kept, and sent with the next delivery of the run",
                )
            )

    def _try(self, alert: Alert) -> None:
        try:
            self._send(self._message(alert))
        except SendError as error:
            self._book.note(alert.key, self.sink, str(error))
            raise
        self._book.note(alert.key, self.sink)
