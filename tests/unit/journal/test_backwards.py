"""Lines from a file's end, however the blocks that are read fall on them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from fasttrack.journal.backwards import lines_backwards

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("block_bytes", [1, 2, 3, 5, 1000])
@pytest.mark.parametrize(
    "text",
    [b"", b"\n", b"torn", b"a\n", b"a\ntorn", b"\n\n", b"one\ntwo\n\nthree and more\nx", b"\nab"],
)
def test_whole_lines_come_in_reverse(tmp_path: Path, text: bytes, block_bytes: int) -> None:
    """Each once; what stands behind the last newline is none yet."""
    path = tmp_path / "file"
    path.write_bytes(text)
    *whole, _ = text.split(b"\n")

    assert list(lines_backwards(path, block_bytes=block_bytes)) == whole[::-1]
