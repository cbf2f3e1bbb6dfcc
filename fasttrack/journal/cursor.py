"""`cursor.json`: what of a run has been delivered, and what proves it. Written by the courier."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from pathlib import Path

_VERSION = 1


@dataclass(kw_only=True)
class SegmentState:
    """What is known of one segment's delivery."""

    base_step: int | None = None
    """The highest W&B `_step` taken before this segment's first row that is not `arrived`; None:
    not settled yet."""
    arrived: int = 0
    """How many of its first rows the server was found to have, before another directory's rows."""
    rows: int = 0
    """Rows that the segment held when it was last delivered."""
    last_step: int = -1
    """The W&B `_step` of the last row up to and including this segment."""
    size_bytes: int = 0
    """Size of the segment when it was last read to its end; the proofs are for so much."""
    online_proof: str | None = None
    """How we know that the server has every row; None: it may not."""
    offline_proof: str | None = None
    """How we know that an offline run directory holds every row; None: it may not."""
    artifacts: dict[str, str | None] = field(default_factory=dict)
    """By number: how we know that the server has the artifact, or why it never will; None: it may
    not."""


@dataclass(kw_only=True)
class Cursor:
    """The state of a run's delivery."""

    version: int = _VERSION
    url: str | None = None
    open_directory: str | None = None
    """Name of the offline run directory being written now; useless if the courier died over it."""
    offline_directories: list[str] = field(default_factory=list)
    """Names of finished offline run directories, which `wandb sync` takes."""
    segments: dict[str, SegmentState] = field(default_factory=dict)

    def segment(self, name: str) -> SegmentState:
        """Return the state of segment `name`, made new where it is unknown."""
        return self.segments.setdefault(name, SegmentState())

    def save(self, path: Path) -> None:
        """Replace the file at `path` in one step."""
        scratch = path.with_suffix(".tmp")
        with open(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(orjson.dumps(asdict(self), option=orjson.OPT_INDENT_2))
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)


def load_cursor(path: Path) -> Cursor:
    """Return the cursor saved at `path`; an unknown or damaged one counts as nothing delivered."""
    try:
        saved: dict[str, Any] = orjson.loads(path.read_bytes())
        states = {name: SegmentState(**state) for name, state in saved.pop("segments").items()}
        cursor = Cursor(segments=states, **saved)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return Cursor()
    return cursor if cursor.version == _VERSION else Cursor()
