"""The cursor: what of a run has been delivered where."""

from __future__ import annotations

import errno
import json
import os
import resource
import stat
from pathlib import Path
from typing import Any

import pytest

from fasttrack.journal.cursor import Cursor, Ledger, SegmentLedger, load_cursor


def full_cursor() -> Cursor:
    """Return a cursor with every field set, of two backends that say different things."""
    wandb = Ledger(
        url="https://wandb.ai/e/p/runs/ü",
        directory="/base/wandb/offline-run-1",
        segments={
            "segment-0001.jsonl": SegmentLedger(
                rows=3,
                arrived=2,
                size_bytes=400,
                proof="asked",
                artifacts={"1": "it is there", "2": None},
            ),
            "segment-0002.jsonl": SegmentLedger(rows=1, offline_proof="read back"),
        },
        notes={"open_directory": None, "segments": {"segment-0001.jsonl": {"last_step": 44}}},
    )
    files = Ledger(directory="/base/files", segments={"segment-0001.jsonl": SegmentLedger(rows=2)})
    return Cursor(backends={"wandb": wandb, "files": files})


def version_1(**changes: Any) -> dict[str, Any]:
    """Return what version 1 wrote for a run of two attempts, every field set."""
    first: dict[str, Any] = {
        "base_step": None,
        "arrived": 20,
        "rows": 20,
        "last_step": 19,
        "size_bytes": 2000,
        "online_proof": "the server's last step is 19",
        "offline_proof": None,
        "artifacts": {"1": "the server has it as config:v0 (committed)", "2": None},
    }
    second: dict[str, Any] = {
        "base_step": 19,
        "arrived": 3,
        "rows": 15,
        "last_step": 34,
        "size_bytes": 1500,
        "online_proof": None,
        "offline_proof": "15 rows read back from offline-run-1",
        "artifacts": {},
    }
    return {
        "version": 1,
        "url": "https://wandb.ai/e/p/runs/ab12",
        "open_directory": "offline-run-2",
        "offline_directories": ["offline-run-0", "offline-run-1"],
        "segments": {"segment-0001.jsonl": first, "segment-0002.jsonl": second},
        **changes,
    }


def write(directory: Path, content: object) -> Path:
    """Write a cursor file; return its path."""
    path = directory / "cursor.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


@pytest.mark.parametrize("cursor", [Cursor(), full_cursor()], ids=["empty", "full"])
def test_cursor_comes_back_as_it_was_saved(tmp_path: Path, cursor: Cursor) -> None:
    """Every field survives, each backend's by itself."""
    path = tmp_path / "cursor.json"

    cursor.save(path)

    assert load_cursor(path) == cursor


def test_missing_cursor_counts_as_nothing_delivered(tmp_path: Path) -> None:
    """The first courier of a run finds none."""
    assert load_cursor(tmp_path / "cursor.json") == Cursor()


def test_two_empty_cursors_share_nothing() -> None:
    """A default must not be one object for all."""
    first, second = Cursor(), Cursor()
    ledger = first.ledger("wandb")
    ledger.segment("segment-0001.jsonl").rows = 5
    ledger.segment("segment-0001.jsonl").artifacts["1"] = None
    ledger.notes["a"] = 1

    assert second == Cursor()
    assert first.ledger("files") == second.ledger("wandb") == Ledger()
    assert second.ledger("wandb").segment("segment-0001.jsonl") == SegmentLedger()


def test_unknown_segment_starts_undelivered_and_stays_known() -> None:
    """Asking for a backend and a segment makes their state."""
    cursor = Cursor()

    state = cursor.ledger("wandb").segment("segment-0001.jsonl")

    assert state == SegmentLedger(
        rows=0, arrived=0, size_bytes=0, proof=None, offline_proof=None, artifacts={}
    )
    assert cursor.ledger("wandb").segment("segment-0001.jsonl") is state


def test_save_leaves_one_file_for_its_owner_only(tmp_path: Path) -> None:
    """No scratch file stays behind; the mode is 0600 whatever the umask."""
    path = tmp_path / "run" / "cursor.json"
    path.parent.mkdir()
    old = os.umask(0)
    try:
        Cursor().save(path)
        full_cursor().save(path)
    finally:
        os.umask(old)

    assert [file.name for file in path.parent.iterdir()] == ["cursor.json"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_save_replaces_the_file_and_never_writes_into_it(tmp_path: Path) -> None:
    """A reader that has the old cursor open goes on reading the old cursor."""
    path = tmp_path / "cursor.json"
    Cursor(backends={"wandb": Ledger(url="first")}).save(path)
    with path.open("rb") as old:
        Cursor(backends={"wandb": Ledger(url="second")}).save(path)

        assert b'"url": "first"' in old.read()
    assert load_cursor(path).ledger("wandb").url == "second"


def test_save_that_fails_leaves_the_last_cursor_whole(tmp_path: Path) -> None:
    """A full disk, or a kill, between two bytes costs nothing that was known."""
    path = tmp_path / "cursor.json"
    Cursor(backends={"wandb": Ledger(url="first")}).save(path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, hard))  # a real disk that takes no more
    try:
        with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
            full_cursor().save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert load_cursor(path).ledger("wandb").url == "first"


def test_scratch_file_of_a_killed_courier_is_overwritten(tmp_path: Path) -> None:
    """What a kill left of the next cursor is in nobody's way."""
    (tmp_path / "cursor.tmp").write_bytes(b'{"half' * 1000)

    full_cursor().save(tmp_path / "cursor.json")

    assert load_cursor(tmp_path / "cursor.json") == full_cursor()


# --- version 1 ------------------------------------------------------------------------------------


def test_cursor_of_version_1_is_wandbs_ledger_field_by_field(tmp_path: Path) -> None:
    """What both versions know keeps its meaning; what only W&B needs becomes its notes."""
    cursor = load_cursor(write(tmp_path, version_1()))

    ledger = Ledger(
        url="https://wandb.ai/e/p/runs/ab12",
        directory=None,
        segments={
            "segment-0001.jsonl": SegmentLedger(
                rows=20,
                arrived=20,
                size_bytes=2000,
                proof="the server's last step is 19",
                offline_proof=None,
                artifacts={"1": "the server has it as config:v0 (committed)", "2": None},
            ),
            "segment-0002.jsonl": SegmentLedger(
                rows=15,
                arrived=3,
                size_bytes=1500,
                proof=None,
                offline_proof="15 rows read back from offline-run-1",
                artifacts={},
            ),
        },
        notes={
            "open_directory": "offline-run-2",
            "offline_directories": ["offline-run-0", "offline-run-1"],
            "segments": {
                "segment-0001.jsonl": {"base_step": None, "last_step": 19},
                "segment-0002.jsonl": {"base_step": 19, "last_step": 34},
            },
        },
    )
    assert cursor == Cursor(version=2, backends={"wandb": ledger})


def test_cursor_of_version_1_is_saved_as_the_present_version(tmp_path: Path) -> None:
    """Migrated once; the second reading says the same."""
    path = write(tmp_path, version_1())
    migrated = load_cursor(path)

    migrated.save(path)

    assert json.loads(path.read_bytes())["version"] == 2
    assert load_cursor(path) == migrated


def test_fields_that_a_cursor_of_version_1_lacks_have_their_defaults(tmp_path: Path) -> None:
    """The old code took them so, too: its earlier days wrote fewer."""
    told = {"version": 1, "segments": {"segment-0001.jsonl": {"rows": 3, "online_proof": "asked"}}}

    cursor = load_cursor(write(tmp_path, told))

    assert cursor.ledger("wandb") == Ledger(
        segments={"segment-0001.jsonl": SegmentLedger(rows=3, proof="asked")},
        notes={
            "open_directory": None,
            "offline_directories": [],
            "segments": {"segment-0001.jsonl": {"base_step": None, "last_step": -1}},
        },
    )


# --- damage ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 64,
        b'{"version": 1, "seg',
        b"[]",
        b"{}",
        b"null",
        b"1",
        b'"text"',
        b'{"segments": null}',
        b'{"version": 1}',
        b'{"version": 1, "segments": []}',
        b'{"version": 1, "segments": {}, "invented": 1}',
        b'{"version": 1, "segments": {"segment-0001.jsonl": {"invented": 1}}}',
        b'{"version": 1, "segments": {"segment-0001.jsonl": 1}}',
        b'{"version": 2, "back',
        b'{"version": 2}',
        b'{"version": 2, "backends": []}',
        b'{"version": 2, "backends": {"wandb": 1}}',
        b'{"version": 2, "backends": {"wandb": {}}}',
        b'{"version": 2, "backends": {"wandb": {"segments": {}, "invented": 1}}}',
        b'{"version": 2, "backends": {"wandb": {"segments": {"s": {"invented": 1}}}}}',
        b'{"version": 2, "backends": {"wandb": {"segments": {"s": 1}}}}',
        b'{"version": "2", "backends": {}}',
    ],
)
def test_damaged_cursor_counts_as_nothing_delivered(tmp_path: Path, content: bytes) -> None:
    """Delivering anew is harmless; believing a damaged file is not, and dying of it neither."""
    assert load_cursor(write(tmp_path, content)) == Cursor()


def test_cursor_of_a_later_version_counts_as_nothing_delivered(tmp_path: Path) -> None:
    """Fields of the same name may mean something else there."""
    path = tmp_path / "cursor.json"
    later = full_cursor()
    later.version = 3
    later.save(path)

    assert load_cursor(path) == Cursor()


def test_a_directory_that_is_not_utf_8_can_be_saved(tmp_path: Path) -> None:
    """Spelled in ASCII, as everywhere else: it is there to be read."""
    cursor = Cursor()
    cursor.ledger("tensorboard").directory = "/d\udcff"
    cursor.save(tmp_path / "cursor.json")

    assert load_cursor(tmp_path / "cursor.json").ledger("tensorboard").directory == r"/d\udcff"
