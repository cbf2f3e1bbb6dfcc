"""Read the records of a `.wandb` file.

The format is LevelDB's log: a 7-byte file header, then blocks of 32 KiB. A block holds records of
checksum (4 bytes), length (2, little endian), kind (1) and payload; a payload that does not fit is
cut into first, middle and last parts; fewer than 7 bytes at a block's end are padding. A payload
is a serialized `wandb_internal.Record`, which this module leaves undecoded: it needs no wandb.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_BLOCK_BYTES = 32 * 1024
_FILE_HEADER_BYTES = 7
_HEADER = struct.Struct("<IHB")
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


def read_payloads(path: Path) -> Iterator[bytes]:
    """Yield each whole record's payload; a torn tail ends the iteration quietly."""
    parts: list[bytes] = []
    with path.open("rb") as file:
        skip = _FILE_HEADER_BYTES
        while block := file.read(_BLOCK_BYTES):
            offset, skip = skip, 0
            while offset + _HEADER.size <= len(block):
                _, length, kind = _HEADER.unpack_from(block, offset)
                offset += _HEADER.size
                payload = block[offset : offset + length]
                if kind not in (_FULL, _FIRST, _MIDDLE, _LAST) or len(payload) < length:
                    return
                offset += length
                if kind in (_FULL, _FIRST):
                    parts = []
                parts.append(payload)
                if kind in (_FULL, _LAST):
                    yield b"".join(parts)
