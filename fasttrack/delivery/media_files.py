"""The files of a run's media, as delivery hands them on: pictures are made small before.

The trainer writes pictures uncompressed, which costs it next to nothing. Whoever delivers one first
puts the same picture, compressed, in its place.
"""

from __future__ import annotations

import errno
import os
import struct
import threading
import zlib
from typing import TYPE_CHECKING

from fasttrack.journal.run_directory import media_directory

if TYPE_CHECKING:
    from pathlib import Path

    from fasttrack.journal.media import MediaRow

_PNG = b"\x89PNG\r\n\x1a\n"
_HEADER = struct.Struct(">II")
_BEFORE_DATA = 8 + 25 + 8  # the signature, a chunk IHDR, and what a chunk IDAT begins with
_STORED = b"\x78\x01"  # how zlib's data begin that are not compressed


def files_of(row: MediaRow, run_dir: Path) -> list[Path]:
    """Return the files of a row, pictures compressed. Blocks on the disk, some ms for each.

    Raises:
        FileNotFoundError: one is not there.
        OSError: one cannot be read, or is damaged.
    """
    paths = [media_directory(run_dir) / name for name in row.files]
    for path in paths:
        _compress(path)
    return paths


def _compress(path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(_BEFORE_DATA + 2)
        if not start.startswith(_PNG) or start[_BEFORE_DATA:] != _STORED:
            return
        contents = start + file.read()
    try:
        small = _with_pillow(contents) or _with_zlib(contents)
    except (struct.error, zlib.error) as error:  # after a power cut, say: nothing is fsynced
        raise damaged(path) from error
    scratch = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        scratch.write_bytes(small)
        scratch.replace(path)
    except OSError:  # as it is, it can be shown, too
        scratch.unlink(missing_ok=True)


def _with_pillow(contents: bytes) -> bytes | None:
    """Return a PNG file by Pillow, whose filters make it smaller; None where it makes none."""
    try:
        from PIL import Image
    except ImportError:
        return None
    import io

    small = io.BytesIO()
    too_large = (Image.DecompressionBombError, Image.DecompressionBombWarning)
    try:
        with Image.open(io.BytesIO(contents)) as picture:
            picture.save(small, "PNG")
    except (OSError, SyntaxError, ValueError, *too_large):
        return None
    return small.getvalue()


def damaged(path: Path) -> OSError:
    """Return what to raise where a file does not hold what was written."""
    return OSError(errno.EBADMSG, "its file is damaged", str(path))


def _with_zlib(contents: bytes) -> bytes:
    """Return a PNG file that our own encoder has made, its one chunk of data compressed."""
    (length,) = struct.unpack(">I", contents[_BEFORE_DATA - 8 : _BEFORE_DATA - 4])
    pixels = zlib.decompress(contents[_BEFORE_DATA : _BEFORE_DATA + length])
    data = zlib.compress(pixels)
    kind = b"IDAT"
    chunk = struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return contents[: _BEFORE_DATA - 8] + chunk + contents[_BEFORE_DATA + length + 4 :]


def png_size(contents: bytes) -> tuple[int, int] | None:
    """Return the width and height that a PNG file says it has; None of another file."""
    if not contents.startswith(_PNG) or len(contents) < _BEFORE_DATA:
        return None
    width, height = _HEADER.unpack(contents[16:24])
    return width, height
