"""Symbolic links between the folders of a checkpoint: followed, but not without end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from fasttrack.artifacts.staging import stage
from fasttrack.journal.run_directory import files_directory, staging_directory

if TYPE_CHECKING:
    from pathlib import Path

    from fasttrack.artifacts.snapshot import Staged


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where an attempt stages its files."""
    run_dir = tmp_path / "wandb" / "fasttrack" / "ab12"
    run_dir.mkdir(parents=True)
    return staging_directory(run_dir / "segment-0001.jsonl")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """An empty folder."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    return folder


def names(staged: Staged) -> set[str]:
    """Return what was staged."""
    folder = files_directory(staged.directory)
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_folders_of_many_names_are_there_under_each(checkpoint: Path, place: Path) -> None:
    """Checkpoints that share a tokenizer, and a name for the newest of them."""
    (checkpoint / "tokenizer").mkdir()
    (checkpoint / "tokenizer" / "vocab.json").write_text("{}")
    for step in range(50):
        folder = checkpoint / f"step{step}"
        folder.mkdir()
        (folder / "tokenizer").symlink_to("../tokenizer")
    (checkpoint / "latest").symlink_to("step49")

    staged = stage(checkpoint, place / "0001")

    folders = [".", *(f"step{step}" for step in range(50)), "latest"]
    expected = {f"{folder}/tokenizer/vocab.json".removeprefix("./") for folder in folders}
    assert names(staged) == expected
    assert staged.skipped == []


def test_links_that_make_a_billion_paths_of_few_folders_end(checkpoint: Path, place: Path) -> None:
    """Two to the next folder in each; staging them never came to an end."""
    for number in range(30):
        folder = checkpoint / f"{number:02d}"
        folder.mkdir()
        (folder / "state.txt").write_text(str(number))
        for name in ("a", "b"):
            (folder / name).symlink_to(f"../{number + 1:02d}")

    staged = stage(checkpoint, place / "0001")

    found = names(staged)
    assert {f"{number:02d}/state.txt" for number in range(30)} <= found
    assert "28/a/state.txt" in found
    assert len(found) < 20_000
    (why,) = (words for words in staged.skipped if "folders" in words)
    assert why.endswith("(symbolic links to folders repeat more than 10,000 files)")


def test_folders_that_all_link_to_one_another_end(checkpoint: Path, place: Path) -> None:
    """As many paths as orders of them."""
    folders = [checkpoint / f"{number:02d}" for number in range(14)]
    for folder in folders:
        folder.mkdir()
        (folder / "state.txt").write_text(folder.name)
    for folder in folders:
        for other in folders:
            (folder / f"to-{other.name}").symlink_to(other)

    staged = stage(checkpoint, place / "0001")

    assert {f"{folder.name}/state.txt" for folder in folders} <= names(staged)


def test_a_chain_of_links_is_followed_as_far_as_paths_go(
    tmp_path: Path, checkpoint: Path, place: Path
) -> None:
    """What is beyond is left out with a word; it cost the whole checkpoint."""
    for number in range(1400):
        folder = tmp_path / "chain" / f"{number:04d}"
        folder.mkdir(parents=True)
        (folder / "on").symlink_to(f"../{number + 1:04d}")
    for number in (5, 1399):
        (tmp_path / "chain" / f"{number:04d}" / "state.txt").write_text("there")
    (checkpoint / "first").symlink_to("../chain/0000")

    staged = stage(checkpoint, place / "0001")

    assert names(staged) == {"first/on/on/on/on/on/state.txt"}
    assert any("a path of 4,0" in words for words in staged.skipped)
