"""What the W&B backend must remember of a run beyond the process's end, in its ledger's notes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fasttrack.journal.cursor import Ledger


@dataclass(kw_only=True)
class SegmentSteps:
    """The W&B `_step`s of one segment."""

    base_step: int | None = None
    """The highest `_step` taken before this segment's first row that has not arrived; None: not
    settled yet."""
    base_lines: int | None = None
    """How many lines the server had by then; None: not known."""
    last_step: int = -1
    """The `_step` of the last row up to and including this segment."""


@dataclass(kw_only=True)
class Notes:
    """The backend's own facts on a run."""

    open_directory: str | None = None
    """Name of the offline run directory being written now; useless if the process died over it."""
    offline_directories: list[str] = field(default_factory=list)
    """Names of finished offline run directories, which `wandb sync` takes."""
    segments: dict[str, SegmentSteps] = field(default_factory=dict)

    def segment(self, name: str) -> SegmentSteps:
        """Return the steps of segment `name`, made new where nothing is known."""
        return self.segments.setdefault(name, SegmentSteps())

    def store(self, ledger: Ledger) -> None:
        """Put all of it into `ledger`."""
        ledger.notes = asdict(self)


def load_notes(ledger: Ledger) -> Notes:
    """Return what `ledger` holds; notes of an unknown shape count as none."""
    try:
        told = {**ledger.notes}
        segments = {name: SegmentSteps(**steps) for name, steps in told.pop("segments", {}).items()}
        return Notes(segments=segments, **told)
    except (TypeError, AttributeError):
        return Notes()
