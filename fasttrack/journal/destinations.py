"""Which rows go where: each attempt of a run says so itself, in its header."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from fasttrack.journal.entries import Header


def segments_by_backend(headers: Mapping[Path, Header | None]) -> dict[str, list[Path]]:
    """Return the segments that are for each backend, oldest first.

    Args:
        headers: of the run's segments, oldest first; None where one is damaged, whose rows go
            wherever any of the run's do.
    """
    whole = [header for header in headers.values() if header is not None]
    names = dict.fromkeys(name for header in whole for name in header.backends)
    return {
        name: [path for path, known in headers.items() if known is None or name in known.backends]
        for name in names
    }
