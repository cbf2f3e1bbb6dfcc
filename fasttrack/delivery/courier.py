"""Follow a run's journal and deliver it, whatever happens to the trainer, the server or wandb.

One *session* opens the backend, replays all segments that are not proven delivered, follows the
last one until its trainer is done, finishes and proves. A session that breaks is simply begun
anew: the mapping of rows to `_step`s is deterministic, so online the server's own last step says
which rows to skip, and offline the half-written run directory is thrown away. The journal is the
record; no session needs the memory of another.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import math
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tenacity

from fasttrack.delivery.backends.base import Lost, Unavailable
from fasttrack.delivery.backends.wandb.reconcile import reconcile
from fasttrack.delivery.backends.wandb.steps import StepMapper
from fasttrack.delivery.run_files import (
    base_directory,
    full_header,
    is_synced,
    mark_synced,
    read_git,
)
from fasttrack.delivery.uploads import Uploads
from fasttrack.journal.cursor import load_cursor
from fasttrack.journal.reader import SegmentReader, read_finish, read_header
from fasttrack.journal.run_directory import attempt, segments, staging_directory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fasttrack.delivery.backends.base import Backend
    from fasttrack.journal.cursor import Cursor

OFFLINE_MESSAGE = "Offline mode. Run 'wandb sync' to upload later."

_POLL_S = 0.1  # how often the journal is looked at when it has nothing new
_REPORT_EVERY_S = 1.0
_INIT_TIMEOUT_S = 10.0
_LAST_TRY_S = 10.0  # what a last upload at the end may wait for the server to open the run
_PROOF_S = 10.0
_OFFLINE_TRIES = 3  # once the trainer is gone
_OFFLINE_PAUSE_S = 5.0
_ONLINE_TRIES = 3  # by hand
_BY_HAND_S = 600.0  # that wandb may take to finish
_LATE_S = 60.0  # rows delivered later than this carry the time they were logged
_LONGEST_PAUSE_S = 300.0  # between attempts to get a lost server back while the trainer runs on
_VANISHED_EXIT_CODE = 1


@dataclass(frozen=True)
class Ending:
    """How the trainer left."""

    exit_code: int
    preempting: bool
    deadline_s: float  # unix time by which delivery should be over


class Courier:
    """Deliver one run.

    Threads: one; `report` is called on it.
    """

    def __init__(
        self,
        segment: Path,
        backend: Backend,
        *,
        trainer_alive: Callable[[], bool],
        report: Callable[[dict[str, Any]], None],
        clock: Callable[[], float] = time.time,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """Take charge of `segment`, and of all that earlier segments of its run have left.

        Args:
            segment: the newest segment to deliver; its trainer may still be writing it.
            backend: where to deliver to.
            trainer_alive: tells whether more rows may come.
            report: told what happens, as small JSON-able dicts with a key "event".
            clock: unix time in seconds.
            pause: waits, in seconds.
        """
        run_dir = segment.parent
        self._run_dir = run_dir
        self._lock_path = run_dir / "courier.lock"
        self._backend = backend
        self._trainer_alive = trainer_alive
        self._report = report
        self._clock = clock
        self._pause = pause
        self._wandb_dir = base_directory(run_dir) / "wandb"
        found = [path for path in segments(run_dir) if attempt(path) <= attempt(segment)]
        # One without a header holds nothing: the disk was full when its attempt began.
        self._paths = [path for path in found if read_header(path)] or found
        self._header = full_header(self._paths)
        self._cursor_path = run_dir / "cursor.json"
        self._cursor: Cursor = load_cursor(self._cursor_path)
        self._ending: Ending | None = None
        self._rows = 0
        self._reported_at_s = 0.0
        self._reason: str | None = None

    def run(self) -> bool:
        """Deliver until the trainer is done or gone; return whether all is proven delivered.

        Blocks for the life of the run. Only the lock's owner delivers: a courier that finds
        another at work on the run waits for it.
        """
        with self._locked(wait=True):
            delivered = self._deliver()
            self._remove_orphans()
            self._report_done(delivered, already=False)
        return delivered

    def deliver_now(self) -> bool | None:
        """Deliver what is there to the server, in whatever mode the run was recorded.

        Blocks for as long as it takes; a server that does not answer is given up on soon. Does
        nothing where all is proven to be there.

        Returns:
            Whether all is proven delivered; None where another courier is at work on the run.
        """
        with self._locked(wait=False) as got_it:
            if not got_it:
                self._report({"event": "busy"})
                return None
            already = self._all_proven(online=True)
            delivered = already or self._deliver_once()
            self._report_done(delivered, already=already)
        return delivered

    @contextlib.contextmanager
    def _locked(self, *, wait: bool) -> Iterator[bool]:
        lock = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            got_it = False
            while not got_it:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    got_it = True
                except BlockingIOError:
                    if not wait:
                        break
                    self._pause(_POLL_S)
                except OSError:  # a file system without locks: better two couriers than none
                    got_it = True
            self._cursor = load_cursor(self._cursor_path)
            yield got_it
        finally:
            os.close(lock)

    def _report_done(self, delivered: bool, *, already: bool) -> None:
        states = [self._cursor.segment(path.name) for path in self._paths]
        proofs = [state.online_proof or state.offline_proof for state in states]
        self._report(
            {
                "event": "done",
                "delivered": delivered,
                "already": already,
                "rows": sum(state.rows for state in states) if delivered else self._rows,
                "proof": "; ".join(dict.fromkeys(filter(None, proofs))) or None,
                "url": self._cursor.url,
                "reason": None if delivered else self._reason,
            }
        )

    # --- strategy ---------------------------------------------------------------------------

    def _deliver(self) -> bool:
        online = self._header["mode"] == "online"
        if self._all_proven(online):
            return True
        if not online:
            return self._deliver_offline()
        connected = False
        pause_s = 1.0
        while True:
            try:
                self._open_online()
                connected = True
                self._session(online=True)
                return self._all_proven(online)
            except Unavailable as error:
                if not connected:
                    return self._fall_back(error)
                self._report_trouble(error)
            except Lost as error:
                self._backend.abandon()
                self._report_trouble(error)
            if self._seconds_left() < pause_s:
                return False
            self._wait(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _deliver_once(self) -> bool:
        """Deliver online, without falling back and without the deadline of a run that ended."""
        self._find_ending()
        if self._ending is not None:
            left_s = max(self._header["finish_timeout_s"], _BY_HAND_S)
            self._ending = dataclasses.replace(self._ending, deadline_s=self._clock() + left_s)
        for _ in range(_ONLINE_TRIES):
            try:
                self._open(online=True, timeout_s=_INIT_TIMEOUT_S)
                self._session(online=True)
                return self._all_proven(online=True)
            except Unavailable as error:
                self._report_trouble(error)
                return False
            except Lost as error:
                self._backend.abandon()
                self._report_trouble(error)
            self._wait(1.0)
        return False

    def _report_trouble(self, error: Exception) -> None:
        self._reason = str(error)
        self._report({"event": "trouble", "reason": self._reason, "rows": self._rows})

    def _fall_back(self, error: Unavailable) -> bool:
        delivered = self._deliver_offline(str(error))
        # What the troubleshooting guide promises: a run that fell back uploads at finish if it can.
        if error.final or self._seconds_left() < _LAST_TRY_S:
            return delivered
        try:
            self._open(online=True, timeout_s=_LAST_TRY_S)
            self._session(online=True)
        except (Unavailable, Lost):
            self._backend.abandon()
            return delivered
        return self._all_proven(online=True)

    def _open_online(self) -> None:
        """Open the backend online, trying for `online_timeout_s`.

        Raises:
            Unavailable: it did not open.
        """
        retrying = tenacity.Retrying(
            stop=lambda state: (
                (state.seconds_since_start or 0.0) >= self._header["online_timeout_s"]
                or self._find_ending() is not None
            ),
            wait=tenacity.wait_exponential(multiplier=0.5, max=8.0)
            + tenacity.wait_random(0.0, 0.5),
            retry=tenacity.retry_if_exception(
                lambda error: isinstance(error, Unavailable) and not error.final
            ),
            sleep=self._wait,
            reraise=True,
        )
        retrying(self._open, online=True, timeout_s=_INIT_TIMEOUT_S)

    def _open(self, *, online: bool, timeout_s: float) -> None:
        if "git" not in self._header:  # it is asked for while the trainer goes on
            self._header |= read_git(self._paths[-1])
        self._backend.open(self._header, online=online, timeout_s=timeout_s)

    def _deliver_offline(self, reason: str | None = None) -> bool:
        tries_left = _OFFLINE_TRIES  # wandb-core may be killed while it writes, or the disk be full
        while tries_left:
            self._discard_unfinished()
            try:
                self._open(online=False, timeout_s=_INIT_TIMEOUT_S)
                directory = self._wandb_dir / self._backend.directory_name
                self._cursor.open_directory = directory.name
                self._save_cursor()
                self._report({"event": "offline", "reason": reason, "directory": str(directory)})
                self._session(online=False)
                self._cursor.offline_directories.append(directory.name)
                self._cursor.open_directory = None
                self._save_cursor()
                return True
            except (Unavailable, Lost) as error:
                self._backend.abandon()
                self._report_trouble(error)
                self._wait(_OFFLINE_PAUSE_S)
            if self._find_ending() is not None:
                tries_left -= 1
        return False

    def _discard_unfinished(self) -> None:
        # A run directory that a courier died over holds some of the rows; all of them are replayed.
        directory = self._cursor.open_directory
        if directory is not None and directory.startswith("offline-run-"):
            shutil.rmtree(self._wandb_dir / directory, ignore_errors=True)

    # --- one session --------------------------------------------------------------------------

    def _session(self, *, online: bool) -> None:
        """Replay and follow with the open backend, finish it, and prove.

        Raises:
            Lost: the backend went away, or the proof failed; what this session delivered may or
                may not be there.
        """
        uploads = Uploads(self._run_dir, self._backend, self._report)
        with contextlib.closing(uploads):
            self._replay(uploads, online=online)

    def _replay(self, uploads: Uploads, *, online: bool) -> None:
        pending = [path for path in self._paths if not self._proven(path, online)]
        skip_below = 0
        if online:
            self._report({"event": "online", "url": self._backend.url})
            skip_below = self._backend.starting_step
        base = self._base_step(pending, online) if pending else -1
        if online and pending:
            pending = reconcile(pending, self._cursor, skip_below, self._backend.read_rows)
            base = self._base_step(pending, online) if pending else skip_below - 1
            self._save_cursor()
        mapper = StepMapper(base)
        self._rows = 0
        first_step = None
        for path, entries, ended in self._follow(pending):
            self._backend.check()
            state = self._cursor.segment(path.name)
            for entry in entries:
                kind = entry.get("kind")
                if kind == "row":
                    state.rows += 1
                    self._rows += 1
                    if online and state.rows <= state.arrived:
                        continue
                    target = mapper.place(entry["step"], entry["values"])
                    if target >= skip_below:
                        first_step = mapper.placed if first_step is None else first_step
                        self._backend.log(self._values(entry), target)
                elif kind == "console" and (first_step is not None or not skip_below):
                    self._backend.console(entry["stream"], entry["text"])
                elif kind == "artifact":
                    number = str(entry["number"])
                    if state.artifacts.setdefault(number, None) is None:
                        uploads.submit((path.name, number), entry)
                elif kind in ("config", "metadata"):
                    self._backend.configure(
                        entry["values"] if kind == "config" else {"metadata": entry["values"]}
                    )
            if ended:
                mapper.close()
                state.last_step = mapper.last
            self._report_progress()
        self._wait_for(uploads)
        ending = self._find_ending() or Ending(_VANISHED_EXIT_CODE, False, self._clock())
        self._backend.finish(exit_code=ending.exit_code, preempting=ending.preempting)
        proof = self._backend.prove(
            last_step=mapper.last,
            rows=0 if first_step is None else mapper.placed - first_step + 1,
            artifacts=uploads.taken,
            timeout_s=_PROOF_S,
        )
        if proof is None:
            raise Lost("the backend does not have all rows after a finish without error")
        self._note_proof(proof, pending, uploads, online=online)

    def _wait_for(self, uploads: Uploads) -> None:
        """Wait until all artifacts are uploaded, or have had their time."""
        while uploads.pending and self._seconds_left() + self._header["upload_timeout_s"] > 0:
            self._backend.check()
            self._report_progress(uploading=True)
            self._pause(_POLL_S)

    def _note_proof(
        self, proof: str, pending: list[Path], uploads: Uploads, *, online: bool
    ) -> None:
        for path in pending:
            state = self._cursor.segment(path.name)
            if online:
                state.online_proof = proof
                # It may grow, or be replayed for an artifact: new rows then come behind all others.
                state.arrived, state.base_step = state.rows, None
            else:
                state.offline_proof = proof
        if online:
            for (name, number), outcome in uploads.outcomes.items():
                self._cursor.segment(name).artifacts[number] = outcome
            self._cursor.url = self._backend.url
            for directory in self._cursor.offline_directories:
                mark_synced(self._wandb_dir / directory)
            if self._cursor.open_directory is not None:  # a dead courier's, with some of the rows
                mark_synced(self._wandb_dir / self._cursor.open_directory)
        if uploads.pending:
            self._reason = "an artifact was not uploaded in time"
        elif uploads.failures:
            self._reason = "; ".join(uploads.failures)
        self._save_cursor()
        for path in pending:
            for number, outcome in self._cursor.segment(path.name).artifacts.items():
                if outcome is not None:  # else its files wait for a later upload
                    shutil.rmtree(staging_directory(path) / f"{int(number):04d}", True)
        self._remove_empty_staging()

    def _remove_empty_staging(self) -> None:
        for path in self._paths:
            with contextlib.suppress(OSError):
                staging_directory(path).rmdir()
        with contextlib.suppress(OSError):
            (self._run_dir / "artifacts").rmdir()

    def _remove_orphans(self) -> None:
        """Remove what a kill left in staging: half copies, and files that arrived."""
        for path in self._paths:
            if self._proven(path, online=True):
                shutil.rmtree(staging_directory(path), ignore_errors=True)
        self._remove_empty_staging()

    def _values(self, entry: dict[str, Any]) -> dict[str, Any]:
        values: dict[str, Any] = entry["values"]
        values["step"] = entry["step"]
        if self._clock() - entry["time"] > _LATE_S:
            values["time/logged_at"] = entry["time"]
        return values

    def _all_proven(self, online: bool) -> bool:
        return all(self._proven(path, online) for path in self._paths)

    def _proven(self, path: Path, online: bool) -> bool:
        state = self._cursor.segments.get(path.name)
        if state is None or not (state.online_proof or state.offline_proof):
            return False
        if path.stat().st_size != state.size_bytes:
            return False  # delivered by hand while its trainer, elsewhere, still wrote
        if not online:
            return True
        if None in state.artifacts.values():
            return False
        if state.online_proof:
            return True
        # The user's own `wandb sync` may have uploaded it. Its marker alone proves nothing.
        synced = all(is_synced(self._wandb_dir / d) for d in self._cursor.offline_directories)
        return synced and self._backend.starting_step > state.last_step

    def _base_step(self, pending: list[Path], online: bool) -> int:
        """Return the highest `_step` that was taken before the first pending row.

        It is settled once per segment, when a server has been asked before the first of its rows
        was delivered: a resumed run may have gone on in another directory meanwhile.
        """
        first = pending[0]
        state = self._cursor.segment(first.name)
        if state.base_step is not None:
            return state.base_step
        position = self._paths.index(first)
        base = self._cursor.segment(self._paths[position - 1].name).last_step if position else -1
        if online:
            if position or state.arrived or read_header(first).get("resumed", False):
                base = max(base, self._backend.starting_step - 1)
            state.base_step = base
            self._save_cursor()
        return base

    def _follow(self, paths: list[Path]) -> Iterator[tuple[Path, list[dict[str, Any]], bool]]:
        """Yield (segment, entries, False) as they come, (segment, [], True) at a segment's end."""
        for path in paths:
            self._cursor.segment(path.name).rows = 0
            reader = SegmentReader(path)
            try:
                last = path == self._paths[-1]
                finished = False
                while not finished:
                    alive = last and self._trainer_alive()  # asked before the last look at the file
                    entries = reader.read()
                    finished = any(entry.get("kind") == "finish" for entry in entries)
                    if entries:
                        yield path, entries, False
                    elif alive:
                        self._pause(_POLL_S)
                        yield path, [], False
                    else:
                        break
                self._cursor.segment(path.name).size_bytes = reader.size_bytes
                yield path, [], True
            finally:
                reader.close()

    # --- the end of the run -------------------------------------------------------------------

    def _find_ending(self) -> Ending | None:
        """Return how the trainer left; None while it is still there."""
        if self._ending is None:
            gone = not self._trainer_alive()
            finish = read_finish(self._paths[-1])
            if finish is not None:
                self._ending = Ending(finish["exit_code"], finish["preempting"], finish["deadline"])
            elif gone:
                deadline_s = self._clock() + self._header["finish_timeout_s"]
                self._ending = Ending(_VANISHED_EXIT_CODE, False, deadline_s)
        return self._ending

    def _seconds_left(self) -> float:
        ending = self._find_ending()
        return math.inf if ending is None else ending.deadline_s - self._clock()

    def _wait(self, seconds: float) -> None:
        """Wait, but not on when the trainer leaves meanwhile: then there is a deadline."""
        was_over = self._find_ending() is not None
        until_s = self._clock() + min(seconds, max(0.0, self._seconds_left()))
        while self._clock() < until_s and (was_over or self._find_ending() is None):
            self._pause(_POLL_S)

    def _save_cursor(self) -> None:
        """Save what is known.

        Raises:
            Lost: the disk took it not; a restart would not know what this session relies on.
        """
        try:
            self._cursor.save(self._cursor_path)
        except OSError as error:
            raise Lost(f"{self._cursor_path} cannot be written ({error.strerror})") from error

    def _report_progress(self, *, uploading: bool = False) -> None:
        now_s = self._clock()
        if now_s - self._reported_at_s >= _REPORT_EVERY_S:
            self._reported_at_s = now_s
            sent = self._backend.uploaded_bytes() if uploading else None
            self._report({"event": "progress", "rows": self._rows, "uploaded_bytes": sent})
