"""W&B's run directories under `wandb/`, and the marks that `wandb sync` leaves and heeds."""

from __future__ import annotations

import glob
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_OFFLINE = "offline-run-"


def online_directories(base: Path, run_id: str) -> set[Path]:
    """Return the directories that online sessions of a run have left under `base`."""
    # Not any time: a run called "a" must not be taken for the end of one called "b-a".
    return set((base / "wandb").glob(f"run-????????_??????-{glob.escape(run_id)}"))


def discard(directory: Path) -> None:
    """Remove an offline run directory that was not finished: all of its rows are replayed."""
    if directory.name.startswith(_OFFLINE):
        shutil.rmtree(directory, ignore_errors=True)


def is_synced(directory: Path) -> bool:
    """Return whether `wandb sync` has been over an offline run directory. Proves no upload."""
    marker = _marker(directory)
    return marker is not None and marker.exists()


def mark_synced(directory: Path) -> str | None:
    """Have `wandb sync` skip an offline run directory: it would upload the rows a second time.

    Returns:
        In words why it cannot be marked; None where it is, or is not there.
    """
    marker = _marker(directory)
    if marker is None or marker.exists():
        return None
    try:
        marker.touch()
    except OSError as error:
        why = error.strerror or str(error)
        return f"{directory.name} cannot be marked as uploaded ({why}): never 'wandb sync' it"
    return None


def _marker(directory: Path) -> Path | None:
    file = next(directory.glob("run-*.wandb"), None)
    return None if file is None else file.with_name(file.name + ".synced")
