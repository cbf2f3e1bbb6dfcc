"""Lines that were drawn of long runs, kept in the user's cache directory.

A run that has ended does not change any more: what a picture shows of its million rows need not be
taken out of them again. A file holds the lines of one run; all may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from fasttrack.journal.reader import ends_with_finish
from fasttrack.settings import resolve_cache_dir

if TYPE_CHECKING:
    from pathlib import Path
    from typing import TypeAlias

    from fasttrack.runs.local import LocalRun

    Curves: TypeAlias = dict[str, tuple[Any, Any]]  # metric -> steps and values, as doubles

_FORMAT = 2
_MOST_FILES = 4_000  # of some 50 kB
_DOUBLE = np.dtype("<f8")


def key_of(run: LocalRun, *what: object) -> str | None:
    """Return the name under which `what` is kept of `run` as it is now; None: it may go on.

    Raises:
        OSError: it cannot be read.
    """
    paths = run.segments
    if not paths or not ends_with_finish(paths[-1]):
        return None
    states = [(path.name, path.stat()) for path in paths]
    told = [
        [name, state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns]
        for name, state in states
    ]
    text = orjson.dumps([_FORMAT, os.fspath(run.directory.resolve()), told, what])
    return hashlib.sha256(text).hexdigest()


def load_curves(key: str) -> Curves | None:
    """Return what is kept under `key`; None: nothing that is whole."""
    try:
        head, _, body = (_directory() / key).read_bytes().partition(b"\n")
        told = orjson.loads(head)
        if told["checksum"] != zlib.crc32(body):
            return None
        counts = [count for count in told["counts"] for _ in ("steps", "values")]
        arrays = np.split(np.frombuffer(body, _DOUBLE), np.cumsum(counts, dtype=int))
        pairs = zip(arrays[:-1:2], arrays[1::2], strict=True)  # behind the last is nothing
        return dict(zip(told["names"], pairs, strict=True))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def save_curves(key: str, curves: Curves) -> None:
    """Keep `curves` under `key`, where there is room and permission for it."""
    body = b"".join(
        np.asarray(each, _DOUBLE).tobytes() for pair in curves.values() for each in pair
    )
    counts = [len(steps) for steps, _ in curves.values()]
    told = {"names": list(curves), "counts": counts, "checksum": zlib.crc32(body)}
    with contextlib.suppress(OSError):
        directory = _directory()
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        written = directory / f"{key}.{os.getpid()}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        with os.fdopen(os.open(written, flags, 0o600), "wb") as file:
            file.write(orjson.dumps(told) + b"\n" + body)
        written.replace(directory / key)
        _trim(directory)


def _trim(directory: Path) -> None:
    """Delete the files that were written first where there are too many."""
    with os.scandir(directory) as entries:
        found = list(entries)
    if len(found) > _MOST_FILES:
        found.sort(key=lambda entry: entry.stat().st_mtime_ns)
        for entry in found[: len(found) // 4]:
            with contextlib.suppress(FileNotFoundError):  # another process trims, too
                os.unlink(entry)


def _directory() -> Path:
    return resolve_cache_dir() / "curves"
