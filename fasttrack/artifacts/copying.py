"""Make a file's contents our own: a clone where the file system can, else a copy.

A hard link is a snapshot only of what is never rewritten in place, and `torch.save`,
torch.distributed.checkpoint, `np.save` and `open(path, "w")` all truncate and rewrite the file that
is there.
"""

from __future__ import annotations

import errno
import fcntl
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_FICLONE = 0x40049409  # of linux/fs.h; `fcntl` names it from Python 3.14 on
_CHUNK_BYTES = 64 * 2**20  # copied with one system call, without the GIL


class ChangedError(OSError):
    """A file was written to since it was logged."""


class CutShortError(OSError):
    """There is no time left to copy."""


def try_clone(reading: int, writing: int) -> bool:
    """Give the file open as `writing` the contents of `reading` without copying them.

    Blocks until what was written to `reading` is on disk (XFS, Btrfs).

    Returns:
        False where the file system cannot (most can't: ext4, tmpfs, Lustre) or the files are on
        two of them.
    """
    try:
        fcntl.ioctl(writing, _FICLONE, reading)
    except OSError:
        return False
    return True


def copy(reading: int, writing: int, is_cut_short: Callable[[], bool]) -> None:
    """Copy the file open as `reading` to the empty one open as `writing`, holes as zeros.

    Where holes are is not asked: of a file that was just written, ZFS has told it wrongly.

    Args:
        reading: a descriptor.
        writing: a descriptor.
        is_cut_short: asked between pieces of 64 MiB.

    Raises:
        CutShortError: `is_cut_short` said so.
        ChangedError: the file became shorter meanwhile.
        OSError: the disk is full, or gone.
    """
    size_bytes = os.fstat(reading).st_size
    offset = 0
    while offset < size_bytes:
        if is_cut_short():
            raise CutShortError("the copy was cut off")
        offset += _copy_piece(reading, writing, offset, min(_CHUNK_BYTES, size_bytes - offset))


def _copy_piece(reading: int, writing: int, offset: int, size_bytes: int) -> int:
    """Copy up to `size_bytes` at `offset`; return how many were."""
    try:  # on a server's file system, the server copies
        if copied := os.copy_file_range(reading, writing, size_bytes, offset, offset):
            return copied
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
            raise
    os.lseek(writing, offset, os.SEEK_SET)
    if not (copied := os.sendfile(writing, reading, offset, size_bytes)):
        raise ChangedError("it became shorter while it was copied")
    return copied
