"""Whole lines in large pieces, and what a segment says of the run itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.journals import append, finish, row, rows_of, write_attempt

from fasttrack.journal import lines
from fasttrack.journal.entries import Config, Console, Header, Metadata
from fasttrack.journal.lines import line_blocks, read_rare

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("block_bytes", [1, 2, 7, 64, 4096])
def test_pieces_are_whole_lines_whatever_their_size(tmp_path: Path, block_bytes: int) -> None:
    """All of them, in order; what stands behind the last newline is none yet."""
    path = tmp_path / "file"
    whole = b"".join(b"x" * (number * 7 % 31) + b"\n" for number in range(50))
    path.write_bytes(whole + b"torn")
    pieces = list(line_blocks(path, block_bytes=block_bytes))

    assert b"".join(pieces) == whole
    assert all(piece.endswith(b"\n") for piece in pieces)
    read = len(pieces[0])
    assert b"".join(line_blocks(path, start=read, block_bytes=block_bytes)) == whole[read:]
    assert list(line_blocks(path, start=len(whole) + 5)) == []


@pytest.mark.parametrize("content", [b"", b"torn"])
def test_file_without_a_whole_line_has_none(tmp_path: Path, content: bytes) -> None:
    """It has just begun."""
    path = tmp_path / "file"
    path.write_bytes(content)

    assert list(line_blocks(path)) == []


def test_what_is_written_meanwhile_is_left_for_the_next_time(tmp_path: Path) -> None:
    """A run that is written as quickly as it is read would be read for ever."""
    path = tmp_path / "file"
    path.write_bytes(b"a\nb\n")
    pieces = line_blocks(path, block_bytes=2)
    first = next(pieces)
    with path.open("ab") as file:
        file.write(b"c\n")

    assert [first, *pieces] == [b"a\n", b"b\n"]


def test_a_line_that_is_far_too_long_is_an_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It must not fill the memory; what reads it counts it as damaged."""
    monkeypatch.setattr(lines, "_LONGEST_LINE_BYTES", 100)
    path = tmp_path / "file"
    path.write_bytes(b"a\n" + b"x" * 1000 + b"\nb\nc\n")

    assert b"".join(line_blocks(path, block_bytes=10)) == b"a\n\nb\nc\n"


@pytest.mark.parametrize("block_bytes", [150, lines.BLOCK_BYTES])
def test_what_is_rare_is_found_between_the_rows(tmp_path: Path, block_bytes: int) -> None:
    """In order; not in what the program printed, nor where it is damaged or torn."""
    printed = Console("stdout", '\n{"kind":"config","values":{"no":1},"time":1.0}\n')
    metadata, config = Metadata({"git": None}), Config({"lr": 0.1})
    rows = rows_of({"loss": [0.5] * 9})
    segment = write_attempt(tmp_path, "run", metadata, *rows, config, printed, metadata, finish())
    append(segment, Config({"late": 1}), row(9, 9, loss=1.0))
    with segment.open("ab") as file:
        file.write(b'{"kind":"config","values":7}\n{"kind":"config","values":{"torn":1}}')
    header, *found = read_rare(segment, block_bytes=block_bytes)

    assert isinstance(header, Header)
    assert found == [metadata, config, metadata, Config({"late": 1})]
