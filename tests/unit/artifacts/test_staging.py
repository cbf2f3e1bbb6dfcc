"""Snapshots of checkpoints: what is taken, what is left out, what is noticed."""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
import shutil
import socket
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.interrupts import interrupt

from fasttrack.artifacts import snapshot, staging
from fasttrack.artifacts.copying import ChangedError, CutShortError
from fasttrack.artifacts.snapshot import Staged, changed_files
from fasttrack.artifacts.staging import stage, stage_text
from fasttrack.errors import ConfigurationError
from fasttrack.journal.run_directory import files_directory, staging_directory
from fasttrack.notices import gb

LARGE = b"w" * 2_000_000  # above what is copied at once


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where an attempt stages its files."""
    (tmp_path / "run").mkdir()
    return staging_directory(tmp_path / "run" / "segment-0001.jsonl")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint directory with a large, a nested and a small file."""
    root = tmp_path / "checkpoint"
    (root / "step10").mkdir(parents=True)
    (root / "weights.pt").write_bytes(LARGE)
    (root / "step10" / "optimizer.pt").write_bytes(LARGE * 2)
    (root / "latest").write_text("step10")
    return root


def staged_files(staged: Staged) -> dict[str, bytes]:
    """Return the contents of a snapshot, by name."""
    folder = files_directory(staged.directory)
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def far_place(tmp_path: Path) -> Iterator[Path]:
    """Where an attempt stages its files on another file system, to which nothing can be linked."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        if os.stat(directory).st_dev == tmp_path.stat().st_dev:
            pytest.skip("needs a second file system on /dev/shm")
        yield staging_directory(Path(directory) / "segment-0001.jsonl")


@contextlib.contextmanager
def files_limited_to(size_bytes: int) -> Iterator[None]:
    """Have the system refuse to let any file of this process grow larger, as a full disk does."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_directory_is_linked_at_once_and_outlives_its_deletion(
    checkpoint: Path, place: Path
) -> None:
    """The trainer may rotate its checkpoint away as soon as the call returns."""
    staged = stage(checkpoint, place / "0001")
    link = files_directory(staged.directory) / "weights.pt"
    linked = link.stat().st_ino == (checkpoint / "weights.pt").stat().st_ino
    shutil.rmtree(checkpoint)
    staged.finish()

    assert staged_files(staged) == {
        "weights.pt": LARGE,
        "step10/optimizer.pt": LARGE * 2,
        "latest": b"step10",
    }
    assert linked
    assert (staged.files, staged.size_bytes, staged.skipped) == (3, 6_000_006, [])
    assert changed_files(staged.directory) == []


def test_a_single_file_keeps_its_name(checkpoint: Path, place: Path) -> None:
    """A consolidated model is one file."""
    staged = stage(checkpoint / "weights.pt", place / "0001")

    assert staged_files(staged) == {"weights.pt": LARGE}


def test_a_small_file_rewritten_in_place_stays_as_it_was(checkpoint: Path, place: Path) -> None:
    """DeepSpeed rewrites `latest` with every checkpoint; a link would show the new text."""
    staged = stage(checkpoint, place / "0001")
    staged.finish()
    (checkpoint / "latest").write_text("step20")

    assert staged_files(staged)["latest"] == b"step10"
    assert changed_files(staged.directory) == []


@pytest.mark.parametrize(
    "new", [b"v" * len(LARGE), b"v", LARGE + b"v"], ids=["same", "less", "more"]
)
def test_what_is_written_in_place_after_the_copy_changes_nothing(
    checkpoint: Path, place: Path, new: bytes
) -> None:
    """`torch.save` to the same name writes to the same file; a link would show it."""
    staged = stage(checkpoint, place / "0001")
    staged.finish()
    (checkpoint / "weights.pt").write_bytes(new)

    assert staged_files(staged)["weights.pt"] == LARGE
    assert changed_files(staged.directory) == []


@pytest.mark.parametrize(
    "new", [b"v" * len(LARGE), b"v", LARGE + b"v"], ids=["same", "less", "more"]
)
def test_what_is_written_in_place_before_the_copy_is_noticed(
    checkpoint: Path, place: Path, new: bytes
) -> None:
    """What was there at the call is gone; half of this and half of that is no checkpoint."""
    staged = stage(checkpoint, place / "0001")
    (checkpoint / "weights.pt").write_bytes(new)

    with pytest.raises(ChangedError, match=r"weights\.pt was changed, in place"):
        staged.finish()

    assert list(place.iterdir()) == []


def test_a_staged_file_that_is_written_to_is_noticed(checkpoint: Path, place: Path) -> None:
    """Whoever it was: such an artifact must not be uploaded."""
    staged = stage(checkpoint, place / "0001")
    staged.finish()
    (files_directory(staged.directory) / "weights.pt").write_bytes(b"v" * len(LARGE))

    assert changed_files(staged.directory) == ["weights.pt"]


def test_a_lost_or_added_file_and_a_lost_manifest_are_noticed(
    checkpoint: Path, place: Path
) -> None:
    """Whoever plays with the staging folder gets no upload."""
    staged = stage(checkpoint, place / "0001")
    staged.finish()
    folder = files_directory(staged.directory)
    (folder / "weights.pt").unlink()
    (folder / "extra").write_text("x")
    changed = changed_files(staged.directory)
    (staged.directory / "manifest.json").unlink()

    assert changed == ["extra", "weights.pt"]
    assert changed_files(staged.directory) == ["manifest.json"]


def test_links_are_followed_and_loops_left_out(checkpoint: Path, place: Path) -> None:
    """A loop in either form ends; a link to a file or a directory is its contents."""
    (checkpoint / "newest").symlink_to("step10")
    (checkpoint / "best.pt").symlink_to("weights.pt")
    (checkpoint / "step10" / "up").symlink_to("..")
    (checkpoint / "outside").symlink_to("../..")
    (checkpoint / "self").symlink_to("self")
    (checkpoint / "gone").symlink_to("nowhere")

    staged = stage(checkpoint, place / "0001")

    assert set(staged_files(staged)) == {
        "weights.pt",
        "best.pt",
        "latest",
        "step10/optimizer.pt",
        "newest/optimizer.pt",
    }
    assert sorted(text.split(" ")[0] for text in staged.skipped) == [
        "gone",
        "newest/up",
        "outside",
        "self",
        "step10/up",
    ]
    assert f"step10/up (a symbolic link back to {checkpoint})" in staged.skipped


def test_special_files_are_left_out_without_waiting_for_them(
    checkpoint: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening a fifo would wait for a writer for ever."""
    os.mkfifo(checkpoint / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        monkeypatch.chdir(checkpoint)  # a socket's path is short
        listener.bind("socket")
        staged = stage(checkpoint, place / "0001")

    assert sorted(staged.skipped) == ["fifo (a special file)", "socket (a special file)"]
    assert staged.files == 3


def test_a_file_that_vanishes_meanwhile_is_named(
    checkpoint: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rotation may be under way while the snapshot is taken."""
    link = os.link

    def vanish(source: str, target: Path) -> None:
        if source.endswith("weights.pt"):
            os.unlink(source)
        link(source, target)

    monkeypatch.setattr(os, "link", vanish)
    staged = stage(checkpoint, place / "0001")

    assert staged.skipped == ["weights.pt (No such file or directory)"]
    assert set(staged_files(staged)) == {"latest", "step10/optimizer.pt"}


def test_across_file_systems_files_are_held_and_copied_later(
    checkpoint: Path, far_place: Path
) -> None:
    """The call copies nothing large, and a deletion right after it loses nothing."""
    staged = stage(checkpoint, far_place / "0001")
    held = len(staged.foreign)
    before = set(staged_files(staged))
    shutil.rmtree(checkpoint)
    staged.finish()

    assert held == 2
    assert before == {"latest"}
    assert staged_files(staged)["step10/optimizer.pt"] == LARGE * 2
    assert not staged.foreign
    assert changed_files(staged.directory) == []


def test_no_more_files_are_held_open_than_a_process_can_afford(
    tmp_path: Path, far_place: Path
) -> None:
    """64 of 70 shards; the others are opened when they are copied."""
    root = tmp_path / "shards"
    root.mkdir()
    for number in range(70):
        (root / f"{number}.pt").write_bytes(LARGE)
    before = len(os.listdir("/proc/self/fd"))
    staged = stage(root, far_place / "0001")
    during = len(os.listdir("/proc/self/fd"))
    staged.finish()

    assert (during - before, len(os.listdir("/proc/self/fd"))) == (64, before)
    assert set(staged_files(staged).values()) == {LARGE}
    assert staged.files == 70


def test_a_copy_that_does_not_fit_is_refused_with_the_fix(
    checkpoint: Path, far_place: Path
) -> None:
    """A full disk would stop everything else of the job, too."""
    with (checkpoint / "weights.pt").open("wb") as file:
        file.truncate(2 * 10**12)  # sparse: it takes no room where it lies
    before = len(os.listdir("/proc/self/fd"))

    with pytest.raises(ConfigurationError, match=r"another file system.*2000\.0 GB.*WANDB_DIR"):
        stage(checkpoint, far_place / "0001")

    assert list(far_place.iterdir()) == []
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_disk_that_fills_up_during_the_copy_leaves_nothing(
    checkpoint: Path, far_place: Path
) -> None:
    """Half a checkpoint is worth nothing."""
    staged = stage(checkpoint, far_place / "0001")

    with files_limited_to(len(LARGE) // 2), pytest.raises(OSError, match="File too large"):
        staged.finish()

    assert list(far_place.iterdir()) == []


@pytest.mark.parametrize("kind", ["missing", "empty", "only a fifo"])
def test_what_holds_no_files_is_refused(tmp_path: Path, place: Path, kind: str) -> None:
    """An artifact without files would look like a checkpoint."""
    path = tmp_path / "checkpoint"
    if kind != "missing":
        path.mkdir()
    if kind == "only a fifo":
        os.mkfifo(path / "fifo")

    with pytest.raises(ConfigurationError, match=f"path {path} (does not exist|holds no files)"):
        stage(path, place / "0001")

    assert not place.exists() or list(place.iterdir()) == []


def test_the_runs_own_directory_is_not_part_of_a_checkpoint(tmp_path: Path) -> None:
    """`log_checkpoint(".")` must not stage the staging folder."""
    run = tmp_path / "wandb" / "run"
    run.mkdir(parents=True)
    place = staging_directory(run / "segment-0001.jsonl")
    (tmp_path / "model.pt").write_bytes(LARGE)
    for number in ("0001", "0002"):
        staged = stage(tmp_path, place / number)

    assert set(staged_files(staged)) == {"model.pt"}


def test_a_snapshot_has_a_private_folder(checkpoint: Path, place: Path) -> None:
    """0700, all the way."""
    first = stage(checkpoint, place / "0001")
    second = stage_text("config.yaml", "lr: 0.1\n", place / "0002")
    second.finish()

    for folder in (place.parent, place, first.directory):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert staged_files(second) == {"config.yaml": b"lr: 0.1\n"}
    assert changed_files(second.directory) == []


def test_a_file_that_the_disk_has_no_room_for_spoils_the_snapshot(
    checkpoint: Path, place: Path
) -> None:
    """It must not be left out, nor stand there cut off."""
    with files_limited_to(3), pytest.raises(OSError, match="File too large"):
        stage(checkpoint, place / "0001")  # `latest` is copied

    assert list(place.iterdir()) == []


def test_a_copied_run_keeps_its_snapshots_although_the_times_are_new(
    checkpoint: Path, place: Path, tmp_path: Path
) -> None:
    """`cp -r` and `scp -r` give new times; an overwrite in place shows in the size, still."""
    staged = stage(checkpoint, place / "0001")
    staged.finish()
    copy = tmp_path / "copy"
    shutil.copytree(staged.directory, copy, copy_function=shutil.copyfile)
    unchanged = changed_files(copy)
    (files_directory(copy) / "weights.pt").write_bytes(b"short")

    assert unchanged == []
    assert changed_files(copy) == ["weights.pt"]


def test_a_name_that_is_no_utf_8_is_left_out(checkpoint: Path, place: Path) -> None:
    """W&B could not name it; the rest is worth uploading."""
    (checkpoint / os.fsdecode(b"caf\xe9.pt")).write_bytes(LARGE)
    staged = stage(checkpoint, place / "0001")
    staged.finish()

    assert staged.files == 3
    assert staged.skipped == ["'caf\\udce9.pt' (a name that is not UTF-8)"]


@pytest.mark.parametrize(
    ("size", "text"),
    [(12, "12 bytes"), (1500, "1.5 KB"), (2_000_000, "2.0 MB"), (10_240_000_000, "10.2 GB")],
)
def test_sizes_read_well(size: int, text: str) -> None:
    """Decimal units, as W&B shows them."""
    assert gb(size) == text


def test_a_file_that_is_written_to_while_it_is_copied_is_refused(
    checkpoint: Path, place: Path
) -> None:
    """An asynchronous saver may be at work still: the copy is half of each."""
    weights = checkpoint / "weights.pt"

    def save() -> bool:  # asked before every piece
        weights.write_bytes(b"v" * len(LARGE))
        return False

    staged = stage(checkpoint, place / "0001")
    with pytest.raises(ChangedError, match="was changed, in place"):
        staged.finish(save)

    assert list(place.iterdir()) == []


def test_a_file_that_becomes_shorter_while_it_is_copied_is_refused(
    checkpoint: Path, place: Path
) -> None:
    """The copy would wait for the rest for ever."""

    def truncate() -> bool:
        os.truncate(checkpoint / "step10" / "optimizer.pt", 1)
        return False

    staged = stage(checkpoint, place / "0001")
    with pytest.raises(ChangedError, match=r"shorter|was changed"):
        staged.finish(truncate)

    assert list(place.iterdir()) == []


def test_holes_arrive_as_zeros(tmp_path: Path, place: Path) -> None:
    """A file that was written in parts."""
    sparse = tmp_path / "model.pt"
    with sparse.open("wb") as file:
        file.seek(len(LARGE))
        file.write(LARGE)
        file.truncate(3 * len(LARGE))
    staged = stage(sparse, place / "0001")
    staged.finish()

    assert staged_files(staged) == {
        "model.pt": bytes(len(LARGE)) + LARGE + bytes(len(LARGE)),
    }


def test_many_small_files_are_copied_at_once_up_to_a_bound_only(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest is linked: the call must not wait for gigabytes in small pieces."""
    monkeypatch.setattr(staging, "_AT_ONCE_BYTES", 2500)
    root = tmp_path / "shards"
    root.mkdir()
    for number in range(5):
        (root / str(number)).write_bytes(bytes([number]) * 1000)
    staged = stage(root, place / "0001")
    linked = [item.target.name for item in staged.foreign]
    staged.finish()

    assert linked == ["2", "3", "4"]
    assert staged_files(staged) == {str(n): bytes([n]) * 1000 for n in range(5)}


def test_where_the_file_system_clones_nothing_is_copied(
    checkpoint: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As XFS and Btrfs do; here the clone is made by hand, the kernel's call being out of reach."""

    def clone(reading: int, writing: int) -> bool:
        os.write(writing, os.pread(reading, 3 * len(LARGE), 0))
        return True

    monkeypatch.setattr(snapshot, "try_clone", clone)
    staged = stage(checkpoint, place / "0001")
    to_copy = staged.clone()
    (checkpoint / "weights.pt").write_bytes(b"v" * len(LARGE))
    staged.finish()

    assert to_copy == 0
    assert staged_files(staged)["weights.pt"] == LARGE
    assert changed_files(staged.directory) == []


@pytest.fixture
def cloning_place(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system that clones: XFS in a file, where root may mount one."""
    image, root = tmp_path / "xfs.img", tmp_path / "xfs"
    root.mkdir()
    with image.open("wb") as file:
        file.truncate(512 * 2**20)
    mkfs, mount = shutil.which("mkfs.xfs"), shutil.which("mount")
    if mkfs is None or mount is None or os.geteuid() != 0:
        pytest.skip("needs root and mkfs.xfs to mount a file system that clones")
    subprocess.run([mkfs, "-q", image], check=True, timeout=60)
    mounted = subprocess.run([mount, "-o", "loop", image, root], check=False, timeout=60)
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield root
    finally:
        subprocess.run(["umount", root], check=True, timeout=60)


def test_on_xfs_a_snapshot_is_a_clone(cloning_place: Path) -> None:
    """The kernel's own: no copy, and the trainer's next save does not show in it."""
    run = cloning_place / "run"
    run.mkdir()
    place = staging_directory(run / "segment-0001.jsonl")
    checkpoint = cloning_place / "model.pt"
    checkpoint.write_bytes(LARGE)
    staged = stage(checkpoint, place / "0001")
    to_copy = staged.clone()
    checkpoint.write_bytes(b"v" * len(LARGE))
    staged.finish()

    assert to_copy == 0
    assert staged_files(staged) == {"model.pt": LARGE}
    assert changed_files(staged.directory) == []


@pytest.mark.parametrize("way", ["too little from the start", "full in the middle"])
def test_without_room_for_a_copy_the_links_stay_and_are_watched(
    checkpoint: Path, place: Path, way: str
) -> None:
    """The room is the trainer's. A write in place is still noticed before the upload."""
    if way == "too little from the start":
        with (checkpoint / "weights.pt").open("r+b") as file:
            file.truncate(2 * 10**12)  # sparse, and none the less too large to be copied
        staged = stage(checkpoint, place / "0001")
        staged.finish()
    else:
        staged = stage(checkpoint, place / "0001")
        with files_limited_to(len(LARGE) // 2):
            staged.finish()
    inode = (files_directory(staged.directory) / "weights.pt").stat().st_ino

    assert staged.no_room is not None
    assert changed_files(staged.directory) == []
    assert inode == (checkpoint / "weights.pt").stat().st_ino
    with (checkpoint / "weights.pt").open("r+b") as file:
        file.write(b"v")
    assert changed_files(staged.directory) == ["weights.pt"]


def test_a_copy_that_is_cut_short_leaves_links(checkpoint: Path, place: Path) -> None:
    """SIGTERM: the process writes no more, so that links will do."""
    staged = stage(checkpoint, place / "0001")
    staged.finish(lambda: True)

    assert staged_files(staged)["weights.pt"] == LARGE
    assert staged.no_room is None
    assert changed_files(staged.directory) == []


def test_what_cannot_be_linked_is_lost_when_its_copy_is_cut_short(
    checkpoint: Path, far_place: Path
) -> None:
    """Another file system has nothing to leave."""
    staged = stage(checkpoint, far_place / "0001")
    with pytest.raises(CutShortError):
        staged.finish(lambda: True)

    assert list(far_place.iterdir()) == []


def test_the_reason_is_told_where_only_some_of_a_cut_short_copy_can_be_linked(
    checkpoint: Path, place: Path, far_place: Path
) -> None:
    """A link to another file system's file stands behind a file that can be linked."""
    far_place.mkdir(parents=True)
    (far_place / "shard.pt").write_bytes(LARGE)
    (checkpoint / "z.pt").symlink_to(far_place / "shard.pt")
    staged = stage(checkpoint, place / "0001")
    with pytest.raises(CutShortError):
        staged.finish(lambda: True)

    assert list(place.iterdir()) == []


@pytest.mark.filterwarnings("ignore:.*unclosed|Exception ignored")  # what was open just then
def test_what_a_handler_raises_while_files_are_staged_comes_out(tmp_path: Path) -> None:
    """`exists`, `mkdir(exist_ok=True)`, `realpath`, `copyfile` take any OSError for their own."""
    source, run_dir = tmp_path / "checkpoint", tmp_path / "run"
    (source / "inner").mkdir(parents=True)
    (source / "inner" / "weights").write_bytes(b"x")
    (source / "link").symlink_to(source / "inner" / "weights")
    run_dir.mkdir()
    for number in itertools.count(1):
        directory = run_dir / "artifacts" / "segment-0001" / f"{number:04d}"
        if not interrupt(lambda directory=directory: stage(source, directory), 37 * number):  # type: ignore[misc]
            break

    assert number > 20
    assert stage(source, run_dir / "artifacts" / "segment-0001" / "whole").files == 2
