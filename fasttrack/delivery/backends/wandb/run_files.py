"""Files of an open W&B run: artifacts, made, uploaded and withdrawn by its client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fasttrack.delivery.backends.wandb.client import failures, import_wandb, one_line
from fasttrack.errors import ArtifactRefusedError, BackendLostError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import wandb

    from fasttrack.journal.entries import Artifact


class RunFiles:
    """What a session does with artifacts.

    Threads: one, beside the session's.
    """

    def __init__(self, run: wandb.Run, *, online: bool) -> None:
        """Take over an open run.

        Args:
            run: the client's.
            online: whether the run is on the server.
        """
        self._run: wandb.Run | None = run
        self._online = online
        self.uploading = False
        """Whether an artifact is on its way now."""

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
        self.uploading = self._online
        try:
            run.log_artifact(artifact, aliases=list(aliases))
            if not self._online:
                return None
            artifact.wait()
        except ValueError as error:
            raise ArtifactRefusedError(one_line(error)) from error
        except failures() as error:
            raise BackendLostError(one_line(error)) from error
        finally:
            self.uploading = False
        return f"the server has it as {artifact.source_name} ({artifact.state.lower()})"

    def withdraw(self, artifact: Any) -> None:
        """Delete a version. See `Session.withdraw`."""
        try:
            artifact.delete(delete_aliases=True)
        except Exception as error:  # the client's own exceptions have no common base here
            raise BackendLostError(one_line(error)) from error

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
