"""Read the records of a `.wandb` file.

The format is LevelDB's log: a 7-byte file header, then blocks of 32 KiB. A block holds records of
checksum (4 bytes), length (2, little endian), kind (1) and payload; a payload that does not fit is
cut into first, middle and last parts; fewer than 7 bytes at a block's end are padding. A payload
is a serialized `wandb_internal.Record`, which this module leaves undecoded: it needs no wandb.
"""

from __future__ import annotations

import re
import struct
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_BLOCK_BYTES = 32 * 1024
_FILE_HEADER_BYTES = 7
_HEADER = struct.Struct("<IHB")
_HISTORY, _EXIT = 2, 18  # fields of a `Record`
_NUMBER, _BYTES = 0, 2  # kinds of fields
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4
_VARINT = rb"[\x80-\xff]*[\x00-\x7f]"
_AFTER_TAG = re.compile(b"." + _VARINT, re.DOTALL)


def find_field(payload: bytes, field: int) -> tuple[int, int] | None:
    """Return where a field of a payload, a message or text, begins and ends; None: it has none."""
    place, end = 0, len(payload)
    try:
        while place < end:
            tag, place = _varint(payload, place)
            length, place = _varint(payload, place)
            if tag & 7 == _NUMBER:
                continue
            if tag & 7 != _BYTES:
                return None
            if tag >> 3 == field:
                return place, place + length
            place += length
    except IndexError:
        pass
    return None


class HistoryFinder:
    """Find the `HistoryRecord`s in the payloads of one file.

    A `Record` has its number, what is the same in most records of a run, and its content.

    Threads: one at a time.
    """

    def __init__(self) -> None:
        """Know no record yet."""
        self._known: re.Pattern[bytes] | None = None

    def find(self, payload: bytes) -> tuple[int, int] | None:
        """Return where its `HistoryRecord` begins and ends; None: it has none."""
        if self._known is not None and (begin := self._known.match(payload)) is not None:
            return begin.end(), len(payload)
        found = find_field(payload, _HISTORY)
        if found is not None and found[1] == len(payload):
            tag = found[0] - _varint_bytes(found[1] - found[0]) - 1
            number = _AFTER_TAG.match(payload)
            if number is not None and number.end() <= tag:
                between = re.escape(payload[number.end() : tag + 1])
                self._known = re.compile(_AFTER_TAG.pattern + between + _VARINT, re.DOTALL)
        return found


def _varint_bytes(number: int) -> int:
    return max(1, -(-number.bit_length() // 7))


def _varint(payload: bytes, place: int) -> tuple[int, int]:
    byte = payload[place]
    if byte < 128:
        return byte, place + 1
    more, place = _varint(payload, place + 1)
    return byte & 127 | more << 7, place


def ends_with_exit(path: Path) -> bool:
    """Return whether the last record is that of the run's end."""
    # The record may have begun in the block before the last.
    block = max(0, path.stat().st_size - 1 - _BLOCK_BYTES) // _BLOCK_BYTES
    last = deque(read_payloads(path, block), maxlen=1)
    return bool(last) and find_field(last[0], _EXIT) is not None


def read_payloads(path: Path, first_block: int = 0) -> Iterator[bytes]:
    """Yield each whole record's payload; a torn tail ends the iteration quietly.

    Args:
        path: the file.
        first_block: from which block on; a record that began before it is left out.
    """
    parts: list[bytes] = []
    with path.open("rb") as file:
        file.seek(first_block * _BLOCK_BYTES)
        skip = 0 if first_block else _FILE_HEADER_BYTES
        began = not first_block
        while block := file.read(_BLOCK_BYTES):
            offset, skip = skip, 0
            while offset + _HEADER.size <= len(block):
                _, length, kind = _HEADER.unpack_from(block, offset)
                offset += _HEADER.size
                payload = block[offset : offset + length]
                if kind not in (_FULL, _FIRST, _MIDDLE, _LAST) or len(payload) < length:
                    return
                offset += length
                if kind == _FULL:
                    parts = []
                    began = True
                    yield payload
                    continue
                if kind == _FIRST:
                    parts = []
                    began = True
                parts.append(payload)
                if kind == _LAST and began:
                    yield b"".join(parts)
