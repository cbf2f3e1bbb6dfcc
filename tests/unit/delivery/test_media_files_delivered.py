"""Files of media that are damaged or very large hold up no delivery."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image as Pillow

from fasttrack.delivery.backends.tensorboard.media import media_summary
from fasttrack.delivery.media_files import files_of
from fasttrack.journal.media import MediaRow, content_name
from fasttrack.journal.run_directory import media_directory
from fasttrack.worker.png import encode_png

if TYPE_CHECKING:
    from pathlib import Path

PICTURE = encode_png(np.zeros((64, 64, 3), np.uint8))


def row_of(run_dir: Path, contents: bytes, kind: str, extension: str) -> MediaRow:
    """Return a row whose file holds `contents`."""
    name = content_name(contents, extension)
    media_directory(run_dir).mkdir()
    (media_directory(run_dir) / name).write_bytes(contents)
    return MediaRow(0, 7, 1.0, name="x", type=kind, files=(name,))


@pytest.mark.parametrize("pillow", [True, False])
@pytest.mark.parametrize(
    ("contents", "kind", "extension"),
    [
        (PICTURE[:44], "image", "png"),
        (PICTURE[:500] + bytes(len(PICTURE) - 500), "image", "png"),
        (b"", "table", "json"),
        (b'{"columns":["a"],"da', "table", "json"),
        (bytes(100), "table", "json"),
    ],
)
def test_damaged_file_is_said_and_its_row_arrives(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    contents: bytes,
    kind: str,
    extension: str,
    pillow: bool,
) -> None:
    """A power cut leaves files that hold less, or zeros; every later delivery died of them."""
    if not pillow:
        monkeypatch.setitem(sys.modules, "PIL", None)
    row = row_of(tmp_path, contents, kind, extension)
    said: list[str] = []

    summary = media_summary(row, tmp_path, said.append)
    assert (summary.tag, summary.node_name) == ("x", row.identity)
    assert said == ["what 'x' showed at step 7 (its file is damaged)"]


def test_picture_that_pillow_takes_for_an_attack_is_compressed_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From 179 million pixels on; here from fewer, to be quick."""
    monkeypatch.setattr(Pillow, "MAX_IMAGE_PIXELS", 1000)
    row = row_of(tmp_path, PICTURE, "image", "png")

    (path,) = files_of(row, tmp_path)
    assert path.stat().st_size < len(PICTURE) / 10
    monkeypatch.undo()
    with Pillow.open(path) as opened:
        assert opened.size == (64, 64)


def test_file_that_pillow_takes_for_an_attack_is_shown_without_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Browsers know it themselves."""
    monkeypatch.setattr(Pillow, "MAX_IMAGE_PIXELS", 10)
    target = tmp_path / "large.gif"
    Pillow.new("L", (64, 64)).save(target)
    row = row_of(tmp_path, target.read_bytes(), "image", "gif")

    summary = media_summary(row, tmp_path, lambda what: None)
    assert list(summary.tensor.string_val) == [b"1", b"1", target.read_bytes()]
