"""Media as the page is told of them: the newest of each name, as far as there is room."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from support.runs import make_tracker, run_dir
from support.trackers import journal_only

import fasttrack
from fasttrack.views.web import media
from fasttrack.views.web.media import read_media

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A run that logged two names, and pictures of noise: some kB each."""
    random = np.random.default_rng(0)
    with make_tracker(options=journal_only(), resume_id="ab12") as tracker:
        for step in range(6):
            image = random.integers(0, 255, (32, 32), np.uint8)
            tracker.log_media("b/picture", image, step)
        tracker.log_media("a/table", fasttrack.Table(columns=["n"], data=[[1]] * 300), 6)
    return run_dir(tmp_path, "ab12")


def test_the_newest_of_each_name_are_told(directory: Path) -> None:
    """Name by name; of a long table the first rows."""
    table, *pictures = read_media(directory)

    assert (table["name"], table["step"], table["left_out"]) == ("a/table", 6, 0)
    assert table["files"] == [{"columns": ["n"], "data": [[1]] * 100}]
    assert [(one["name"], one["step"]) for one in pictures] == [
        ("b/picture", step) for step in (2, 3, 4, 5)
    ]
    assert all(one["files"][0].startswith("data:image/png;base64,") for one in pictures)


def test_what_finds_no_room_or_is_gone_is_counted(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest come first."""
    *_, older, newest, table = fasttrack.open_run("ab12").media()
    room = sum(one.paths[0].stat().st_size for one in (older, newest, table))
    monkeypatch.setattr(media, "_MOST_BYTES", 2 * room)
    assert [one["left_out"] for one in read_media(directory, pages=2)] == [0, 1, 1, 0, 0]

    for path in (directory / "media").iterdir():
        path.unlink()
    assert [one["left_out"] for one in read_media(directory)] == [1] * 5
    assert [one["files"] for one in read_media(directory)] == [[None]] * 5
