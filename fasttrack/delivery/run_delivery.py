"""Deliver one run everywhere it is to go: the lock, the cursor, and a courier for each backend.

Each courier has a thread of its own where there are several, reads the journal by itself and keeps
its own ledger, so that a slow or dead destination never holds up another.
"""

from __future__ import annotations

import shutil
import threading
import time
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from fasttrack.delivery.alerting.alerts import Alerts
from fasttrack.delivery.backends.base import Place
from fasttrack.delivery.backends.registry import make_backend
from fasttrack.delivery.courier import Courier
from fasttrack.delivery.ending import EndingWatch
from fasttrack.delivery.events import Busy, Done, LeftOut, Online, Trouble
from fasttrack.delivery.guard import GuardedBackend
from fasttrack.delivery.ledger import CursorFile, StagedFiles, take_over
from fasttrack.delivery.run_lock import Patience, describe_holder, locked
from fasttrack.delivery.watchdog import Watchdog
from fasttrack.journal.cursor import load_cursor
from fasttrack.journal.destinations import headers_of, segments_by_backend
from fasttrack.journal.entries import merge_headers
from fasttrack.journal.run_directory import (
    attempt,
    cursor_path,
    destination_lock_path,
    lock_path,
    meanwhile_directory,
    segments,
)
from fasttrack.journal.shared_reads import SharedReads
from fasttrack.journal.trainer import trainer_runs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from fasttrack.delivery.alerting.alerts import AlertMeans
    from fasttrack.delivery.backends.base import Backend
    from fasttrack.delivery.events import Event
    from fasttrack.delivery.run_lock import Lock
    from fasttrack.journal.cursor import Cursor
    from fasttrack.journal.entries import Header

_RESTARTS = 5  # of a courier beside others; a lone one ends its process, which is started anew
_RESTART_PAUSE_S = 1.0  # doubled with every restart


class RunDelivery:
    """Deliver one run to all its backends.

    Threads: one; `report` is called on those of the couriers.
    """

    def __init__(
        self,
        segment: Path,
        *,
        trainer_alive: Callable[[], bool],
        report: Callable[[Event], None],
        in_trainer: bool = False,
        watchdog: Watchdog | None = None,
        alert_means: AlertMeans | None = None,
        make: Callable[[str, Place], Backend] = make_backend,
        clock: Callable[[], float] = time.time,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """Take charge of `segment`, and of all that earlier segments of its run have left.

        Args:
            segment: the newest segment to deliver; its trainer may still be writing it.
            trainer_alive: tells whether more rows may come.
            report: told what happens.
            in_trainer: whether this is the training process.
            watchdog: watches the calls of backends; None: nothing does.
            alert_means: what this process has for alerts; None: there are none.
            make: returns the backend of a name.
            clock: unix time in seconds.
            pause: waits, in seconds.

        Raises:
            ValueError: no segment of the run has a header or a row.
        """
        self._run_dir = segment.parent
        found = [path for path in segments(self._run_dir) if attempt(path) <= attempt(segment)]
        self._headers = headers_of(found, list(load_cursor(cursor_path(self._run_dir)).backends))
        self._segments = list(self._headers)
        self._trainer_alive = trainer_alive
        self._report_to = report
        self._url: str | None = None  # where a person looks at the run, once that is known
        self._in_trainer = in_trainer
        self._watchdog = Watchdog() if watchdog is None else watchdog
        self._alert_means = alert_means
        self._make = make
        self._clock = clock
        self._pause = pause
        self._by_hand = self._meanwhile = False
        self._only: tuple[str, ...] = ()
        self._reads = SharedReads()

    def follow(self) -> bool | None:
        """Deliver until the trainer is done or gone; return whether all is proven delivered.

        Blocks for the life of the run. Only the lock's owner delivers: one that finds another at
        work on the run waits for it, says so, and gives up once the run's time is over.

        Returns:
            None where another process still held the run then.
        """
        what = "the training process" if self._in_trainer else "the run's own delivery"
        online = self._header().mode == "online"
        locks = (lock_path, destination_lock_path) if online else (lock_path,)
        with self._alone(what, locks, self._patience()) as taken:
            if taken is None:
                return self._deliver(Courier.follow, to_the_end=True)
        reason = f"{describe_holder(self._run_dir, taken)} still holds the run"
        for name in segments_by_backend(self._headers):
            self._report(Done(backend=name, delivered=False, reason=reason))
        return None

    def _header(self) -> Header:
        header = merge_headers([known for known in self._headers.values() if known is not None])
        assert header is not None  # or there would be no run
        return header

    def _patience(self) -> Patience:
        header = self._header()

        def say(why: str) -> None:
            for name in segments_by_backend(self._headers):
                self._report(Trouble(backend=name, reason=why))

        ending = self._ending_of(self._segments[-1], header, self._trainer_alive)
        return Patience(self._run_dir, ending, header.upload_timeout_s, say)

    def deliver_now(self, only: Sequence[str] = ()) -> bool | None:
        """Deliver what is there to its destinations, in whatever mode the run was recorded.

        Blocks for as long as it takes; a server that does not answer is given up on soon. Does
        nothing where all is proven to be there.

        Args:
            only: backends, those of the run or others, which are destinations of all of it from
                then on; empty: all that are.

        Returns:
            Whether all is proven delivered; None where another process delivers the run.
        """
        self._by_hand, self._only = True, tuple(only)
        with self._alone("fasttrack sync", (lock_path, destination_lock_path)) as taken:
            if taken is None:
                return self._deliver(Courier.deliver_now, to_the_end=False)
        self._report(Busy(holder=describe_holder(self._run_dir, taken)))
        return None

    def deliver_meanwhile(self) -> bool | None:
        """Deliver what is there of an offline run that goes on, beside its own delivery.

        That one fills a local stand-in and may be on another machine. So this keeps apart from it:
        it has a lock, a cursor and a folder of its own, leaves out what the run's own delivery
        brings to its destination itself, and artifacts, which come once the run is over.

        Returns:
            Whether all rows are proven delivered that were there when they were last read; None
            where another process delivers them.
        """
        self._by_hand = self._meanwhile = True
        with self._alone("fasttrack sync --watch", (destination_lock_path,)) as taken:
            if taken is None:
                folder = meanwhile_directory(self._run_dir)
                shutil.rmtree(folder, ignore_errors=True)  # of one that was killed
                folder.mkdir(mode=0o700, exist_ok=True)
                try:
                    return self._deliver(Courier.deliver_meanwhile, to_the_end=False)
                finally:
                    shutil.rmtree(folder, ignore_errors=True)
        self._report(Busy(holder=describe_holder(self._run_dir, taken)))
        return None

    @contextmanager
    def _alone(
        self, what: str, locks: Sequence[Lock], patience: Patience | None = None
    ) -> Iterator[Lock | None]:
        """Hold locks of the run in this block; yield the one that somebody else holds.

        Args:
            what: who holds them, for whoever asks.
            locks: which, in this order; with both, nobody else is at work on the run.
            patience: tells how long to wait for each; None: not at all.
        """
        with ExitStack() as stack:
            for which in locks:
                wait_on = None if patience is None else patience.waiting_for(which)
                holding = locked(self._run_dir, what, wait_on, self._pause, which=which)
                if not stack.enter_context(holding):
                    yield which
                    return
            if {*locks} == {lock_path, destination_lock_path}:
                take_over(self._run_dir)
            yield None

    def _how_it_ended_is_known(self, header: Header | None) -> bool:
        """Return whether an attempt without a last line is known to have crashed.

        By hand, its trainer may go on: on this machine without delivery, or, where this is a copy
        of its directory, on another.
        """
        return not self._by_hand or (header is not None and trainer_runs(header) is False)

    def _deliver(self, task: Callable[[Courier], bool], *, to_the_end: bool) -> bool:
        # Read under the lock: another may have gone on.
        cursor = CursorFile(self._run_dir, meanwhile=self._meanwhile)
        staged = StagedFiles(self._run_dir, self._segments, cursor)
        alerts = self._alerts()
        couriers = {}
        unknown = False
        for name, paths in self._destinations(cursor.saved()).items():
            try:
                if (courier := self._courier(name, paths, cursor, staged, alerts)) is not None:
                    couriers[name] = courier
            except KeyError:
                unknown = True
                reason = f"this version of fasttrack knows no backend {name!r}"
                self._report(Done(backend=name, delivered=False, reason=reason))
        with nullcontext() if alerts is None else alerts.at_work():
            if len(couriers) < 2:
                delivered = [task(courier) for courier in couriers.values()]
            else:
                delivered = self._side_by_side(task, couriers)
        if to_the_end:  # by hand, elsewhere, a trainer may be staging files right now
            staged.remove_orphans()
        return all(delivered) and not unknown

    def _report(self, event: Event) -> None:
        if isinstance(event, Online) and event.url is not None:
            self._url = event.url
        self._report_to(event)

    def _alerts(self) -> Alerts | None:
        """Return what looks after the run's alerts; None where nothing does."""
        if self._alert_means is None or self._meanwhile:  # then they are another process's
            return None
        return Alerts(
            self._segments,
            self._header(),
            self._alert_means,
            trainer_alive=None if self._by_hand else self._trainer_alive,
            report=self._report,
            url=lambda: self._url,
            reads=self._reads,
            clock=self._clock,
        )

    def _destinations(self, cursor: Cursor) -> dict[str, list[Path]]:
        """Return the segments that are for each backend now.

        What was asked for afterwards is for whoever asks: a trainer waits for what it named itself.
        """
        added = [*cursor.added, *self._only]
        if not self._by_hand:
            named = segments_by_backend(self._headers)
            added = [name for name in added if name in named]
        found = segments_by_backend(self._headers, added)
        return {name: found[name] for name in self._only} if self._only else found

    def _courier(
        self,
        name: str,
        paths: list[Path],
        cursor: CursorFile,
        staged: StagedFiles,
        alerts: Alerts | None,
    ) -> Courier | None:
        ledger = cursor.ledger(name)
        whole = [known for path in paths if (known := self._headers[path])]
        header = merge_headers(whole)
        assert header is not None  # one of them is whole, or named the backend
        ledger.added = ledger.added or paths != segments_by_backend(self._headers).get(name)

        def save() -> None:
            cursor.save(name)

        newest = paths[-1] == self._segments[-1]
        alive = self._trainer_alive if newest else lambda: False
        ending = self._ending_of(paths[-1], header, alive)
        if not newest:  # what an earlier attempt left; the time that it gave is long over
            ending.give_time(header.finish_timeout_s)
        place = Place(
            run_dir=self._run_dir,
            ledger=ledger,
            save=save,
            in_trainer=self._in_trainer,
            by_hand=self._by_hand,
            tells_the_end=lambda: ending.find_or_vanished().exit_code is not None,
            leave_out=lambda what: self._report(LeftOut(backend=name, what=what)),
            progress=self._watchdog.progress,
            folder=meanwhile_directory(self._run_dir) if self._meanwhile else None,
            clock=self._clock,
        )
        backend = GuardedBackend(self._make(name, place), name, header, self._watchdog)
        if self._meanwhile:
            if not backend.has_offline:
                return None
            backend.takes_artifacts = False
        if backend.takes_artifacts:
            staged.takers[name] = paths
        return Courier(
            name,
            backend,
            header=header,
            segments=paths,
            ledger=ledger,
            save=save,
            ending=ending,
            report=self._report,
            proven=(lambda: None) if self._meanwhile else staged.remove_settled,
            handover=None if alerts is None else alerts.handover(name),
            reads=self._reads,
        )

    def _ending_of(
        self, path: Path, header: Header, trainer_alive: Callable[[], bool]
    ) -> EndingWatch:
        return EndingWatch(
            path,
            header.finish_timeout_s,
            trainer_alive=trainer_alive,
            is_known=lambda: self._how_it_ended_is_known(self._headers[path]),
            clock=self._clock,
            pause=self._pause,
        )

    def _side_by_side(
        self, task: Callable[[Courier], bool], couriers: dict[str, Courier]
    ) -> list[bool]:
        outcomes: dict[str, bool] = {}

        def run(name: str, courier: Courier) -> None:
            for restart in range(_RESTARTS + 1):
                if restart:
                    self._pause(_RESTART_PAUSE_S * 2 ** (restart - 1))
                try:
                    outcomes[name] = task(courier)
                    return
                except Exception as error:  # delivery's boundary: the others go on
                    courier.let_go()
                    reason = f"{name}: {error!r}"
                    self._report(Trouble(backend=name, reason=reason))
            self._report(Done(backend=name, delivered=False, reason=reason))
            outcomes[name] = False

        threads = [
            threading.Thread(target=run, args=item, name=f"courier-{item[0]}")
            for item in couriers.items()
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return [outcomes[name] for name in couriers]
