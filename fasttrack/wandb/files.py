"""What of a run's files is kept: artifacts, models, and what a script saves."""

from __future__ import annotations

import glob as globbing
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fasttrack.wandb.artifact import Artifact
from fasttrack.wandb.said import lose
from fasttrack.wandb.unknown import Inert, careful, named

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fasttrack.tracker import ExperimentTracker


class Files:
    """The calls of a run that take files. They block while these are copied, and raise nothing.

    Threads: one at a time.
    """

    def __init__(self, tracker: ExperimentTracker, run_id: str) -> None:
        """Hand files to `tracker`, for the run of that id."""
        self._tracker = tracker
        self.id = run_id
        self._logged: list[Artifact] = []  # their links must stay until all is copied

    @careful
    def log_artifact(
        self,
        artifact_or_path: Any,
        name: str | None = None,
        type: str | None = None,
        aliases: Sequence[str] | None = None,
        tags: Any = None,
    ) -> Any:
        """Keep the files of an artifact, or at a path, and have them uploaded.

        Blocks while they are copied, as `ExperimentTracker.log_checkpoint`.
        """
        if isinstance(artifact_or_path, Inert):
            return artifact_or_path
        artifact = artifact_or_path
        if not isinstance(artifact, Artifact):
            given = Path(artifact_or_path)
            artifact = Artifact(name or f"run-{self.id}-{given.name}", type or "unspecified")
            (artifact.add_dir if given.is_dir() else artifact.add_file)(str(given))
        chosen = ("latest",) if aliases is None else tuple(aliases)
        self._logged.append(artifact)
        path = _whole(artifact.directory)
        if path is None:
            lose("log_artifact", f"{artifact.name!r} has no files", "the call was ignored")
        elif artifact.type == "model":
            self._tracker.log_checkpoint(path, chosen, force=True)
        else:
            self._tracker.log_artifact(path, artifact.name, artifact.type, chosen)
        return artifact

    def log_model(
        self, path: Any, name: str | None = None, aliases: Sequence[str] | None = None
    ) -> None:
        """Keep a model's files, and have them uploaded."""
        self.log_artifact(path, name, "model", aliases)

    def use_artifact(self, *args: Any, **further: Any) -> Any:
        """Say that artifacts cannot be fetched."""
        return named("wandb.use_artifact", "use_artifact")

    @careful
    def save(
        self,
        glob_str: Any = None,
        base_path: Any = None,
        policy: str = "live",
        glob: bool = True,
    ) -> list[str]:
        """Keep files as they are now, as an artifact of the type "files"; return their paths."""
        if glob_str is None:
            return []
        pattern = os.fspath(glob_str)
        found = globbing.glob(pattern) if glob else [pattern]
        paths = sorted(path for path in found if os.path.isfile(path))
        if not paths:
            lose("save", f"no file is called {pattern!r}", "the call was ignored")
            return []
        files = Artifact(f"files-{self.id}", "files")
        for path in paths:
            base = base_path if base_path is not None else os.path.dirname(path) or "."
            files.add_file(path, os.path.relpath(path, base))
        self.log_artifact(files)
        return paths


def _whole(folder: Path) -> Path | None:
    """Return what holds an artifact's files: its folder, or its one file; None of none."""
    inner = list(folder.iterdir())
    if len(inner) == 1 and inner[0].is_file() and inner[0].resolve().name == inner[0].name:
        return inner[0].resolve()
    return folder if inner else None
