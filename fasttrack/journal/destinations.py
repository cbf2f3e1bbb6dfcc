"""Which rows go where: each attempt of a run says so in its header; more may be asked for later."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fasttrack.journal.entries import DEFAULT_BACKENDS, Header
from fasttrack.journal.reader import count_rows, read_header
from fasttrack.journal.run_directory import attempt

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path


def headers_of(paths: Sequence[Path], backends: Sequence[str]) -> dict[Path, Header | None]:
    """Return the headers of a run's segments, oldest first; None where one is damaged.

    Segments that hold nothing are left out: the disk was full when their attempt began. Where all
    headers are damaged, the directory's name says what the rows are of.

    Args:
        paths: the segments, at least one.
        backends: where the run's rows have gone before, which counts where all headers are damaged;
            empty: not known, so where a run's go unless it says otherwise.

    Raises:
        ValueError: none of the segments has a header or a row.
        OSError: one cannot be read.
    """
    headers = {path: read_header(path) for path in paths}
    if not any(headers.values()):
        headers |= {
            path: Header(
                run_id=path.parent.name,
                attempt=attempt(path),
                resumed=True,
                backends=tuple(backends) or DEFAULT_BACKENDS,
            )
            for path in paths
            if count_rows(path)
        }
    if not any(headers.values()):
        raise ValueError(f"{paths[-1]} and the segments before it have neither header nor rows")
    return {path: header for path, header in headers.items() if header or count_rows(path)}


def segments_by_backend(
    headers: Mapping[Path, Header | None], added: Iterable[str] = ()
) -> dict[str, list[Path]]:
    """Return the segments that are for each backend, oldest first.

    Args:
        headers: of the run's segments, oldest first; None where one is damaged, whose rows go
            wherever any of the run's do.
        added: backends that were asked for after the run was recorded: all segments are for those.
    """
    whole = [header for header in headers.values() if header is not None]
    names = dict.fromkeys(name for header in whole for name in header.backends)
    found = {
        name: [path for path, known in headers.items() if known is None or name in known.backends]
        for name in names
    }
    return found | {name: list(headers) for name in added}
