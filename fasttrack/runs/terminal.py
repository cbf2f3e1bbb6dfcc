"""A run in a terminal: which command of W&B's client draws it."""

from __future__ import annotations

import glob
import os
from pathlib import Path
from typing import TYPE_CHECKING

from fasttrack.command import spell_tool
from fasttrack.journal.run_directory import base_directory

if TYPE_CHECKING:
    from fasttrack.runs.local import LocalRun

_PREFIX = "offline-"


def leet_command(run: LocalRun) -> str | None:
    """Return the command that shows `run` in a terminal, its curves live while it is written.

    `wandb leet`, since wandb 0.31, reads the file that W&B's client keeps of every run, offline and
    online, and needs neither account nor network.

    Returns:
        None where there is no such file: the run is not for W&B, or delivery has not begun it.
    """
    folder = base_directory(run.directory) / "wandb"
    found = [
        directory
        for directory in folder.glob(f"*run-????????_??????-{glob.escape(run.run_id)}")
        if next(directory.glob("run-*.wandb"), None) is not None
    ]
    if not found:
        return None
    newest = max(found, key=lambda directory: directory.name.removeprefix(_PREFIX))
    return spell_tool("wandb", "leet", _short(newest))


def _short(path: Path) -> str:
    """Return a path from here where it lies below, else as it is."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
