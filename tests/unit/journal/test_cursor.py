"""The cursor: what of a run has been delivered."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from fasttrack.journal import cursor as cursor_module
from fasttrack.journal.cursor import Cursor, SegmentState, load_cursor


def full_cursor() -> Cursor:
    """Return a cursor with every field set."""
    return Cursor(
        url="https://wandb.ai/e/p/runs/ü",
        open_directory="offline-run-1",
        offline_directories=["offline-run-0"],
        segments={
            "segment-0001.jsonl": SegmentState(rows=3, last_step=44, online_proof="asked"),
            "segment-0002.jsonl": SegmentState(rows=1, last_step=45, offline_proof="read back"),
        },
    )


@pytest.mark.parametrize("cursor", [Cursor(), full_cursor()], ids=["empty", "full"])
def test_cursor_comes_back_as_it_was_saved(tmp_path: Path, cursor: Cursor) -> None:
    """Every field survives."""
    path = tmp_path / "cursor.json"

    cursor.save(path)

    assert load_cursor(path) == cursor


def test_missing_cursor_counts_as_nothing_delivered(tmp_path: Path) -> None:
    """The first courier of a run finds none."""
    assert load_cursor(tmp_path / "cursor.json") == Cursor()


def test_two_empty_cursors_share_nothing() -> None:
    """A default must not be one object for all."""
    first, second = Cursor(), Cursor()
    first.segment("segment-0001.jsonl").rows = 5
    first.offline_directories.append("offline-run-0")

    assert second == Cursor()


def test_unknown_segment_starts_undelivered_and_stays_known() -> None:
    """Asking for a segment makes its state."""
    cursor = Cursor()

    state = cursor.segment("segment-0001.jsonl")

    assert state == SegmentState(rows=0, last_step=-1, online_proof=None, offline_proof=None)
    assert cursor.segment("segment-0001.jsonl") is state


def test_save_leaves_one_file_for_its_owner_only(tmp_path: Path) -> None:
    """No scratch file stays behind; the mode is 0600 whatever the umask."""
    path = tmp_path / "run" / "cursor.json"
    path.parent.mkdir()
    old = os.umask(0)
    try:
        Cursor().save(path)
        Cursor(open_directory="offline-run-1").save(path)
    finally:
        os.umask(old)

    assert [file.name for file in path.parent.iterdir()] == ["cursor.json"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_save_replaces_the_file_and_never_writes_into_it(tmp_path: Path) -> None:
    """A reader that has the old cursor open goes on reading the old cursor."""
    path = tmp_path / "cursor.json"
    Cursor(open_directory="offline-run-1").save(path)
    with path.open("rb") as old:
        Cursor(open_directory="offline-run-2").save(path)

        assert b'"open_directory": "offline-run-1"' in old.read()
    assert load_cursor(path).open_directory == "offline-run-2"


def test_save_that_fails_leaves_the_last_cursor_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk, or a kill, between two bytes costs nothing that was known."""
    path = tmp_path / "cursor.json"
    Cursor(open_directory="offline-run-1").save(path)

    def dumps(value: object, option: int) -> bytes:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cursor_module.orjson, "dumps", dumps)
    with pytest.raises(OSError, match="No space"):
        Cursor(open_directory="offline-run-2").save(path)

    assert load_cursor(path).open_directory == "offline-run-1"


def test_scratch_file_of_a_killed_courier_is_overwritten(tmp_path: Path) -> None:
    """What a kill left of the next cursor is in nobody's way."""
    (tmp_path / "cursor.tmp").write_bytes(b'{"half' * 1000)

    Cursor(open_directory="offline-run-3").save(tmp_path / "cursor.json")

    assert load_cursor(tmp_path / "cursor.json").open_directory == "offline-run-3"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 64,
        b'{"version": 1, "seg',
        b"[]",
        b"{}",
        b'{"version": 1, "segments": {}, "invented": 1}',
        b'{"version": 1, "segments": {"segment-0001.jsonl": {"invented": 1}}}',
        b'{"version": 1, "segments": {"segment-0001.jsonl": 1}}',
    ],
)
def test_damaged_cursor_counts_as_nothing_delivered(tmp_path: Path, content: bytes) -> None:
    """Delivering anew is harmless; believing a damaged file is not, and dying of it neither."""
    path = tmp_path / "cursor.json"
    path.write_bytes(content)

    assert load_cursor(path) == Cursor()


@pytest.mark.parametrize(
    "content", [b"null", b"1", b'"text"', b'{"version": 1, "segments": []}', b'{"segments": null}']
)
def test_cursor_of_another_shape_counts_as_nothing_delivered(
    tmp_path: Path, content: bytes
) -> None:
    """Valid JSON that is not an object of objects is damage, too."""
    path = tmp_path / "cursor.json"
    path.write_bytes(content)

    assert load_cursor(path) == Cursor()


def test_cursor_of_a_later_version_counts_as_nothing_delivered(tmp_path: Path) -> None:
    """Fields of the same name may mean something else there."""
    path = tmp_path / "cursor.json"
    later = full_cursor()
    later.version = 2
    later.save(path)

    assert load_cursor(path) == Cursor()
