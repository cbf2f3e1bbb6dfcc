"""Weights & Biases. This folder is the only one that imports wandb.

What is worked around here, each seen with wandb 0.31 (which is why older ones are refused):

* `init` with an unreachable server blocks for 100 s: we probe first, and set small timeouts. A
  failed `init` leaves an empty run folder and keeps the run id busy until `teardown`.
* `finish` blocks for days when the server is gone: it gets a timeout.
* One refused upload (most 4xx) ends uploading for the run with a printed warning only:
  `stop_on_fatal_error` tells us through `stop_fn`.
* `log` and `finish` raise whatever their socket raises once wandb-core has died.
* Artifacts are copied to W&B's staging folder and into its cache unless they are "immutable" and
  skip the cache; ours are staged already. A refused upload is silent unless it is waited for.
* `_timestamp` is overwritten by the client, and a row behind the last `_step` is dropped: we send
  our own axis, `step`, and only rising `_step`s.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from fasttrack.delivery.backends.base import Holding
from fasttrack.delivery.backends.wandb.client import (
    failures,
    import_wandb,
    keep_files_in,
    one_line,
    pin_identity,
    probe,
    release_streams,
    spare_the_cores,
    unavailable,
)
from fasttrack.delivery.backends.wandb.history import (
    STEP_KEY,
    FileHistory,
    ServerHistory,
    as_held,
    kept,
)
from fasttrack.delivery.backends.wandb.inert import describe
from fasttrack.delivery.backends.wandb.neighbours import Presence
from fasttrack.delivery.backends.wandb.notes import load_notes
from fasttrack.delivery.backends.wandb.offline_directory import discard, online_directories
from fasttrack.delivery.backends.wandb.outbox import Outbox
from fasttrack.delivery.backends.wandb.session import WandbSession
from fasttrack.delivery.children import kill_children
from fasttrack.delivery.contents import numbered_rows, watched
from fasttrack.errors import BackendUnavailableError
from fasttrack.journal.reader import read_metadata
from fasttrack.journal.run_directory import base_directory, client_directory, segment_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from wandb import Run

    from fasttrack.delivery.backends.base import Place
    from fasttrack.delivery.contents import Held
    from fasttrack.journal.cursor import SegmentLedger
    from fasttrack.journal.entries import Header

_PROBE_TIMEOUT_S = 5.0


class WandbBackend:
    """Open a run at W&B, or in an offline run directory.

    Threads: one at a time.
    """

    has_offline = True
    takes_artifacts = True
    helper: str | None = "wandb-core"

    def __init__(self, place: Place) -> None:
        """Prepare; nothing is imported or opened yet."""
        self._place = place
        # Not recorded but found: a run's directories may be moved, or copied to another machine.
        self._base = base_directory(place.run_dir)
        self._session: WandbSession | None = None
        self._presence: Presence | None = None
        self._stopped = False
        self._one_by_one = False  # this client takes no lines that were put together here

    def open(self, header: Header, *, online: bool, timeout_s: float) -> WandbSession:
        """Start the W&B run. See `Backend.open`."""
        if not self._place.in_trainer:
            pin_identity(header)
            spare_the_cores()
        wandb = import_wandb()
        if self._place.folder is None:
            keep_files_in(client_directory(self._place.run_dir), lasting=self._place.in_trainer)
        else:
            keep_files_in(self._place.folder, lasting=False)
        notes = load_notes(self._place.ledger)
        self._stopped = False
        settings = self._set_up(wandb, header)
        if online:
            probe(settings.base_url, min(timeout_s, _PROBE_TIMEOUT_S))
            self._presence = Presence(settings.base_url, header.project, header.run_id)
        elif notes.open_directory is not None:  # of a process that died over it
            discard(self._base / "wandb" / notes.open_directory)
        run = self._init(wandb, header, online=online, timeout_s=timeout_s)
        try:
            run.define_metric(STEP_KEY, hidden=True)
            run.define_metric("*", step_metric=STEP_KEY)
            self._session = WandbSession(
                run,
                self._outbox(run),
                self._place,
                notes,
                wandb_dir=self._base / "wandb",
                presence=self._presence,
                stopped=lambda: self._stopped,
            )
            self._session.configure(header.config)  # by `init` one bad value would cost the run
        except failures() as error:  # wandb-core may die at any moment
            self.abandon()
            raise unavailable(error) from error
        if not online:
            assert self._session.directory is not None
            notes.open_directory = self._session.directory.name
            notes.store(self._place.ledger)
            self._place.save()
        return self._session

    def _outbox(self, run: Any) -> Outbox | None:
        """Return what posts many rows at a time; None where this client is not known to take it."""
        encoding = getattr(run.settings, "x_history_value_encoding", "json")  # since 0.31
        # In the trainer the user may log, too, from another thread.
        if self._place.in_trainer or self._one_by_one or encoding != "json":
            return None
        try:
            return Outbox(run._interface, runtime_s=float(getattr(run, "_start_runtime", 0.0)))
        except (AttributeError, TypeError, ValueError):
            return None

    def _set_up(self, wandb: Any, header: Header) -> Any:
        """Start wandb-core; return the client's settings.

        Raises:
            BackendUnavailableError: they are wrong, or it does not start.
        """
        try:
            known = wandb.setup().settings
        except failures() as error:
            self.abandon()
            raise unavailable(error) from error
        # Of the environment: it counts more than `init`'s arguments.
        if known.launch or (known.sweep_id and (known.sweep_id, known.run_id) != _trial(header)):
            raise BackendUnavailableError(
                f"the client would file {header.run_id}'s rows under another run: this process's "
                "environment says so (WANDB_SWEEP_ID, WANDB_LAUNCH); deliver it from another",
                final=True,
            )
        return known

    def _init(self, wandb: Any, header: Header, *, online: bool, timeout_s: float) -> Run:
        told = describe(header, self._place.leave_out)
        base = self._place.folder or self._base
        before = online_directories(base, header.run_id)
        try:
            run: Run = wandb.init(
                project=header.project,
                entity=header.entity,
                id=header.run_id,
                **told,
                dir=str(base),
                mode="online" if online else "offline",
                resume="allow",
                reinit="create_new",
                settings=self._settings(wandb, header, timeout_s),
            )
        except failures() as error:
            self.abandon()
            for folder in online_directories(base, header.run_id) - before:
                shutil.rmtree(folder, ignore_errors=True)
            raise unavailable(error) from error
        Path(run.dir).parent.chmod(0o700)  # in the trainer, whose umask is the user's
        if self._place.in_trainer:
            release_streams(run)
        return run

    def _settings(self, wandb: Any, header: Header, timeout_s: float) -> Any:
        def stop() -> None:  # no method: the client copies its settings, deeply
            self._stopped = True

        settings: dict[str, object] = {
            "init_timeout": timeout_s,
            "finish_timeout": header.finish_timeout_s,
            "finish_timeout_raises": True,
            "x_transaction_log_flush_interval": 1,
            "stop_on_fatal_error": True,
            "stop_fn": stop,
            "x_update_finish_state": self._place.tells_the_end(),
            # wandb's own look at git would record a token that is a remote's user name.
            "disable_git": True,
            "sagemaker_disable": True,  # it would choose a run id of its own
        }
        segment = self._place.run_dir / segment_name(header.attempt)
        metadata = read_metadata(segment) if segment.is_file() else None
        git = {} if metadata is None else metadata.git  # asked for while the trainer goes on
        if git.get("commit") and git.get("remote"):  # wandb takes both or none
            settings |= {"git_commit": git["commit"], "git_remote_url": git["remote"]}
        if not self._place.in_trainer:
            sys.argv = list(header.argv)
            settings |= {
                "program": header.program,
                "program_relpath": header.program_relpath,
                "host": header.host,
                "x_executable": header.executable,
                "x_stats_pid": header.pid,
                "x_start_time": header.time_s,
                "console": "wrap" if header.console else "off",
                "silent": True,
            }
        else:
            # What is printed here reaches the journal, and from there W&B, without secrets.
            can_tell = hasattr(wandb.Run, "_console_raw_callback")
            settings["console"] = "wrap_raw" if header.console and can_tell else "off"
            # The client would record this process's own command line with whatever stands in it.
            settings["x_disable_meta"] = list(header.argv) != sys.argv
        return wandb.Settings(**{key: v for key, v in settings.items() if v is not None})

    def holdings(self, header: Header, segments: Sequence[Path]) -> list[Holding]:
        """Return the server, and the offline directories not uploaded. See `Backend.holdings`."""
        keep_files_in(client_directory(self._place.run_dir), lasting=True)
        ledger, notes = self._place.ledger, load_notes(self._place.ledger)
        local = [p for p in segments if _is_offline_only(ledger.segments.get(p.name))]
        remote = tuple(path for path in segments if path not in local)
        found = []
        if local:
            folders = [self._base / "wandb" / name for name in notes.offline_directories]
            files = [file for folder in folders for file in folder.glob("run-*.wandb")]
            names = ", ".join(folder.name for folder in folders)
            found.append(
                Holding(
                    place=names or "no offline directory",
                    segments=tuple(local),
                    rows=lambda: as_held(FileHistory(files).rows()),
                    kept=kept,
                )
            )
        if remote:
            path = _path_of(ledger.url, header)
            history = ServerHistory(path)
            passes = itertools.chain((False,), itertools.repeat(True))

            def rows() -> Iterator[Held]:
                ours = watched(numbered_rows(remote), self._place.progress)
                lowest = min((numbered.row.step for numbered in ours), default=0)
                return as_held(history.rows(max(0, lowest), closely=next(passes)))

            found.append(
                Holding(place=f"the server's {path}", segments=remote, rows=rows, kept=kept)
            )
        return found

    def abandon(self) -> None:
        """Stop wandb-core, which frees the run id; ends every other W&B run in the process too."""
        if self._session is not None:
            self._one_by_one = self._one_by_one or self._session.is_doubtful
            self._session.close()
            if self._session.uploading:  # teardown waits for its end, which may never come
                kill_children(os.getpid(), self.helper)
            self._session = None
        if "wandb" in sys.modules:
            with contextlib.suppress(*failures()):
                import_wandb().teardown(exit_code=1)
        if self._presence is not None:  # until nothing is sent any more
            self._presence.close()
            self._presence = None


def _is_offline_only(state: SegmentLedger | None) -> bool:
    return state is not None and state.offline_proof is not None and state.proof is None


def _path_of(url: str | None, header: Header) -> str:
    """Return a run's `entity/project/id`, from its page's address if it has been online."""
    if url is not None:
        *_, entity, project, _, run_id = map(unquote, urlsplit(url).path.split("/"))
        return f"{entity}/{project}/{run_id}"
    try:
        entity = header.entity or import_wandb().Api().default_entity
    except failures(ValueError) as error:
        raise BackendUnavailableError(one_line(error)) from error
    return f"{entity}/{header.project}/{header.run_id}"


def _trial(header: Header) -> tuple[str | None, str]:
    return header.sweep_id, header.run_id
