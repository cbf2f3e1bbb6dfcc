"""An open W&B run, online or in an offline run directory."""

from __future__ import annotations

import contextlib
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fasttrack.delivery.backends.wandb.client import failures, one_line, stop_was_asked
from fasttrack.delivery.backends.wandb.history import (
    LOGGED_AT,
    STEP_KEY,
    ServerHistory,
    taken,
)
from fasttrack.delivery.backends.wandb.inert import inert, inert_config
from fasttrack.delivery.backends.wandb.media import Exhibits
from fasttrack.delivery.backends.wandb.neighbours import prove_beside_others
from fasttrack.delivery.backends.wandb.offline_directory import mark_synced
from fasttrack.delivery.backends.wandb.page import show
from fasttrack.delivery.backends.wandb.proof import prove_file, prove_online
from fasttrack.delivery.backends.wandb.run_files import RunFiles
from fasttrack.delivery.backends.wandb.standing import Standing
from fasttrack.delivery.backends.wandb.witness import Witness
from fasttrack.errors import BackendLostError
from fasttrack.journal.media import MediaRow

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import wandb

    from fasttrack.delivery.backends.base import Place
    from fasttrack.delivery.backends.wandb.lines import Line
    from fasttrack.delivery.backends.wandb.neighbours import Presence
    from fasttrack.delivery.backends.wandb.notes import Notes
    from fasttrack.delivery.backends.wandb.outbox import Outbox
    from fasttrack.delivery.backends.wandb.pages import Pages
    from fasttrack.journal.entries import Page
    from fasttrack.journal.rows import Number, Row

_ONE_ALERT_S = 600.0  # in which the server drops a second alert of one title
_LONGEST_TITLE = 63
_MOST_NAMED = 3
_LATE_S = 60.0  # rows delivered later than this carry the time they were logged


class WandbSession(RunFiles):
    """Hand rows to a W&B run, each with its `_step`, and prove that it has them.

    Threads: one at a time; `prepare_artifact`, `upload` and `withdraw` on a second one
    beside it.
    """

    def __init__(
        self,
        run: wandb.Run,
        outbox: Outbox | None,
        place: Place,
        notes: Notes,
        *,
        wandb_dir: Path,
        presence: Presence | None,
        stopped: Callable[[], bool],
    ) -> None:
        """Take over an open run.

        Args:
            run: the client's.
            outbox: posts rows many at a time; None: they go one by one by `run.log`.
            place: where the backend works.
            notes: what it remembers.
            wandb_dir: where the run's offline directories lie.
            presence: is seen by others that deliver to the same run on its server; None: the run
                is offline.
            stopped: tells whether the client has said "stop".
        """
        online = presence is not None
        super().__init__(run, online=online)
        self._outbox = outbox
        self._by_outbox = outbox is not None
        self._place = place
        self._notes = notes
        self._stopped = stopped
        self._stop_asked = False
        self._path = f"{run.entity}/{run.project}/{run.id}"
        self._exhibits = Exhibits(run, place.run_dir, place.leave_out)
        self._wandb_dir = wandb_dir
        self.directory: Path | None = Path(run.dir).parent
        self._witness = None if outbox is None else Witness(self.directory)
        self._doubted = False
        self._first: Line | None = None
        self._summary: dict[str, object] = {}  # that shall stand when all rows are there
        self.url = run.url if online else None
        self._history = ServerHistory(self._path) if online else None
        self._presence = presence
        # The first `_step` that the server does not have.
        starting_step = run.starting_step if online else 0
        self.held_rows = starting_step > 0
        self._held_to = starting_step - 1
        self._standing = Standing(
            place,
            notes,
            history=self._history,
            starting_step=starting_step,
            wandb_dir=wandb_dir,
        )

    def settle(self, segments: Sequence[Path], pending: Sequence[Path]) -> list[Path]:
        """Ask the server, or nobody if offline. See `Session.settle`."""
        self._standing.settle(segments, pending)
        return list(pending)

    # --- handing over ---------------------------------------------------------------------------

    def begin_segment(self, path: Path) -> None:
        """Never merge its first row into the last of another. See `Session.begin_segment`."""
        self._standing.begin_segment(path.name)

    def log(self, rows: Sequence[Row]) -> bool:
        """Hand over rows under their `_step`s. See `Session.log`."""
        assert self._run is not None
        late_s = self._place.clock() - _LATE_S
        any_placed = False
        try:
            for row in rows:
                there = self._standing.place(row)
                if not there and isinstance(row, MediaRow):
                    self._exhibits.make(row)  # its files may not have arrived
                if not there and self._outbox is not None and not self._standing.by_content:
                    self._recall(self._outbox, row)
                for step, placed, part in there:
                    any_placed = True
                    if isinstance(placed, MediaRow):
                        shown: dict[str, Any] = {placed.name: self._exhibits.make(placed)}
                        part = shown
                    # Unless we write the line, the client says when it came.
                    late = placed.time_s < late_s
                    if self._outbox is not None:
                        self._outbox.take(step, placed, part, late=late)
                    else:
                        self._log_one(step, placed, part, late=late)
        except failures() as error:
            raise self._lost(error) from error
        return any_placed

    def _recall(self, outbox: Outbox, row: Row) -> None:
        """Note a row that the server has: the newest that it has is ours, so all before are."""
        values = taken(row.values)
        outbox.recall(self._held_to, row, None if len(values) == len(row.values) else values)

    def _lost(self, error: BaseException) -> BackendLostError:
        """Return what became of the session; where its socket lives, the outbox is to blame."""
        self._doubted = self._doubted or (self._by_outbox and not isinstance(error, OSError))
        return BackendLostError(one_line(error))

    def _log_one(
        self, step: int, row: Row, part: Mapping[str, Number] | None, *, late: bool
    ) -> None:
        assert self._run is not None
        values = {**(row.values if part is None else part), STEP_KEY: row.step}
        if late:
            values.setdefault(LOGGED_AT, row.time_s)  # what the user logs under our name stays
        self._run.log(values, step=step)

    def console(self, stream: str, text: str) -> None:
        """Write to this process's own stream, which wandb has wrapped; a trainer's it has not."""
        if self._place.in_trainer:
            with contextlib.suppress(AttributeError, *failures()):
                self._run._console_raw_callback(stream, text)  # type: ignore[union-attr]
            return
        target = sys.stderr if stream == "stderr" else sys.stdout
        with contextlib.suppress(OSError, ValueError):
            target.write(text)

    def configure(self, values: Mapping[str, Any]) -> None:
        """Update the run's config. See `Session.configure`."""
        kept = inert_config(values)
        try:
            self._update(kept)
        except (TypeError, ValueError, RecursionError):  # of the values: which?
            for name, value in kept.items():
                try:
                    self._update({name: value})
                except (TypeError, ValueError, RecursionError) as error:
                    self._place.leave_out(f"{name!r} of the configuration ({one_line(error)})")

    def _update(self, values: dict[str, Any]) -> None:
        assert self._run is not None
        try:
            self._run.config.update(values, allow_val_change=True)  # type: ignore[no-untyped-call]
        except (TypeError, ValueError, RecursionError):
            raise
        except failures() as error:
            raise BackendLostError(one_line(error)) from error

    def describe(self, page: Page) -> None:
        """Tell the client. See `Describable.describe`."""
        assert self._run is not None
        try:
            show(self._run, page, self._place.leave_out)
        except failures() as error:
            raise BackendLostError(one_line(error)) from error

    def summarize(self, summary: Mapping[str, object]) -> None:
        """Keep it for the end: what the client makes of the last row comes before it."""
        self._summary = {name: inert(value) for name, value in summary.items()}

    def alert(self, title: str, text: str, level: str, *, nth: int) -> None:
        """Tell the client, which sends it at once. See `Alertable.alert`.

        The server drops one that has the title of another: that is the same one sent again, or has
        a number in its title.
        """
        assert self._run is not None
        number = "" if nth == 1 else f" ({nth})"
        title = title[: _LONGEST_TITLE - len(number)] + number
        try:
            self._run.alert(title=title, text=text, level=level, wait_duration=_ONE_ALERT_S)
        except failures() as error:
            raise BackendLostError(one_line(error)) from error

    def check(self) -> bool:
        """Post the outbox; ask the server why wandb has said "stop". See `Session.check`."""
        self._post()
        if not self._stop_asked and self._stopped():
            # The client says the same of a fatal error of its upload and of the run's stop button.
            if not stop_was_asked(self._path):
                raise BackendLostError("W&B ended the upload")
            self._stop_asked = True
        return self._stop_asked

    def _post(self) -> None:
        if self._outbox is not None:
            try:
                self._outbox.post()
            except failures() as error:
                raise self._lost(error) from error
            if self._witness is not None and self._witness.sees(self._outbox.first):
                self._witness = None

    def _post_the_rest(self) -> None:
        """Post what is left; the last line by `run.log`, so that the run ends as others do."""
        assert self._run is not None
        if self._outbox is None:
            return
        try:
            last = self._outbox.end()
            if last is not None:
                values = {**last.values(), "_timestamp": last.rows[-1][0].time_s}
                # Closed at once where the summary is to come behind it.
                self._run.log(values, step=last.step, commit=bool(self._summary) or None)
        except failures() as error:
            raise self._lost(error) from error

    @property
    def is_doubtful(self) -> bool:
        """Whether lines were posted that wandb-core has not been seen to write as they are."""
        first = self._first if self._outbox is None else self._outbox.first
        return self._doubted or (self._witness is not None and first is not None)

    # --- the end --------------------------------------------------------------------------------

    def finish(self, *, exit_code: int, preempting: bool) -> None:
        """Finish the W&B run. See `Session.finish`."""
        assert self._run is not None
        self._standing.end()
        self._post_the_rest()
        try:
            if self._summary:
                self._run.summary.update(self._summary)
            if preempting:
                self._run.mark_preempting()
            self._run.finish(exit_code=exit_code)
        except failures() as error:
            raise BackendLostError(one_line(error)) from error
        finally:
            self.close()

    def prove(self, *, artifacts: int, timeout_s: float) -> str:
        """Read back what the server or the closed file holds. See `Session.prove`."""
        try:
            proof = self._find_proof(artifacts + self._exhibits.artifacts, timeout_s)
            if self._witness is not None:
                self._witness.conclude(self._first, timeout_s)
        except BackendLostError:
            self._doubted = self._by_outbox
            if self._online:
                for path in self._standing.pending:
                    self._place.ledger.segment(path.name).recheck = True
                self._place.save()
            raise
        finally:
            self.leave()
        self._witness = None
        return "; ".join((proof, *self._note_proof()))

    def _find_proof(self, artifacts: int, timeout_s: float) -> str:
        standing = self._standing
        if self._history is not None:
            prove = partial(
                prove_online,
                self._history,
                standing,
                alone=not self._place.in_trainer,  # there the user may log, too
                timeout_s=timeout_s,
            )
            proof = prove_beside_others(prove, self._presence)
            return "; ".join((proof, *self._files_told(self._history.pages, timeout_s)))
        if standing.last_step < 0 and not artifacts:
            return "no rows"
        assert self.directory is not None
        return prove_file(self.directory, standing, artifacts=artifacts, timeout_s=timeout_s)

    def _files_told(self, pages: Pages, timeout_s: float) -> list[str]:
        """Return in words which files of media are on the server; say which are not.

        What shows nothing holds up no rows: a server may refuse a file for ever.
        """
        sent = self._exhibits.sent
        absent = self._exhibits.absent(pages, timeout_s) if sent else None
        if absent is None:
            return []
        if absent:
            names = f"{', '.join(absent[:_MOST_NAMED])}{', ...' if absent[_MOST_NAMED:] else ''}"
            self._place.leave_out(f"{len(absent):,} of {len(sent):,} files of media ({names})")
        return [f"{len(sent) - len(absent):,} of {len(sent):,} files of media are there"]

    def _note_proof(self) -> list[str]:
        """Note that all is proven; return in words what of that could not be noted."""
        notes, unmarked = self._notes, []
        if self._online:
            for path in self._standing.pending:
                # It may grow, or be replayed for an artifact: new rows come behind all others.
                notes.segment(path.name).base_step = None
            opened = [] if notes.open_directory is None else [notes.open_directory]
            local = [*notes.offline_directories, *opened]  # one is a dead process's, maybe
            for name in local if self._place.folder is None else ():  # it is written, else
                if (why := mark_synced(self._wandb_dir / name)) is not None:
                    unmarked.append(why)
        elif notes.open_directory is not None:
            notes.offline_directories.append(notes.open_directory)
            notes.open_directory = None
        notes.store(self._place.ledger)
        return unmarked

    def leave(self) -> None:
        """Be seen by others no more: nothing is sent or proven from now on."""
        if self._presence is not None:
            self._presence.close()

    def close(self) -> None:
        """Let go of the client's run."""
        if self._outbox is not None:
            self._first = self._outbox.first
        self._run = self._outbox = None
