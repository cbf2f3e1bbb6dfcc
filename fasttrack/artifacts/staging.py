"""Take a snapshot of what the trainer has saved, before it overwrites, rotates or deletes it.

Every attempt of a run has a folder of its own: delivery of one ends while the next is under way.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from pathlib import Path
from typing import NamedTuple

from fasttrack.artifacts.copying import ChangedError
from fasttrack.artifacts.snapshot import Foreign, Staged
from fasttrack.errors import ConfigurationError
from fasttrack.handler_errors import is_handlers
from fasttrack.journal.run_directory import files_directory
from fasttrack.notices import gb

_SMALL_BYTES = 2**20  # up to this a file is copied at once, in less than a millisecond,
_AT_ONCE_BYTES = 64 * 2**20  # until it is so much together
_SMALL_TRIES = 3  # while somebody writes to it; what grows all the time is no checkpoint
# A full disk is none of them.
_THE_FILES_FAULTS = (errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG)
_MOST_OPEN = 64  # files held open for a later copy; a process may have 1,024
# Links to folders that hold links to folders make many paths of few files: 2 to the power of 30 of
# 30 folders. Up to so much is taken under each of its names; then every folder once.
_MOST_REPEATED = 10_000
_LONGEST_NAME = 4000  # bytes, within the artifact: Linux takes 4,096 of a whole path


def stage(source: Path, directory: Path) -> Staged:
    """Take a snapshot of the file or directory `source` into the new folder `directory`.

    Symbolic links are followed; one that leads back to a directory around it is left out, and so
    are special files, files that vanish meanwhile, and the run's own directory. Where links to
    directories repeat more than 10,000 files, further ones to directories that are there already
    are left out, too. All that was left out is named in `skipped`. Blocks for a few system calls a
    file; `Staged.finish` does the rest.

    Raises:
        ConfigurationError: there is nothing to stage, or no room for a copy.
        ChangedError: somebody writes to a small file.
        OSError: the run's directory cannot be written.
    """
    root = _real(source)  # `exists` and `exist_ok=True` take any OSError for an answer,
    is_folder = _is_folder(root)  # also one that a signal handler raised
    if is_folder is None:
        raise ConfigurationError(f"path {source} does not exist")
    staged = _begin(directory)
    try:
        run_dir = Path(_real(directory)).parents[2]
        found = _find_files("" if is_folder else source.name, root, run_dir, staged.skipped)
        folders: set[Path] = set()
        for name, path in found:
            target = files_directory(staged.directory) / name
            try:
                if target.parent not in folders:
                    _make_folders(target.parent)
                    folders.add(target.parent)
                _take(path, target, staged)
            except OSError as error:
                if is_handlers(error) or error.errno not in _THE_FILES_FAULTS:
                    raise
                if error.errno != errno.ENAMETOOLONG:
                    target.unlink(missing_ok=True)
                staged.skipped.append(f"{name} ({error.strerror})")
        if not staged.files:
            why = f": {'; '.join(staged.skipped[:3])}" if staged.skipped else ""
            raise ConfigurationError(f"path {source} holds no files that can be uploaded{why}")
        needed = sum(item.then.st_size for item in staged.foreign if not item.linked)
        free = shutil.disk_usage(staged.directory).free
        if needed > free:
            raise ConfigurationError(
                f"path {source} is on another file system and needs a copy of "
                f"{gb(needed)}, but {run_dir} has {gb(free)} free; "
                "set WANDB_DIR to the checkpoint's own"
            )
    except BaseException:
        staged.discard()
        raise
    return staged


def stage_text(name: str, text: str, directory: Path) -> Staged:
    """Stage one file with contents `text` in the new folder `directory`.

    Raises:
        OSError: the run's directory cannot be written.
    """
    staged = _begin(directory)
    staged.files = 1
    target = files_directory(staged.directory) / name
    target.write_text(text, encoding="utf-8")
    staged.size_bytes = target.stat().st_size
    return staged


def _begin(directory: Path) -> Staged:
    for folder in (directory.parents[1], directory.parent, directory):
        _make_folder(folder)
    files_directory(directory).mkdir()
    return Staged(directory)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError as error:
        if is_handlers(error) or not stat.S_ISDIR(folder.stat().st_mode):
            raise


def _make_folders(folder: Path) -> None:
    """Make a folder, and those around it as far as they are not there."""
    try:
        _make_folder(folder)
    except FileNotFoundError as error:
        if is_handlers(error):
            raise
        _make_folders(folder.parent)
        _make_folder(folder)


def _real(path: str | Path) -> str:
    """Return the path without symbolic links; as it is, where it leads nowhere."""
    try:
        return os.path.realpath(path, strict=True)
    except (OSError, ValueError) as error:
        if is_handlers(error):
            raise
        return os.fspath(path)


def _is_folder(path: str) -> bool | None:
    """Return whether there is a folder; None where there is nothing."""
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except (OSError, ValueError) as error:
        if is_handlers(error):
            raise
        return None


class _Visit(NamedTuple):
    """Something that is to be looked at."""

    name: str
    """Within the artifact."""
    path: str
    """The real one."""
    around: tuple[str, ...]
    """The real folders that it was reached through."""
    by_link: bool
    """Whether one of them, or it itself, is a folder that a symbolic link leads to."""


def _find_files(called: str, root: str, exclude: Path, skipped: list[str]) -> list[tuple[str, str]]:
    """Return (name within the artifact, real path) of every regular file at or below `root`.

    A file at `root` is `called` so; of a directory there, "".
    """
    found: list[tuple[str, str]] = []
    taken: set[str] = set()  # folders
    again = left_out = 0  # what stands in folders that were taken before; folders left out for it
    waiting = [_Visit(called, root, (), by_link=False)]
    while waiting:
        visit = waiting.pop()
        name, path, around, by_link = visit
        if by_link and path in taken and again > _MOST_REPEATED:
            left_out += 1
            continue
        try:
            size = len(name.encode())
            status = os.stat(path)
            children = list(os.scandir(path)) if stat.S_ISDIR(status.st_mode) else []
        except OSError as error:
            if is_handlers(error):
                raise
            skipped.append(f"{name or path} ({error.strerror})")
            continue
        except UnicodeEncodeError:
            skipped.append(f"{name!r} (a name that is not UTF-8)")
            continue
        if size > _LONGEST_NAME:
            skipped.append(f"{name[:80]}... (a path of {size:,} bytes)")
        elif stat.S_ISREG(status.st_mode):
            found.append((name, path))
        elif not stat.S_ISDIR(status.st_mode):
            skipped.append(f"{name} (a special file)")
        elif path in around or root.startswith(f"{path}/"):
            skipped.append(f"{name} (a symbolic link back to {path})")
        elif path != str(exclude):
            again += len(children) if path in taken else 0
            taken.add(path)
            waiting += [_child(visit, child) for child in children]
    if left_out:
        skipped.append(
            f"{left_out:,} folders that are there under other names (symbolic links to folders "
            f"repeat more than {_MOST_REPEATED:,} files)"
        )
    return sorted(found)


def _child(visit: _Visit, child: os.DirEntry[str]) -> _Visit:
    name = f"{visit.name}/{child.name}" if visit.name else child.name
    linked = child.is_symlink()
    real = _real(child.path) if linked else child.path
    by_link = visit.by_link or (linked and bool(_is_folder(real)))
    return _Visit(name, real, (*visit.around, visit.path), by_link)


def _take(path: str, target: Path, staged: Staged) -> None:
    """Link, copy or hold one file."""
    source = Path(path)
    then = source.stat()
    if then.st_size <= min(_SMALL_BYTES, _AT_ONCE_BYTES - staged.copied_bytes):
        _copy_small(source, target)
        staged.copied_bytes += then.st_size
    else:
        held = None
        try:
            os.link(path, target)
            source = target
        except OSError as error:  # another file system, or one without hard links, or not our file
            if isinstance(error, FileNotFoundError) or is_handlers(error):
                raise
            if len(staged.foreign) < _MOST_OPEN:
                held = source.open("rb")
            then = source.stat() if held is None else os.fstat(held.fileno())
        else:
            then = target.stat()
        staged.foreign.append(Foreign(target, then, source, held))
    staged.files += 1
    staged.size_bytes += then.st_size


def _copy_small(source: Path, target: Path) -> None:
    for _ in range(_SMALL_TRIES):
        then = source.stat()
        target.write_bytes(source.read_bytes())  # `shutil` goes on another way at an OSError
        now = source.stat()
        if (then.st_size, then.st_mtime_ns) == (now.st_size, now.st_mtime_ns):
            return
    raise ChangedError(f"{source} was changed, in place, while it was copied")
