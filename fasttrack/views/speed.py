"""What bounds a run and how it stands with its ranks, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fasttrack.runs.ranks import RanksHealth
    from fasttrack.runs.status import RunStatus
    from fasttrack.runs.verdict import Verdict


def tell_speed(
    ranks: RanksHealth | None, verdict: Verdict | None, status: RunStatus
) -> dict[str, str]:
    """Return a line for each of them that is known, by name."""
    told = {}
    if ranks is not None:
        told["ranks"] = ranks.tell(now=status.word.startswith("running"))
    if verdict is not None:
        told["verdict"] = str(verdict)
    return told
