"""An open W&B run, online or in an offline run directory."""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fasttrack.delivery.backends.wandb.client import (
    failures,
    import_wandb,
    inert,
    one_line,
    public_run,
)
from fasttrack.delivery.backends.wandb.offline_directory import is_synced, mark_synced
from fasttrack.delivery.backends.wandb.proof import prove_file, prove_online
from fasttrack.delivery.backends.wandb.reconcile import reconcile
from fasttrack.delivery.backends.wandb.steps import StepMapper
from fasttrack.errors import ArtifactRefusedError, BackendLostError
from fasttrack.journal.reader import read_header

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import wandb

    from fasttrack.delivery.backends.base import Place
    from fasttrack.delivery.backends.wandb.notes import Notes
    from fasttrack.delivery.backends.wandb.outbox import Outbox
    from fasttrack.journal.entries import Artifact, Row

STEP_KEY = "step"
_LATE_S = 60.0  # rows delivered later than this carry the time they were logged
_PROOF_POLL_S = 0.1


class WandbSession:
    """Hand rows to a W&B run, each with its `_step`, and prove that it has them.

    Threads: one at a time; `prepare_artifact` and `upload` on a second one beside it.
    """

    def __init__(
        self,
        run: wandb.Run,
        outbox: Outbox | None,
        place: Place,
        notes: Notes,
        *,
        online: bool,
        stopped: Callable[[], bool],
    ) -> None:
        """Take over an open run.

        Args:
            run: the client's.
            outbox: posts rows many at a time; None: they go one by one.
            place: where the backend works.
            notes: what it remembers.
            online: whether the run is on the server.
            stopped: tells whether the client has said that it uploads no more.
        """
        self._run: wandb.Run | None = run
        self._outbox = outbox
        self._place = place
        self._notes = notes
        self._online = online
        self._stopped = stopped
        self._path = f"{run.entity}/{run.project}/{run.id}"
        self._wandb_dir = Path(run.dir).parent.parent
        self.directory: Path | None = Path(run.dir).parent
        self.url = run.url if online else None
        # The first `_step` that the server does not have.
        self._starting_step = run.starting_step if online else 0
        self.held_rows = self._starting_step > 0
        self._mapper = StepMapper(-1)
        self._first_placed: int | None = None  # how many steps there were with the first new row
        self._pending: Sequence[Path] = ()
        self._segment: str | None = None

    # --- what is there --------------------------------------------------------------------------

    def settle(self, segments: Sequence[Path], pending: Sequence[Path]) -> list[Path]:
        """Ask the server, or nobody if offline. See `Session.settle`."""
        left = [path for path in pending if not (self._online and self._was_synced(path))]
        base = self._base_step(segments, left) if left else -1
        if self._online and left:
            held = self._starting_step
            left = reconcile(left, self._place.ledger, self._notes, held, self._read_rows)
            base = self._base_step(segments, left) if left else held - 1
        elif self._online:
            base = self._starting_step - 1
        self._notes.store(self._place.ledger)
        self._mapper = StepMapper(base)
        self._pending = left
        return left

    def _was_synced(self, path: Path) -> bool:
        """Return whether the user's own `wandb sync` has uploaded a segment; then it is proven."""
        state = self._place.ledger.segments.get(path.name)
        if state is None or not state.offline_proof or None in state.artifacts.values():
            return False
        if path.stat().st_size != state.size_bytes:
            return False
        # Its marker alone proves nothing.
        directories = [self._wandb_dir / name for name in self._notes.offline_directories]
        last_step = self._notes.segment(path.name).last_step
        if not all(map(is_synced, directories)) or self._starting_step <= last_step:
            return False
        state.proof = f"the server's last step is {self._starting_step - 1}, after a wandb sync"
        state.arrived = state.rows
        self._notes.segment(path.name).base_step = None  # new rows come behind all others
        return True

    def _base_step(self, segments: Sequence[Path], pending: Sequence[Path]) -> int:
        """Return the highest `_step` that was taken before the first pending row.

        It is settled once per segment, when a server has been asked before the first of its rows
        was delivered: a resumed run may have gone on in another directory meanwhile.
        """
        first = pending[0]
        steps = self._notes.segment(first.name)
        if steps.base_step is not None:
            return steps.base_step
        position = list(segments).index(first)
        base = self._notes.segment(segments[position - 1].name).last_step if position else -1
        if self._online:
            header = read_header(first)
            arrived = self._place.ledger.segment(first.name).arrived
            if position or arrived or (header is not None and header.resumed):
                base = max(base, self._starting_step - 1)
            steps.base_step = base
            self._notes.store(self._place.ledger)
            self._place.save()
        return base

    def _read_rows(self, first: int, end: int) -> dict[int, dict[str, object]]:
        try:
            run = public_run(self._path)
            return {row["_step"]: row for row in run.scan_history(min_step=first, max_step=end)}
        except Exception as error:  # the client's own exceptions have no common base here
            raise BackendLostError(f"the run's rows cannot be read ({one_line(error)})") from error

    # --- handing over ---------------------------------------------------------------------------

    def begin_segment(self, path: Path) -> None:
        """Never merge its first row into the last of another. See `Session.begin_segment`."""
        self._end_segment()
        self._segment = path.name

    def _end_segment(self) -> None:
        self._mapper.close()
        if self._segment is not None:
            self._notes.segment(self._segment).last_step = self._mapper.last

    def log(self, row: Row) -> bool:
        """Hand over one row under its `_step`. See `Session.log`."""
        assert self._run is not None
        step = self._mapper.place(row.step, row.values)
        if step < self._starting_step:
            return False
        if self._first_placed is None:
            self._first_placed = self._mapper.placed
        values: dict[str, float | int] = {**row.values, STEP_KEY: row.step}
        if self._place.clock() - row.time_s > _LATE_S:  # the client overwrites `_timestamp`
            values["time/logged_at"] = row.time_s
        try:
            if self._outbox is None or not self._outbox.take(values, step):
                self._run.log(values, step=step)
        except failures() as error:
            raise BackendLostError(one_line(error)) from error
        return True

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
        assert self._run is not None
        try:
            self._run.config.update(inert(values), allow_val_change=True)  # type: ignore[no-untyped-call]
        except failures() as error:
            raise BackendLostError(one_line(error)) from error

    def prepare_artifact(self, entry: Artifact, files: Path) -> Any:
        """Make a W&B artifact and hash its files where they lie."""
        known = {} if entry.step is None else {"step": entry.step}
        artifact = import_wandb().Artifact(entry.name, entry.type, metadata=known)
        artifact.add_dir(str(files), policy="immutable", skip_cache=True)
        return artifact

    def upload(self, artifact: Any, aliases: Sequence[str]) -> str | None:
        """Log the artifact and wait for it. See `Session.upload`."""
        run = self._run
        if run is None:
            raise BackendLostError("the run has ended")
        try:
            run.log_artifact(artifact, aliases=list(aliases))
            if not self._online:
                return None
            artifact.wait()
        except ValueError as error:
            raise ArtifactRefusedError(one_line(error)) from error
        except failures() as error:
            raise BackendLostError(one_line(error)) from error
        return f"the server has it as {artifact.source_name} ({artifact.state.lower()})"

    def uploaded_bytes(self) -> int | None:
        """Ask wandb-core, by a call that wandb keeps to itself. See `Session.uploaded_bytes`."""
        run = self._run
        if run is None or not self._online:
            return None
        try:
            poll = run._interface.deliver_poll_exit().wait_or(timeout=1)  # type: ignore[union-attr]
            return int(poll.response.poll_exit_response.pusher_stats.uploaded_bytes)
        except Exception:  # the client's own exceptions have no common base here
            return None

    def check(self) -> None:
        """Post the outbox; raise once wandb has said that it uploads no more."""
        self._post()
        if self._stopped():
            raise BackendLostError("W&B ended the upload")

    def _post(self) -> None:
        if self._outbox is not None:
            try:
                self._outbox.post()
            except failures() as error:
                raise BackendLostError(one_line(error)) from error

    # --- the end --------------------------------------------------------------------------------

    def finish(self, *, exit_code: int, preempting: bool) -> None:
        """Finish the W&B run. See `Session.finish`."""
        assert self._run is not None
        self._end_segment()
        self._post()
        try:
            if preempting:
                self._run.mark_preempting()
            self._run.finish(exit_code=exit_code)
        except failures() as error:
            raise BackendLostError(one_line(error)) from error
        finally:
            self.close()

    def prove(self, *, artifacts: int, timeout_s: float) -> str | None:
        """Ask the server for its last step, or read the closed file back. See `Session.prove`."""
        proof = self._find_proof(artifacts, timeout_s)
        if proof is not None:
            self._note_proof()
        return proof

    def _find_proof(self, artifacts: int, timeout_s: float) -> str | None:
        last_step = self._mapper.last
        first = self._first_placed
        rows = 0 if first is None else self._mapper.placed - first + 1
        if last_step < 0 and not artifacts:
            return "no rows"
        deadline = time.monotonic() + timeout_s
        while True:  # a server takes rows in, and wandb-core closes its file, after finish()
            if self._online:
                proof = prove_online(self._path, last_step, timeout_s)
            else:
                assert self.directory is not None
                proof = prove_file(
                    self.directory, last_step=last_step, rows=rows, artifacts=artifacts
                )
            if proof is not None or time.monotonic() >= deadline:
                return proof
            time.sleep(_PROOF_POLL_S)

    def _note_proof(self) -> None:
        notes = self._notes
        if self._online:
            for path in self._pending:
                # It may grow, or be replayed for an artifact: new rows come behind all others.
                notes.segment(path.name).base_step = None
            opened = [] if notes.open_directory is None else [notes.open_directory]
            for name in (*notes.offline_directories, *opened):  # one is a dead process's, maybe
                mark_synced(self._wandb_dir / name)
        elif notes.open_directory is not None:
            notes.offline_directories.append(notes.open_directory)
            notes.open_directory = None
        notes.store(self._place.ledger)

    def close(self) -> None:
        """Let go of the client's run."""
        self._run = self._outbox = None
