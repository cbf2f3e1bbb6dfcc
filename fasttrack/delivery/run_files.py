"""What lies on disk of a run besides its journal: the header as a whole, W&B's own directories."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fasttrack.journal.reader import SegmentReader, read_header

if TYPE_CHECKING:
    from pathlib import Path


def base_directory(run_dir: Path) -> Path:
    """Return the parent of `wandb/`; a run that was copied out of such a tree is its own."""
    parents = run_dir.resolve().parents
    in_tree = len(parents) > 2 and (parents[0].name, parents[1].name) == ("fasttrack", "wandb")
    return parents[2] if in_tree else run_dir.resolve()


def full_header(paths: list[Path]) -> dict[str, Any]:
    """Return the newest header, with what a resumed attempt left out taken from earlier ones."""
    header = read_header(paths[-1])
    # Not recorded but found: a run's directories may be moved, or copied from another machine.
    header["base_dir"] = str(base_directory(paths[-1].parent))
    for path in reversed(paths[:-1]):
        earlier = read_header(path)
        for name in ("name", "tags", "group", "notes", "entity"):
            if header.get(name) is None:
                header[name] = earlier.get(name)
    return header


def read_git(segment: Path) -> dict[str, Any]:
    """Return {"git": what the trainer found out} once `segment` says it near its start, else {}."""
    reader = SegmentReader(segment)
    try:
        for entry in reader.read():
            if entry.get("kind") == "metadata":
                return {"git": entry["values"].get("git") or {}}
    finally:
        reader.close()
    return {}


def is_synced(directory: Path) -> bool:
    """Return whether `wandb sync` has been over an offline run directory. Proves no upload."""
    marker = _marker(directory)
    return marker is not None and marker.exists()


def mark_synced(directory: Path) -> None:
    """Have `wandb sync` skip an offline run directory: it would upload the rows a second time."""
    marker = _marker(directory)
    if marker is not None:
        marker.touch()


def _marker(directory: Path) -> Path | None:
    file = next(directory.glob("run-*.wandb"), None)
    return None if file is None else file.with_name(file.name + ".synced")
