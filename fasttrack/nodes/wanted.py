"""Whether the hardware of all nodes is wanted at all: few runs load the rest of this folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from fasttrack.nodes.joining import NodeRows
    from fasttrack.notices import Notices
    from fasttrack.settings import RunSettings


def gather_nodes(settings: RunSettings, segment: Path, notices: Notices) -> NodeRows | None:
    """Begin to gather what nodes tell; None where that is not asked for. See `NodeRows`."""
    if settings.options.nodes != "all":
        return None
    from fasttrack.nodes.joining import NodeRows

    return NodeRows(settings, segment, notices)
