"""Deliver a run to one backend, whatever happens to the trainer, the server or the client.

The strategy only: when to open what, when to try again, when to fall back to a local stand-in.
What a session does is in `replay.py`, what is proven in `ledger.py`, the run's deadline in
`ending.py`. The journal is the record: a session that breaks is begun anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import tenacity

from fasttrack.delivery.backends.base import Viewable
from fasttrack.delivery.events import Done, Offline, Online, Trouble
from fasttrack.delivery.ledger import Proofs
from fasttrack.delivery.replay import Replay
from fasttrack.errors import BackendLostError, BackendUnavailableError, UnprovenError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from fasttrack.delivery.alerting.handover import Handover
    from fasttrack.delivery.backends.base import Backend, Session
    from fasttrack.delivery.ending import EndingWatch
    from fasttrack.delivery.events import Event
    from fasttrack.journal.cursor import Ledger
    from fasttrack.journal.entries import Header
    from fasttrack.journal.shared_reads import SharedReads

_OPEN_TIMEOUT_S = 10.0
_LAST_TRY_S = 10.0  # what a last upload at the end may wait for the server to open the run
_TRIES = 3  # once the trainer is gone, or by hand
_PAUSE_S = 5.0
_LONGEST_PAUSE_S = 300.0  # between attempts to get a lost server back while the trainer runs on
_BY_HAND_S = 600.0  # that a session by hand may take to finish


class Courier:
    """Deliver one run to one backend.

    Threads: one; `report` and `proven` are called on it, `report` on that of uploads too.
    """

    def __init__(
        self,
        name: str,
        backend: Backend,
        *,
        header: Header,
        segments: Sequence[Path],
        ledger: Ledger,
        save: Callable[[], None],
        ending: EndingWatch,
        report: Callable[[Event], None],
        proven: Callable[[], None] = lambda: None,
        handover: Handover | None = None,
        reads: SharedReads | None = None,
    ) -> None:
        """Take charge of `segments`.

        Args:
            name: the backend's name, under which this reports.
            backend: where to deliver to.
            header: the run's.
            segments: what is to be delivered, oldest first; the last one may still be written.
            ledger: what is known of the run's delivery to this backend.
            save: writes the ledger; raises BackendLostError where the disk does not take it.
            ending: watches the last segment's trainer.
            report: told what happens.
            proven: called whenever a session has proven something.
            handover: has the alerts that the destination is to be told of; None: of none.
            reads: what others in this process have read of the segments.
        """
        self._name = name
        self._backend = backend
        self._header = header
        self._segments = segments
        self._ledger = ledger
        self._save = save
        self._ending = ending
        self._report = report
        self._proven = proven
        self._handover = handover
        self._reads = reads
        self._proofs = Proofs(ledger, segments)
        self._rows = 0
        self._reason: str | None = None
        self._grows = False  # and what was read last will do

    def follow(self) -> bool:
        """Deliver until the trainer is done or gone; return whether all is proven delivered.

        Blocks for the life of the run.
        """
        online = self._header.mode == "online" or not self._backend.has_offline
        # What was proven by hand while the trainer ran is not all.
        over = self._ending.find() is not None and self._is_proven(online=online)
        delivered = over or self._deliver(online=online)
        self._report_done(delivered, already=False)
        return delivered

    def deliver_now(self) -> bool:
        """Deliver what is there to the destination, in whatever mode the run was recorded.

        Blocks for as long as it takes; a destination that does not answer is given up on soon.
        Does nothing where all is proven to be there. Returns whether all is.
        """
        already = self._is_proven(online=True)
        delivered = already or self._deliver_by_hand()
        self._report_done(delivered, already=already)
        return delivered

    def deliver_meanwhile(self) -> bool:
        """Deliver what is there, as `deliver_now`, of a run that goes on.

        Returns whether all is that was there when it was last read: more may have come since.
        """
        self._grows = True
        return self.deliver_now()

    def let_go(self) -> None:
        """Free the backend of what a crash has left open, so that delivery can begin anew."""
        self._backend.abandon()

    # --- strategy ---------------------------------------------------------------------------

    def _deliver(self, *, online: bool) -> bool:
        if not self._backend.has_offline:
            return self._deliver_here(online=True)
        return self._deliver_online() if online else self._deliver_here(online=False)

    def _deliver_online(self) -> bool:
        connected = False
        pause_s = 1.0
        while True:
            try:
                session = self._open_patiently()
                connected = True
                return self._replay(session, online=True)
            except BackendUnavailableError as error:
                if not connected:
                    return self._fall_back(error)
                self._report_trouble(error)
            except BackendLostError as error:
                self._backend.abandon()
                self._report_trouble(error)
                if isinstance(error, UnprovenError):
                    return False
            if self._ending.seconds_left() < pause_s:
                return False
            self._ending.wait(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _deliver_by_hand(self) -> bool:
        """Deliver without falling back and without the deadline of a run that ended."""
        self._ending.give_time(max(self._header.finish_timeout_s, _BY_HAND_S))
        for _ in range(_TRIES):
            try:
                return self._replay(self._open(online=True), online=True)
            except BackendUnavailableError as error:
                self._report_trouble(error)
                if not error.local:
                    return False
            except BackendLostError as error:
                self._backend.abandon()
                self._report_trouble(error)
                if isinstance(error, UnprovenError):
                    return False
            self._ending.wait(1.0)
        return False

    def _fall_back(self, error: BackendUnavailableError) -> bool:
        delivered = self._deliver_here(online=False, why=error)
        # What the troubleshooting guide promises: a run that fell back uploads at finish if it can.
        if error.final or self._ending.seconds_left() < _LAST_TRY_S:
            return delivered
        try:
            return self._replay(self._open(online=True, timeout_s=_LAST_TRY_S), online=True)
        except (BackendUnavailableError, BackendLostError):
            self._backend.abandon()
            return delivered

    def _deliver_here(self, *, online: bool, why: BackendUnavailableError | None = None) -> bool:
        """Deliver to what lies on this machine: a stand-in, or a destination that is local.

        It is tried for as long as the trainer is there: the disk may be full for a while, a
        client's own process be killed while it writes.
        """
        tries_left = _TRIES
        while tries_left:
            try:
                session = self._open(online=online)
                if not online:
                    self._report_offline(session, why)
                return self._replay(session, online=online)
            except (BackendUnavailableError, BackendLostError) as error:
                self._backend.abandon()
                self._report_trouble(error)
                if isinstance(error, BackendUnavailableError) and error.final:
                    return False
                self._ending.wait(_PAUSE_S)
            if self._ending.find() is not None:
                tries_left -= 1
        return False

    def _open_patiently(self) -> Session:
        """Open the backend at its destination, trying for `online_timeout_s`.

        Raises:
            BackendUnavailableError: it did not open.
        """
        until_s = self._ending.clock() + self._header.online_timeout_s
        retrying = tenacity.Retrying(
            stop=lambda _: self._ending.clock() >= until_s or self._ending.find() is not None,
            wait=tenacity.wait_exponential(multiplier=0.5, max=8.0)
            + tenacity.wait_random(0.0, 0.5),
            retry=tenacity.retry_if_exception(
                lambda error: isinstance(error, BackendUnavailableError) and not error.final
            ),
            sleep=self._ending.wait,
            reraise=True,
        )
        return retrying(self._open, online=True)

    # --- one session --------------------------------------------------------------------------

    def _open(self, *, online: bool, timeout_s: float = _OPEN_TIMEOUT_S) -> Session:
        return self._backend.open(self._header, online=online, timeout_s=timeout_s)

    def _replay(self, session: Session, *, online: bool) -> bool:
        """Deliver with an open session; return whether all is proven after it.

        Raises:
            BackendLostError: the session broke, or its proof failed.
        """
        if online:
            directory = str(session.directory or "") or None
            look = session.look if isinstance(session, Viewable) else None
            self._report(
                Online(backend=self._name, url=session.url, directory=directory, look=look)
            )
        replay = Replay(
            self._name,
            session,
            online=online,
            takes_artifacts=self._backend.takes_artifacts,
            segments=self._segments,
            ledger=self._ledger,
            ending=self._ending,
            upload_timeout_s=self._header.upload_timeout_s,
            report=self._report,
            handover=self._handover,
            reads=self._reads,
        )
        try:
            replay.run(self._proofs, self._save)
        finally:
            self._rows = replay.rows
        if replay.reason is not None:
            self._reason = replay.reason
        self._proven()
        return self._is_proven(online=online, as_read=self._grows)

    def _is_proven(self, *, online: bool, as_read: bool = False) -> bool:
        return not self._proofs.pending(offline_will_do=not online, as_read=as_read)

    # --- reports ------------------------------------------------------------------------------

    def _report_offline(self, session: Session, why: BackendUnavailableError | None) -> None:
        self._report(
            Offline(
                backend=self._name,
                directory=str(session.directory),
                reason=None if why is None else str(why),
                network=why is not None and why.network,
            )
        )

    def _report_trouble(self, error: Exception) -> None:
        self._reason = str(error)
        self._report(Trouble(backend=self._name, reason=self._reason, rows=self._rows))

    def _report_done(self, delivered: bool, *, already: bool) -> None:
        self._report(
            Done(
                backend=self._name,
                delivered=delivered,
                already=already,
                offline=delivered and not self._is_proven(online=True, as_read=self._grows),
                rows=self._proofs.rows() if delivered else self._rows,
                proof=self._proofs.words(),
                url=self._ledger.url,
                directory=self._ledger.directory,
                reason=None if delivered else self._reason,
            )
        )
