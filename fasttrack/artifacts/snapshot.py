"""A checkpoint as it was when it was logged, and whether it still is.

Files come in as hard links, which keep their contents through a deletion but show every write in
place, or held open where links do not work (another file system). `clone` and `finish` make their
contents our own, and believe a copy only of a file that was not written to meanwhile.

`journal/run_directory.py` says where the files lie. The manifest is written last.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import orjson

from fasttrack.artifacts.copying import ChangedError, CutShortError, copy, try_clone
from fasttrack.journal.run_directory import files_directory, manifest_path, scratch_path
from fasttrack.notices import gb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True, slots=True)
class Foreign:
    """A file that is staged, but whose contents are not our own yet."""

    target: Path
    """Where it is staged."""
    then: os.stat_result
    """Its status when it was."""
    source: Path
    """What to copy it from: the target itself, where that is a hard link."""
    held: BinaryIO | None = None
    """The source, held open; None: it is to be opened."""

    @property
    def linked(self) -> bool:
        """Whether a hard link to it is staged: a snapshot until the file is written to."""
        return self.source == self.target

    def require_unchanged(self, now: os.stat_result) -> None:
        """Check that the file, whose status is `now`, was not written to since it was staged.

        Raises:
            ChangedError: it was.
        """
        if (now.st_size, now.st_mtime_ns) != (self.then.st_size, self.then.st_mtime_ns):
            name = self.target.name
            raise ChangedError(f"{name} was changed, in place, before it was copied")


@dataclass
class Staged:
    """One snapshot.

    Threads: one at a time.
    """

    directory: Path
    files: int = 0
    size_bytes: int = 0
    skipped: list[str] = field(default_factory=list)
    """What was left out: "path (why)"."""
    copied_bytes: int = 0
    """What of them was copied at once."""
    foreign: list[Foreign] = field(default_factory=list)
    """What is still to be cloned or copied."""
    no_room: str | None = None
    """Why some files stayed links, known after `finish`; None: there was room, or no need."""

    def clone(self) -> int:
        """Clone what can be cloned; return the bytes that must be copied instead.

        Blocks on the disk: to clone a file that was just written, XFS and Btrfs write it out first.

        Raises:
            ChangedError: a file was changed before it was cloned.
            OSError: the disk is full, or gone.
        """
        with self._discard_unless_done():
            while self.foreign and self._replace(self.foreign[0], try_clone):
                del self.foreign[0]  # where one cannot be cloned, none is tried
        return sum(item.then.st_size for item in self.foreign)

    def finish(self, is_cut_short: Callable[[], bool] = lambda: False) -> None:
        """Copy what `clone` could not, and write the manifest. Blocks on the disk.

        Links stay links where a copy would take the room of the trainer's next checkpoint, and when
        there is no time left.

        Args:
            is_cut_short: tells whether the process is about to end.

        Raises:
            ChangedError: a file was changed before it was copied.
            CutShortError: there was no time to copy what cannot be linked.
            OSError: the disk is full, or gone.
        """

        def fill(reading: int, writing: int) -> bool:
            copy(reading, writing, is_cut_short)
            return True

        with self._discard_unless_done():
            needed = sum(item.then.st_size for item in self.foreign)
            free = shutil.disk_usage(self.directory).free
            if free < 2 * needed and all(item.linked for item in self.foreign):
                self.no_room = f"{gb(free)} are free"
            self.foreign.sort(key=lambda item: item.linked)  # what may stay as it is comes last
            while self.foreign and self.no_room is None:
                try:
                    self._replace(self.foreign[0], fill)
                except OSError as error:
                    full = error.errno in _NO_ROOM
                    if not (self.foreign[0].linked and (full or isinstance(error, CutShortError))):
                        raise
                    self.no_room = str(error) if full else None
                    break
                del self.foreign[0]
            for item in self.foreign:
                item.require_unchanged(item.target.stat())
            _write_manifest(self.directory)

    def _replace(self, item: Foreign, fill: Callable[[int, int], bool]) -> bool:
        """Stage, instead of `item`, what `fill` has filled from it; return whether it has."""
        scratch = scratch_path(self.directory)
        source = item.held or item.source.open("rb")
        try:
            with open(scratch, "xb", opener=_private) as writing:
                filled = fill(source.fileno(), writing.fileno())
            if filled:
                item.require_unchanged(os.fstat(source.fileno()))
                scratch.replace(item.target)
        finally:
            scratch.unlink(missing_ok=True)
            if source is not item.held:
                source.close()
        if filled and item.held is not None:
            item.held.close()
        return filled

    @contextlib.contextmanager
    def _discard_unless_done(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.discard()
            raise

    def discard(self) -> None:
        """Remove the snapshot."""
        while self.foreign:
            held = self.foreign.pop().held
            if held is not None:
                held.close()
        shutil.rmtree(self.directory, ignore_errors=True)


def changed_files(directory: Path) -> list[str]:
    """Return the staged files that are not what they were when they were staged."""
    try:
        manifest: dict[str, list[int]] = orjson.loads(manifest_path(directory).read_bytes())
        now = _describe(files_directory(directory))
        return sorted(
            name
            for name in manifest.keys() | now.keys()
            if _differs(manifest.get(name), now.get(name))
        )
    except (OSError, ValueError, TypeError, AttributeError, LookupError):
        return [manifest_path(directory).name]


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def _write_manifest(directory: Path) -> None:
    manifest_path(directory).write_bytes(orjson.dumps(_describe(files_directory(directory))))


def _differs(then: list[int] | None, now: list[int] | None) -> bool:
    if then is None or now is None or then[0] != now[0]:
        return True
    return then[1] != now[1] and then[2] == now[2]  # in a copied run, times may be new: no link


def _describe(folder: Path) -> dict[str, list[int]]:
    described = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            status = os.stat(path)
            described[path[len(f"{folder}/") :]] = [
                status.st_size,
                status.st_mtime_ns,
                status.st_ino,
            ]
    return described
