"""Hand alerts to a destination that has alerts of its own, within its courier's sessions."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Callable

    from fasttrack.delivery.alerting.book import AlertBook
    from fasttrack.delivery.alerting.message import Message
    from fasttrack.journal.alerts import Alert

_SURE_S = 5.0  # after which a session that still lives has sent what it took
_ALIKE = 40  # characters by which titles count as alike: a destination may cut them off
_DECIDED_S = 5.0  # that the watch may take, at the end, to decide on the last rows


@runtime_checkable
class Alertable(Protocol):
    """What a session can do whose destination has alerts."""

    def alert(self, title: str, text: str, level: str, *, nth: int) -> None:
        """Send an alert.

        Args:
            title: what it is about, in short.
            text: all of it.
            level: "INFO", "WARN" or "ERROR".
            nth: the how manieth it is, from 1, of the run's whose titles begin alike.

        Raises:
            BackendLostError: the destination is gone.
        """


class Handover:
    """The alerts that one backend is to be told of.

    Those that a session took, and whose end was not seen, the next session takes again: W&B itself
    drops one that it has.

    Threads: the courier's.
    """

    def __init__(
        self,
        backend: str,
        book: AlertBook,
        message: Callable[[Alert], Message],
        decided: Callable[[float], bool],
        clock: Callable[[], float] = time.monotonic,
        *,
        expects: bool = True,
    ) -> None:
        """Hand over what `book` has for `backend`; `decided` waits until all is in it.

        Args:
            backend: which.
            book: the run's alerts.
            message: returns what is sent of one.
            decided: waits, for so many seconds at most, until all is in the book.
            clock: in seconds.
            expects: whether any alert may be for the backend; False: only those that are asked for.
        """
        self._backend = backend
        self._book = book
        self._message = message
        self._decided = decided
        self._clock = clock
        self._expects = expects
        self._taken: dict[str, float] = {}  # by key: when

    def begin(self) -> None:
        """Begin with a new session."""
        self._taken.clear()

    def expect(self) -> None:
        """Note that the program asks for an alert, which the watch puts into the book."""
        self._expects = True

    def send(self, session: object) -> None:
        """Hand over what is due, and note what has arrived. Never waits.

        Raises:
            BackendLostError: the session is gone.
        """
        if not isinstance(session, Alertable):
            return
        now_s = self._clock()
        for alert in self._book.due(self._backend):
            since_s = self._taken.get(alert.key)
            if since_s is None:
                message = self._message(alert)
                nth = self._number(alert)
                session.alert(message.title, message.text, message.level, nth=nth)
                self._taken[alert.key] = now_s
            elif now_s - since_s >= _SURE_S:
                self._book.note(alert.key, self._backend)

    def _number(self, alert: Alert) -> int:
        """Return the how manieth of its kind an alert is; the same in every session."""
        known = self._book.alerts()
        until = [one.key for one in known].index(alert.key) + 1
        start = alert.title[:_ALIKE]
        return sum(one.title.startswith(start) for one in known[:until])

    def send_last(self, session: object) -> None:
        """Hand over what is due once the trainer has left: nothing more is to come.

        Blocks until that is decided, which takes no time as a rule.

        Raises:
            BackendLostError: the session is gone.
        """
        if isinstance(session, Alertable):
            if self._expects:
                self._decided(_DECIDED_S)
            self.send(session)

    def finished(self) -> None:
        """Note that the session has ended in order, and with it all that it took was sent."""
        for key in self._taken:
            self._book.note(key, self._backend)
        self._taken.clear()
