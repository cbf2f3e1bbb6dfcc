"""Media as TensorBoard has them: summaries of its plugins for images, histograms, audio and text.

What has no plugin becomes text: a table in Markdown, a page as its source. Each summary carries
what tells its contents from others in `node_name`, which TensorBoard passes over.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import orjson
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.proto.types_pb2 import DT_DOUBLE, DT_STRING
from tensorboard.plugins.audio import metadata as audio
from tensorboard.plugins.histogram import metadata as histogram
from tensorboard.plugins.image import metadata as image
from tensorboard.plugins.text import metadata as text

from fasttrack.delivery.media_files import damaged, files_of, png_size

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from tensorboard.compat.proto.event_pb2 import Event

    from fasttrack.journal.media import MediaRow

_MARK = "media "  # with which the identities begin
_MOST_ROWS = 200  # of a table; the page would be slow


def media_in(event: Event) -> dict[str, str] | None:
    """Return what media of ours an event holds, each by its name; None: it holds none."""
    if event.WhichOneof("what") != "summary":
        return None
    values = [value for value in event.summary.value if value.node_name.startswith(_MARK)]
    return {value.tag: value.node_name for value in values} or None


def media_summary(row: MediaRow, run_dir: Path, leave_out: Callable[[str], None]) -> Summary.Value:
    """Return what becomes of a row of media; text that says so, where its file is gone.

    Args:
        row: the journal's.
        run_dir: where its files are.
        leave_out: told what cannot be shown.
    """
    value = Summary.Value(tag=row.name, node_name=row.identity)
    if row.type == "histogram":
        _add_histogram(value, row.about["counts"], row.about["bins"])
        return value
    try:
        paths = files_of(row, run_dir)
        _add_files(value, row, paths)
    except OSError as error:
        leave_out(f"what {row.name!r} showed at step {row.step} ({error.strerror})")
        _add_text(value, f"(its file is not there: {error.strerror})")
    return value


def _add_files(value: Summary.Value, row: MediaRow, paths: Sequence[Path]) -> None:
    extension = paths[0].suffix
    if row.type == "image" or extension == ".gif":
        _add_pictures(value, [path.read_bytes() for path in paths])
    elif row.type == "audio" and extension == ".wav":
        _add_sound(value, row.about, [path.read_bytes() for path in paths])
    elif row.type == "table":
        _add_text(value, _table(paths[0]))
    elif row.type in ("text", "html"):
        told = paths[0].read_text(encoding="utf-8", errors="replace")
        _add_text(value, textwrap.indent(told, "    ", lambda line: True))
    else:
        _add_text(value, f"({row.type} in {extension[1:]}: TensorBoard does not play it)")


def _table(path: Path) -> str:
    try:
        told = orjson.loads(path.read_bytes())
        return _as_markdown(told["columns"], told["data"])
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(path) from error


def _add_pictures(value: Summary.Value, pictures: list[bytes]) -> None:
    width, height = _size(pictures[0])
    value.metadata.CopyFrom(image.create_summary_metadata("", ""))
    _set_strings(value, [str(width).encode(), str(height).encode(), *pictures])


def _size(picture: bytes) -> tuple[int, int]:
    """Return a picture's width and height, as far as it can be found out."""
    if (known := png_size(picture)) is not None:
        return known
    import io

    try:
        from PIL import Image
    except ImportError:
        return 1, 1
    too_large = (Image.DecompressionBombError, Image.DecompressionBombWarning)
    try:
        with Image.open(io.BytesIO(picture)) as opened:
            width, height = opened.size
            return width, height
    except (OSError, *too_large):
        return 1, 1


def _add_sound(value: Summary.Value, about: dict[str, Any], sounds: list[bytes]) -> None:
    captions = about.get("captions") or [None] * len(sounds)
    encoding = audio.Encoding.Value("WAV")
    value.metadata.CopyFrom(audio.create_summary_metadata("", "", encoding))
    pairs = zip(sounds, captions, strict=True)
    _set_strings(
        value, [told for sound, label in pairs for told in (sound, (label or "").encode())]
    )
    del value.tensor.tensor_shape.dim[:]
    for size in (len(sounds), 2):
        value.tensor.tensor_shape.dim.add(size=size)


def _add_histogram(value: Summary.Value, counts: Sequence[float], bins: Sequence[float]) -> None:
    value.metadata.CopyFrom(histogram.create_summary_metadata("", ""))
    value.tensor.dtype = DT_DOUBLE
    for size in (len(counts), 3):
        value.tensor.tensor_shape.dim.add(size=size)
    for left, right, count in zip(bins, bins[1:], counts, strict=False):
        value.tensor.double_val.extend((left, right, count))


def _add_text(value: Summary.Value, told: str) -> None:
    value.metadata.CopyFrom(text.create_summary_metadata("", ""))
    value.tensor.dtype = DT_STRING
    value.tensor.tensor_shape.SetInParent()
    value.tensor.string_val.append(told.encode())


def _set_strings(value: Summary.Value, told: list[bytes]) -> None:
    value.tensor.dtype = DT_STRING
    value.tensor.tensor_shape.dim.add(size=len(told))
    value.tensor.string_val.extend(told)


def _as_markdown(columns: list[str], rows: list[list[Any]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows[:_MOST_ROWS]]
    told = "\n".join(f"| {' | '.join(map(_as_cell, line))} |" for line in lines)
    more = len(rows) - _MOST_ROWS
    return f"{told}\n\n{more} more rows" if more > 0 else told


def _as_cell(value: object) -> str:
    told = "" if value is None else str(value)
    return told.replace("|", "\\|").replace("\n", " ")
