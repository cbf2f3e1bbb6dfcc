"""Record what is no row: metadata, configurations and checkpoints."""

from __future__ import annotations

import itertools
import math
import shutil
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fasttrack.context.config import as_config, config_refusal
from fasttrack.errors import ConfigurationError, FasttrackError
from fasttrack.journal.entries import Artifact, Config, Metadata, Page
from fasttrack.journal.run_directory import staged_directory
from fasttrack.journal.trouble import LEVELS, AskedAlert
from fasttrack.latch import Latch
from fasttrack.notices import gb, say
from fasttrack.redaction import redact, redact_text
from fasttrack.validation import require_choice

if TYPE_CHECKING:
    from collections.abc import Callable

    from fasttrack.artifacts.snapshot import Staged
    from fasttrack.journal.entries import Recorded
    from fasttrack.journal.trouble import RanksStanding
    from fasttrack.notices import Notices

_LARGE_BYTES = 5 * 10**9
_POLL_S = 0.01
_MOST_NAMED = 5  # left-out files that are named; a directory may hold thousands


class Recorder:
    """Stage files and note them in the journal.

    Threads: any caller; what takes long runs on threads of its own.
    """

    def __init__(
        self,
        run_id: str,
        segment: Path,
        write: Callable[[Recorded], None],
        notices: Notices,
        *,
        upload_models: bool,
        takes_artifacts: bool = True,
        copy_wait_s: float,
        is_offline: Callable[[], bool] = lambda: False,
    ) -> None:
        """Prepare.

        Args:
            run_id: names the artifacts.
            segment: the attempt's journal, beside which files are staged.
            write: takes a journal entry; never waits.
            notices: counts and says what goes wrong.
            upload_models: whether checkpoints are uploaded unless forced.
            takes_artifacts: whether the run has a backend that files can be uploaded to; where
                not, none are staged.
            copy_wait_s: how long `log_checkpoint` may wait for a copy of the files.
            is_offline: whether files wait for a later upload, for what is said.
        """
        self._run_id = run_id
        self._segment = segment
        self._write = write
        self._notices = notices
        self._upload_models = upload_models
        self._takes_artifacts = takes_artifacts
        self._copy_wait_s = copy_wait_s
        self._is_offline = is_offline
        self._numbers = itertools.count(1)  # of this attempt's artifacts; none is used twice
        self._running: set[Latch] = set()  # ends of what is under way
        self._last_kept = Latch()  # the end of the newest checkpoint's copy
        self._last_kept.open()
        self._is_cut_short = False

    def record_metadata(self, get_metadata: Callable[[], dict[str, Any]]) -> None:
        """Write what `get_metadata` returns; it asks git, which may take seconds."""
        self._in_background(
            "metadata", lambda: self._write(Metadata(get_metadata(), time_s=time.time()))
        )

    def update_config(self, config: Any, method: str = "update_config") -> Config:
        """Add `config` to the run's configuration; return the journal's entry.

        Args:
            config: anything with names and values.
            method: what the user called, for the warning.

        Raises:
            ConfigurationError: it has no form with names and values.
        """
        unrepresented: list[str] = []
        plain = as_config(config, unrepresented)
        if plain is None:
            raise ConfigurationError(config_refusal(config))
        if unrepresented:
            self._notices.warn(
                "config_text",
                f"{method}: written as text, having no plain form: {', '.join(unrepresented)}",
            )
        entry = Config(redact(plain), time_s=time.time())
        self._write(entry)
        return entry

    def describe(self, page: Page) -> None:
        """Add to how the run is shown; secrets are redacted.

        Raises:
            TypeError: something in it has no plain form.
        """
        now_s = time.time()
        told = {name: getattr(page, name) for name in ("name", "notes", "summary", "metrics")}
        plain = redact(as_config(told) or {})
        self._write(Page(**plain, tags=page.tags, time_s=now_s))

    def alert(self, title: Any, text: Any, level: Any, step: int | None, *, heard: bool) -> None:
        """Note that the program asks for an alert; secrets are redacted.

        Args:
            title: what it is about.
            text: all of it.
            level: of `LEVELS`.
            step: the last training step.
            heard: whether anybody tells alerts; where not, it is only said here.

        Raises:
            ConfigurationError: the level is none.
        """
        require_choice("level", level, LEVELS)
        alert = AskedAlert(
            title=redact_text(str(title)),
            text=redact_text(str(text)),
            level=level,
            step=step,
            time_s=time.time(),
        )
        self._write(alert)
        if not heard:
            told = ": ".join(part for part in (alert.title, alert.text) if part)
            self._notices.warn(f"alert:{alert.title}", f"alert (sent nowhere): {told}")

    def note(self, entry: RanksStanding) -> None:
        """Record how it stands with the ranks. On any thread."""
        self._write(entry)

    def log_config(self, config: Any, step: int | None) -> None:
        """Record `config` as the run's configuration and, where one is taken, a YAML artifact.

        Raises:
            ConfigurationError: it has no form with names and values.
            OSError: the run's directory cannot be written.
        """
        entry = self.update_config(config, "log_config")
        if self._takes_artifacts:
            # 0.8 MB, which most runs never need; nor does the constructor wait for ours
            import yaml

            from fasttrack.artifacts.staging import stage_text

            text = yaml.safe_dump(entry.values, sort_keys=False, allow_unicode=True)
            number, directory = self._next_directory()
            staged = stage_text("config.yaml", text, directory)
            staged.finish()
            self._commit(staged, number, "config", ("latest",), step)

    def log_checkpoint(
        self,
        path: str | Path,
        aliases: tuple[str, ...],
        force: bool,
        step: int | None,
        *,
        kind: str = "model",
        name: str | None = None,
    ) -> None:
        """Keep the checkpoint at `path` and have it uploaded, if policy or `force` says so.

        Blocks until its contents are ours, up to `copy_wait_s`; what then goes wrong is said.

        Args:
            path: a file or a directory.
            aliases: of the version.
            force: whether it is uploaded whatever the policy.
            step: at which it was logged.
            kind: the artifact's type.
            name: its name; None: made of the type and the run's id.

        Raises:
            ConfigurationError: there is nothing to upload, or no room for a copy.
            OSError: the run's directory cannot be written, or somebody writes to the files.
        """
        if not self._takes_artifacts:
            self._notices.warn(
                "no_artifacts",
                f"log_checkpoint: {path} is not uploaded: this run has no backend that takes files",
            )
            return
        if not (force or self._upload_models):
            self._notices.warn(
                "log_model",
                "checkpoints are not uploaded: set WANDB_LOG_MODEL=1 to upload all, or pass "
                "force=True to log_checkpoint for one",
            )
            return
        from fasttrack.artifacts.staging import stage  # few runs need it

        number, directory = self._next_directory()
        staged = stage(Path(path), directory)
        # One after another: versions, and with them aliases, follow in the order of the calls.
        self._last_kept = kept = self._in_background(
            f"log_checkpoint of {path}",
            lambda: self._keep(path, staged, number, kind, name, aliases, step),
            after=self._last_kept,
        )
        if not kept.wait(self._copy_wait_s) and self._copy_wait_s:
            self._notices.warn(
                f"copying:{path}",
                f"log_checkpoint has waited {self._copy_wait_s:g} s for a copy of {path}, which "
                "goes on; if the file is overwritten before it is done, this version is lost",
            )

    def _keep(
        self,
        path: str | Path,
        staged: Staged,
        number: int,
        kind: str,
        name: str | None,
        aliases: tuple[str, ...],
        step: int | None,
    ) -> None:
        """Make a snapshot our own, and note it in the journal. Blocks on the disk."""
        to_copy_bytes = staged.clone()
        size = f"{gb(staged.size_bytes)} in {staged.files} files"
        until = ""
        if to_copy_bytes:
            free = shutil.disk_usage(staged.directory).free
            until = f"; until then a copy takes {gb(to_copy_bytes)} of {gb(free)} free"
        what = "checkpoint" if kind == "model" else kind
        if self._is_offline():
            say(f"keeping {what} {path} for an upload: {size}{until}")
        else:
            say(f"uploading {what} {path}: {size}{until}")
        if staged.size_bytes > _LARGE_BYTES:
            say(
                f"warning: {gb(staged.size_bytes)} is a lot to upload; consolidate the checkpoint "
                "first (DeepSpeed: zero_to_fp32.py)"
            )
        if staged.skipped:
            named = ", ".join(staged.skipped[:_MOST_NAMED])
            more = len(staged.skipped) - _MOST_NAMED
            say(f"left out of {path}: {named}{f' and {more} more' if more > 0 else ''}")
        staged.finish(lambda: self._is_cut_short)
        if staged.no_room is not None:
            say(
                f"warning: no room for a copy of {path} ({staged.no_room}): its files are linked; "
                "if they are overwritten in place before they are uploaded, this version is lost"
            )
        self._commit(staged, number, kind, aliases, step, name)

    def _next_directory(self) -> tuple[int, Path]:
        number = next(self._numbers)
        return number, staged_directory(self._segment, number)

    def _commit(
        self,
        staged: Staged,
        number: int,
        kind: str,
        aliases: tuple[str, ...],
        step: int | None,
        name: str | None = None,
    ) -> None:
        self._write(
            Artifact(
                number=number,
                type=kind,
                name=name or f"{kind}-{self._run_id}",
                aliases=aliases,
                directory=str(staged.directory.relative_to(self._segment.parent)),
                files=staged.files,
                size_bytes=staged.size_bytes,
                step=step,
                time_s=time.time(),
            )
        )

    # --- what takes long --------------------------------------------------------------------------

    def _in_background(
        self, name: str, task: Callable[[], None], after: Latch | None = None
    ) -> Latch:
        """Do `task` on a thread of its own, once `after` is open; return what is open at its end.

        What goes wrong is counted, and said under `name`.
        """
        done = Latch()
        self._running.add(done)

        def run() -> None:
            if after is not None:
                after.wait(math.inf)
            try:
                task()
            except Exception as error:  # this thread's boundary: nothing may reach training
                self._notices.lose("failed_calls", name, _in_words(error), result="it is not kept")
            finally:
                self._running.discard(done)
                done.open()

        thread = threading.Thread(target=run, name="fasttrack-recorder", daemon=True)
        try:
            thread.start()
        except BaseException:  # no thread is left, say: nobody is to wait for it
            self._running.discard(done)
            raise
        return done

    @property
    def busy(self) -> bool:
        """Whether something is still being copied, or git asked."""
        return bool(self._running)

    def wait(self, timeout_s: float) -> bool:
        """Wait until all is in the journal; return whether it is. Blocks on the disk and git."""
        deadline = time.monotonic() + timeout_s
        waited_for = set(self._running)
        while not waited_for.isdisjoint(self._running):
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL_S)
        return True

    def cut_short(self, timeout_s: float) -> bool:
        """Leave links where contents are not copied yet; return whether no checkpoint is lost.

        For a process that is about to end, and so will not write to its files any more. Blocks for
        the piece that is being copied, up to `timeout_s`.
        """
        self._is_cut_short = True
        deadline = time.monotonic() + timeout_s
        while self._last_kept in self._running and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        return self._last_kept not in self._running


def _in_words(error: Exception) -> str:
    return str(error) if isinstance(error, (OSError, FasttrackError)) else repr(error)
