"""What a run logged that is no number, as far as the page shows it: the newest of each name."""

from __future__ import annotations

import base64
from collections import deque
from typing import TYPE_CHECKING, Any

import orjson

from fasttrack.runs.media import LoggedMedia, media_of

if TYPE_CHECKING:
    from pathlib import Path

_NEWEST = 4  # of each name
_MOST_FILES = 16  # of one call
_MOST_BYTES = 6 * 2**20  # of a page's files together, shared by its runs
_MOST_ROWS, _LONGEST_TEXT = 100, 20_000  # of a table; letters of a text
_KINDS = {  # by the ends of files' names: nothing else is shown
    "png": "image/png",
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "gif": "image/gif",
    "webp": "image/webp",
    "bmp": "image/bmp",
    "wav": "audio/wav",
    "mp3": "audio/mpeg",
    "flac": "audio/flac",
    "ogg": "audio/ogg",
    "mp4": "video/mp4",
    "webm": "video/webm",
}


def read_media(run_dir: Path, pages: int = 1) -> list[dict[str, Any]]:
    """Return what the page is told of a run's media, name by name, the oldest first.

    What finds no room, or is gone, is named and not shown.

    Args:
        run_dir: the run's directory.
        pages: among how many runs a page's room is shared.

    Raises:
        OSError: a segment cannot be read.
    """
    found: dict[str, deque[LoggedMedia]] = {}
    for one in media_of(run_dir):
        found.setdefault(one.name, deque(maxlen=_NEWEST)).append(one)
    room = _Room(_MOST_BYTES // pages)
    newest_first = sorted(
        (one for ones in found.values() for one in ones), key=lambda one: one.time_s, reverse=True
    )
    told = {id(one): _tell(one, room) for one in newest_first}
    return [told[id(one)] for name in sorted(found) for one in found[name]]


class _Room:
    """How many bytes of files there is room for."""

    def __init__(self, size_bytes: int) -> None:
        self._left = size_bytes

    def read(self, path: Path) -> bytes | None:
        """Return what a file holds; None: it does not fit in, or is gone."""
        try:
            if path.stat().st_size > self._left:
                return None
            contents = path.read_bytes()
        except OSError:
            return None
        self._left -= len(contents)
        return contents


def _tell(one: LoggedMedia, room: _Room) -> dict[str, Any]:
    told: dict[str, Any] = {
        "name": one.name,
        "kind": one.kind,
        "step": one.step,
        "time_s": one.time_s,
        "captions": list(one.captions),
        "counts": list(one.counts),
        "bins": list(one.bins),
        "files": [],
        "left_out": max(0, len(one.paths) - _MOST_FILES),
    }
    for path in one.paths[:_MOST_FILES]:
        contents = room.read(path)
        shown = None if contents is None else _shown(one.kind, path, contents)
        if shown is None:
            told["left_out"] += 1
        told["files"].append(shown)
    return told


def _shown(kind: str, path: Path, contents: bytes) -> Any:
    """Return a URL that holds the contents, or a text, or a table's columns and rows."""
    if kind in ("text", "html"):
        return contents.decode(errors="replace")[:_LONGEST_TEXT]
    if kind == "table":
        try:
            table = orjson.loads(contents)
            return {"columns": table["columns"], "data": table["data"][:_MOST_ROWS]}
        except (ValueError, KeyError, TypeError):
            return None
    media_type = _KINDS.get(path.suffix[1:])
    if media_type is None:
        return None
    return f"data:{media_type};base64,{base64.b64encode(contents).decode()}"
