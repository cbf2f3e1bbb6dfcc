"""Keep a checkpoint as it is now, while the trainer overwrites, rotates and deletes its own.

Staged files are hard links: taking a snapshot of any size costs microseconds a file and no disk.
Where links do not work (another file system) the files are held open, which keeps their contents
through a deletion, and copied afterwards, away from the training loop. Small files are always
copied at once, because trainers rewrite such in place (DeepSpeed's `latest`), and a link shows it.

`journal/run_directory.py` says where they lie. The manifest is written last. Every attempt of a run
has a folder of its own: delivery of one ends while the next is under way.
"""

from __future__ import annotations

import os
import shutil
import stat
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from fasttrack.errors import ConfigurationError
from fasttrack.journal.run_directory import files_directory, manifest_path

_SMALL_BYTES = 64 * 1024  # up to this a file is copied, not linked
_MOST_OPEN = 64  # files held open for a later copy; a process may have 1,024


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
    _later: list[tuple[int | str, Path, os.stat_result]] = field(default_factory=list)
    """What is to be copied: (file held open, or path; target; status when it was taken)."""

    @property
    def complete(self) -> bool:
        """Whether nothing is left to copy."""
        return not self._later

    def finish(self) -> None:
        """Copy what could not be linked, and write the manifest. Blocks on the disk.

        Raises:
            OSError: the disk is full, or gone.
        """
        try:
            while self._later:
                source, target, then = self._later.pop()
                with open(source, "rb") as reading, target.open("xb") as writing:
                    shutil.copyfileobj(reading, writing, 8 * 2**20)
                    now = os.fstat(reading.fileno())
                if (now.st_size, now.st_mtime_ns) != (then.st_size, then.st_mtime_ns):
                    raise OSError(f"{target.name} was changed, in place, before it was copied")
            _write_manifest(self.directory)
        except BaseException:
            self.discard()
            raise

    def discard(self) -> None:
        """Remove the snapshot."""
        while self._later:
            source = self._later.pop()[0]
            if isinstance(source, int):
                os.close(source)
        shutil.rmtree(self.directory, ignore_errors=True)


def stage(source: Path, directory: Path) -> Staged:
    """Take a snapshot of the file or directory `source` into the new folder `directory`.

    Symbolic links are followed; one that leads back to a directory around it is left out, and so
    are special files, files that vanish meanwhile, and the run's own directory. All that was left
    out is named in `skipped`. Blocks for a few system calls a file; `Staged.finish` does the rest.

    Raises:
        ConfigurationError: there is nothing to stage, or no room for a copy.
        OSError: the run's directory cannot be written.
    """
    if not source.exists():
        raise ConfigurationError(f"path {source} does not exist")
    staged = _begin(directory)
    try:
        run_dir = directory.resolve().parents[2]
        found = _find_files(source, run_dir, staged.skipped)
        to_copy_bytes = 0
        folders: set[Path] = set()
        for name, path, size_bytes in found:
            target = files_directory(staged.directory) / name
            if target.parent not in folders:
                target.parent.mkdir(parents=True, exist_ok=True)
                folders.add(target.parent)
            try:
                to_copy_bytes += _take(path, target, size_bytes, staged)
            except (FileNotFoundError, PermissionError) as error:  # a full disk is no file's fault
                target.unlink(missing_ok=True)
                staged.skipped.append(f"{name} ({error.strerror})")
                continue
            staged.files += 1
            staged.size_bytes += size_bytes
        if not staged.files:
            why = f": {'; '.join(staged.skipped[:3])}" if staged.skipped else ""
            raise ConfigurationError(f"path {source} holds no files that can be uploaded{why}")
        free_bytes = shutil.disk_usage(staged.directory).free
        if to_copy_bytes > free_bytes:
            raise ConfigurationError(
                f"path {source} is on another file system and needs a copy of "
                f"{gb(to_copy_bytes)}, but {run_dir} has {gb(free_bytes)} free; "
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


def changed_files(directory: Path) -> list[str]:
    """Return the staged files that are not what they were when they were staged."""
    try:
        manifest: dict[str, list[int]] = orjson.loads(manifest_path(directory).read_bytes())
    except (OSError, ValueError):
        return [manifest_path(directory).name]
    now = _describe(files_directory(directory))
    return sorted(
        name for name in manifest.keys() | now.keys() if _differs(manifest.get(name), now.get(name))
    )


def gb(size_bytes: int) -> str:
    """Return a size for people."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.1f} {unit}"
    return f"{size_bytes} bytes"


def _begin(directory: Path) -> Staged:
    for folder in (directory.parents[1], directory.parent, directory):
        folder.mkdir(mode=0o700, exist_ok=True)
    files_directory(directory).mkdir()
    return Staged(directory)


def _find_files(source: Path, exclude: Path, skipped: list[str]) -> list[tuple[str, str, int]]:
    """Return (name within the artifact, real path, size) of every regular file below `source`."""
    found: list[tuple[str, str, int]] = []
    root = os.path.realpath(source)
    around: tuple[str, ...] = ()  # the real folders that a path was reached through
    waiting = [("" if os.path.isdir(root) else source.name, root, around)]
    while waiting:
        name, path, around = waiting.pop()
        try:
            name.encode()
            status = os.stat(path)
            children = list(os.scandir(path)) if stat.S_ISDIR(status.st_mode) else []
        except OSError as error:
            skipped.append(f"{name or path} ({error.strerror})")
            continue
        except UnicodeEncodeError:
            skipped.append(f"{name!r} (a name that is not UTF-8)")
            continue
        if stat.S_ISREG(status.st_mode):
            found.append((name, path, status.st_size))
        elif not stat.S_ISDIR(status.st_mode):
            skipped.append(f"{name} (a special file)")
        elif path in around or root.startswith(f"{path}/"):
            skipped.append(f"{name} (a symbolic link back to {path})")
        elif path != str(exclude):
            for child in children:
                real = os.path.realpath(child.path) if child.is_symlink() else child.path
                waiting.append(
                    (f"{name}/{child.name}" if name else child.name, real, (*around, path))
                )
    return sorted(found)


def _take(path: str, target: Path, size_bytes: int, staged: Staged) -> int:
    """Link, copy or hold one file; return the bytes that are still to be copied."""
    if size_bytes > _SMALL_BYTES:
        try:
            os.link(path, target)
            return 0
        except FileNotFoundError:
            raise
        except OSError:  # another file system, or one without hard links, or not our file
            source: int | str = path
            if len(staged._later) < _MOST_OPEN:
                source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            staged._later.append((source, target, os.stat(source)))
            return size_bytes
    shutil.copyfile(path, target)
    return 0


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
