"""The journal's media: rows without a number, that hold something to be seen or heard.

A line of kind "media" has the keys `seq`, `step` and `time` of a row, `name`, `type`, `files` and
`about`. It is a row like others: it has a number of its own among them, and its place, so that
whatever counts rows, or finds out which have arrived, does it with media as well. Contents lie
beside the journal, each once, under a name made of their hash; a histogram, which is small, stands
in the line.
"""

from __future__ import annotations

import hashlib
import re
import struct
from typing import TYPE_CHECKING, Any, ClassVar, Final

import orjson

from fasttrack.journal.rows import Row

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

MEDIA_TYPES: Final = ("image", "histogram", "table", "audio", "html", "text", "video")
ID_LENGTH: Final = 20
"""Characters of a file's name that tell its contents from others, 80 bits of their hash."""

_NAME = re.compile(rf"[0-9a-f]{{{ID_LENGTH}}}\.[a-z0-9]{{1,8}}")


class MediaRow(Row):
    """Something that was logged and is no number; what looks for numbers finds none.

    Threads: one at a time.
    """

    kind: ClassVar[str] = "media"
    __slots__ = ("about", "files", "name", "type")

    def __init__(
        self,
        seq: int,
        step: int,
        time_s: float,
        *,
        name: str,
        type: str,
        files: tuple[str, ...] = (),
        about: Mapping[str, Any] | None = None,
    ) -> None:
        """Be a row.

        Args:
            seq: its number among the segment's rows, from 0.
            step: the user's training step.
            time_s: "time": when it was logged.
            name: what it was logged as.
            type: one of `MEDIA_TYPES`.
            files: names of its contents in the run's `media/`; several where it was a list.
            about: what else is known. `captions`: one for each file, or None; `many`: whether it
                was a list; `counts` and `bins`: a histogram's, with one edge more than counts.
        """
        super().__init__(seq, step, time_s, {})
        self.name: Final = name
        self.type: Final = type
        self.files: Final = files
        self.about: Final = dict(about or {})

    def only(self, names: Iterable[str]) -> Row:
        """Return itself: it has one part."""
        return self

    def with_values(self, values: Mapping[str, Any]) -> Row:
        """Return itself: it has none."""
        return self

    @property
    def identity(self) -> str:
        """What tells its contents from others, wherever they went."""
        if self.type == "histogram":
            return histogram_identity(self.about.get("counts", ()), self.about.get("bins", ()))
        return files_identity(self.files)

    def __eq__(self, other: object) -> bool:
        """Compare all that the journal holds of it."""
        if not isinstance(other, MediaRow):
            return NotImplemented
        return encode_media(self) == encode_media(other)

    __hash__ = None

    def __repr__(self) -> str:
        """Return it as it is written in code."""
        told = f"name={self.name!r}, type={self.type!r}, files={self.files}, about={self.about}"
        return f"MediaRow({self.seq}, {self.step}, {self.time_s}, {told})"


def content_name(contents: bytes, extension: str) -> str:
    """Return the name under which contents are kept. Takes a millisecond for a megabyte or two."""
    return f"{hashlib.sha256(contents).hexdigest()[:ID_LENGTH]}.{extension}"


def files_identity(names: Iterable[str]) -> str:
    """Return what tells files of `content_name`'s from others."""
    return f"media {','.join(name[:ID_LENGTH] for name in names)}"


def histogram_identity(counts: Sequence[float], bins: Sequence[float]) -> str:
    """Return what tells a histogram from others: equal numbers are equal, however spelled."""
    numbers = [*map(float, counts), *map(float, bins)]
    told = struct.pack(f"<{len(numbers)}d", *numbers)
    return f"media {hashlib.sha256(told).hexdigest()[:ID_LENGTH]}"


def encode_media(row: MediaRow) -> bytes:
    """Return the line of one.

    Raises:
        TypeError: something in it is not representable in JSON.
    """
    line = {
        "kind": row.kind,
        "seq": row.seq,
        "step": row.step,
        "time": row.time_s,
        "name": row.name,
        "type": row.type,
        "files": row.files,
        "about": row.about,
    }
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)


def media_of(found: dict[str, Any]) -> MediaRow:
    """Return the row that a line's JSON object holds.

    Raises:
        ValueError: a field is not what it must be.
        KeyError: one is missing.
    """
    seq, step, time_s = found["seq"], found["step"], found["time"]
    name, kind, files, about = (found[key] for key in ("name", "type", "files", "about"))
    if type(seq) is not int or type(step) is not int or type(time_s) not in (int, float):
        raise ValueError("its number, step or time is none")
    if type(name) is not str or type(kind) is not str or type(about) is not dict:
        raise ValueError("its name, type or description is none")
    if type(files) is not list or not all(
        type(file) is str and _NAME.fullmatch(file) for file in files
    ):
        raise ValueError("its files are not named as contents are")  # nor may they lie elsewhere
    if kind == "histogram" and not _is_histogram(about):
        raise ValueError("it is no histogram")
    return MediaRow(seq, step, time_s, name=name, type=kind, files=tuple(files), about=about)


def _is_histogram(about: dict[str, Any]) -> bool:
    counts, bins = about.get("counts"), about.get("bins")
    if type(counts) is not list or type(bins) is not list or len(bins) != len(counts) + 1:
        return False
    return all(type(number) in (int, float) for number in (*counts, *bins))
