"""Record what is no row: metadata, configurations and checkpoints."""

from __future__ import annotations

import itertools
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from fasttrack.artifacts.staging import gb, stage, stage_text
from fasttrack.context.config import as_config, config_refusal
from fasttrack.context.redaction import redact
from fasttrack.errors import ConfigurationError
from fasttrack.journal.entries import Artifact, Config, Metadata
from fasttrack.journal.run_directory import staged_directory
from fasttrack.notices import say

if TYPE_CHECKING:
    from collections.abc import Callable

    from fasttrack.artifacts.staging import Staged
    from fasttrack.notices import Notices

_LARGE_BYTES = 5 * 10**9
_COPYING = "fasttrack-copy"  # the name of threads that copy a checkpoint
_MOST_NAMED = 5  # left-out files that are named; a directory may hold thousands


class Recorder:
    """Stage files and note them in the journal.

    Threads: any caller; what takes long runs on threads of its own.
    """

    def __init__(
        self,
        run_id: str,
        segment: Path,
        write: Callable[[Config | Metadata | Artifact], None],
        notices: Notices,
        *,
        upload_models: bool,
        takes_artifacts: bool = True,
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
        """
        self._run_id = run_id
        self._segment = segment
        self._write = write
        self._notices = notices
        self._upload_models = upload_models
        self._takes_artifacts = takes_artifacts
        self._numbers = itertools.count(1)  # of this attempt's artifacts; none is used twice
        self._threads: list[threading.Thread] = []

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

    def log_config(self, config: Any, step: int | None) -> None:
        """Record `config` as the run's configuration and, where one is taken, a YAML artifact.

        Raises:
            ConfigurationError: it has no form with names and values.
            OSError: the run's directory cannot be written.
        """
        entry = self.update_config(config, "log_config")
        if self._takes_artifacts:
            text = yaml.safe_dump(entry.values, sort_keys=False, allow_unicode=True)
            number, directory = self._next_directory()
            staged = stage_text("config.yaml", text, directory)
            self._commit(staged, number, "config", ("latest",), step)

    def log_checkpoint(
        self, path: str | Path, aliases: tuple[str, ...], force: bool, step: int | None
    ) -> None:
        """Stage the checkpoint at `path` and have it uploaded, if policy or `force` says so.

        Raises:
            ConfigurationError: there is nothing to upload, or no room for a copy.
            OSError: the run's directory cannot be written.
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
        number, directory = self._next_directory()
        staged = stage(Path(path), directory)
        say(f"uploading checkpoint {path}: {gb(staged.size_bytes)} in {staged.files} files")
        if staged.size_bytes > _LARGE_BYTES:
            say(
                f"warning: {gb(staged.size_bytes)} is a lot to upload; consolidate the checkpoint "
                "first (DeepSpeed: zero_to_fp32.py)"
            )
        if staged.skipped:
            named = ", ".join(staged.skipped[:_MOST_NAMED])
            more = len(staged.skipped) - _MOST_NAMED
            say(f"left out of {path}: {named}{f' and {more} more' if more > 0 else ''}")
        if staged.complete:
            self._commit(staged, number, "model", aliases, step)
        else:  # another file system: copying takes as long as it takes
            self._in_background(
                f"the copy of {path}",
                lambda: self._commit(staged, number, "model", aliases, step),
                copies=True,
            )

    def _next_directory(self) -> tuple[int, Path]:
        number = next(self._numbers)
        return number, staged_directory(self._segment, number)

    def _commit(
        self, staged: Staged, number: int, kind: str, aliases: tuple[str, ...], step: int | None
    ) -> None:
        staged.finish()
        self._write(
            Artifact(
                number=number,
                type=kind,
                name=f"{kind}-{self._run_id}",
                aliases=aliases,
                directory=str(staged.directory.relative_to(self._segment.parent)),
                files=staged.files,
                size_bytes=staged.size_bytes,
                step=step,
                time_s=time.time(),
            )
        )

    def _in_background(self, what: str, task: Callable[[], None], *, copies: bool = False) -> None:
        def run() -> None:
            try:
                task()
            except Exception as error:  # this thread's boundary: nothing may reach training
                self._notices.count("failed_calls")
                self._notices.warn(f"background:{what}", f"{what} failed: {error!r}")

        name = _COPYING if copies else "fasttrack-recorder"
        thread = threading.Thread(target=run, name=name, daemon=True)
        thread.start()
        self._threads = [t for t in self._threads if t.is_alive()] + [thread]

    @property
    def copying(self) -> bool:
        """Whether a checkpoint is still being copied."""
        return any(thread.name == _COPYING and thread.is_alive() for thread in self._threads)

    def wait(self, timeout_s: float) -> bool:
        """Wait until all is in the journal; return whether it is. Blocks on the disk and git."""
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)
