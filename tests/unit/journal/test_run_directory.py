"""Where a run's files lie."""

from __future__ import annotations

from pathlib import Path

import pytest

from fasttrack.journal.run_directory import (
    artifacts_directory,
    attempt,
    base_directory,
    cursor_path,
    files_directory,
    lock_path,
    log_path,
    manifest_path,
    run_directory,
    segment_name,
    segments,
    staged_directory,
    staging_directory,
)


def test_run_directory_is_where_the_documents_say() -> None:
    """`{base}/wandb/fasttrack/<run id>`."""
    assert run_directory(Path("/base"), "ab12") == Path("/base/wandb/fasttrack/ab12")


def test_every_file_is_where_the_documents_say() -> None:
    """Older versions, and people's scripts, look for these names."""
    run_dir = Path("/base/wandb/fasttrack/ab12")
    segment = run_dir / segment_name(3)
    staged = staged_directory(segment, 12)

    assert cursor_path(run_dir) == run_dir / "cursor.json"
    assert lock_path(run_dir) == run_dir / "courier.lock"
    assert log_path(run_dir) == run_dir / "delivery.log"
    assert artifacts_directory(run_dir) == run_dir / "artifacts"
    assert staging_directory(segment) == run_dir / "artifacts" / "segment-0003"
    assert staged == run_dir / "artifacts" / "segment-0003" / "0012"
    assert files_directory(staged) == staged / "files"
    assert manifest_path(staged) == staged / "manifest.json"


def test_base_of_a_run_in_its_tree_is_the_parent_of_wandb(tmp_path: Path) -> None:
    """W&B's own directories are made there."""
    assert base_directory(run_directory(tmp_path, "ab12")) == tmp_path


@pytest.mark.parametrize("where", ["copy", "fasttrack/ab12", "fasttrack/wandb/ab12"])
def test_base_of_a_run_that_was_copied_out_is_the_run_itself(tmp_path: Path, where: str) -> None:
    """A run's directory is whole in itself; nothing is made in a stranger's folder."""
    assert base_directory(tmp_path / where) == tmp_path / where


def test_segments_are_sorted_by_number_even_past_9999(tmp_path: Path) -> None:
    """ "10000" sorts before "9999" as text, not here."""
    for number in (10000, 2, 9999, 1, 10):
        (tmp_path / segment_name(number)).touch()

    found = segments(tmp_path)

    assert [path.name for path in found] == [segment_name(n) for n in (1, 2, 10, 9999, 10000)]
    assert [attempt(path) for path in found] == [1, 2, 10, 9999, 10000]


def test_other_files_of_the_run_are_no_segments(tmp_path: Path) -> None:
    """The cursor and logs lie beside the segments."""
    for name in ("cursor.json", "delivery.log", "segment-0001.jsonl.gz", "courier.lock"):
        (tmp_path / name).touch()

    assert segments(tmp_path) == []


def test_directory_that_does_not_exist_has_no_segments(tmp_path: Path) -> None:
    """Asking before the first attempt is no error."""
    assert segments(tmp_path / "nothing") == []


@pytest.mark.parametrize("name", ["segment-0001 (copy).jsonl", "segment-old.jsonl"])
def test_stray_file_with_a_similar_name_is_no_segment(tmp_path: Path, name: str) -> None:
    """A person's copy of a segment must not keep the run from being resumed or delivered."""
    (tmp_path / segment_name(1)).touch()
    (tmp_path / name).touch()

    assert segments(tmp_path) == [tmp_path / segment_name(1)]
