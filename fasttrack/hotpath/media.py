"""Take in what is logged and is no number: copy it, within a bound of memory, and queue the copy.

It goes through the ring like all else that is logged, so that its row stands in the journal where
it was logged. What arrays become (files) is made of the copies by the worker.
"""

from __future__ import annotations

from threading import RLock
from time import time
from typing import TYPE_CHECKING, Any

import numpy as np

from fasttrack.errors import ValueRefusedError
from fasttrack.handler_errors import is_handlers
from fasttrack.hotpath.advice import describe
from fasttrack.hotpath.capture import mark_streams
from fasttrack.hotpath.records import LARGEST_STEP, MediaJob
from fasttrack.notices import gb

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from fasttrack.hotpath.media_values import Sources
    from fasttrack.hotpath.records import RawRecord
    from fasttrack.hotpath.ring import Ring
    from fasttrack.notices import Notices

_ON_HOST = (np.ndarray, bytes)
_MIB = 2**20
_FEW = 8  # times what waits fits the budget, while nobody is woken for it
_LONGEST_NAME = 200  # bytes; W&B's client makes a file name of it
_RESERVED = frozenset(("step", "_step", "_runtime", "_timestamp", "_wandb"))


class MediaBudget:
    """How many bytes may wait for the disk, and how many do.

    Threads: any; a signal handler may log in the midst of a call.
    """

    def __init__(self, limit_mb: float) -> None:
        """Let `limit_mb` MiB wait."""
        self.limit_bytes = int(limit_mb * _MIB)
        self._lock = RLock()
        self.waiting_bytes = 0

    def try_take(self, size_bytes: int) -> bool:
        """Return whether there is room for so much, which is then taken. Never waits."""
        with self._lock:
            if self.waiting_bytes + size_bytes > self.limit_bytes:
                return False
            self.waiting_bytes += size_bytes
            return True

    def give_back(self, size_bytes: int) -> None:
        """Make room again."""
        with self._lock:
            self.waiting_bytes -= size_bytes


class MediaIntake:
    """Copy what is logged, and push it into the ring.

    Threads: any.
    """

    def __init__(
        self,
        ring: Ring[RawRecord],
        budget: MediaBudget,
        notices: Notices,
        wake: Callable[[], None],
    ) -> None:
        """Push into `ring`, as far as `budget` allows, and `wake` whoever takes it from there."""
        self._ring = ring
        self._budget = budget
        self._notices = notices
        self._wake = wake
        self._read: Callable[[Any], Sources] | None = None  # once something came

    def take(self, name: Any, value: Any, step: int) -> None:
        """Do what `ExperimentTracker.log_media` says.

        Raises:
            Exception: what a value's own code raises, or of files that cannot be read.
        """
        try:
            self._check(name, step)
            job = self._copy(name, value)
        except ValueRefusedError as error:
            self._notices.refuse(name, str(error))
            return
        if job is None:
            return
        try:
            events: tuple[torch.Event, ...] = ()
            if devices := [part.device for part, _ in job.parts if type(part) not in _ON_HOST]:
                events = mark_streams(set(devices))
            pushed = self._ring.push((step, time(), {}, None, None, None, events, job))
        except BaseException:
            self._budget.give_back(job.size_bytes)
            raise
        if not pushed:
            self._budget.give_back(job.size_bytes)
            self._notices.warn("ring", "the ring is full (the worker hangs?); rows are dropped")
        if self._budget.waiting_bytes > self._budget.limit_bytes // _FEW:
            self._wake()

    def _check(self, name: Any, step: int) -> None:
        if not isinstance(name, str) or not name or name in _RESERVED:
            raise ValueRefusedError(f"{describe(name)} cannot name media; choose another name")
        if not name.isascii() and name != name.encode(errors="replace").decode():
            raise ValueRefusedError("its name is not UTF-8")
        if "\0" in name:
            raise ValueRefusedError("a name of media has no NUL: no file can be called so")
        if len(name if name.isascii() else name.encode()) > _LONGEST_NAME:
            raise ValueRefusedError(f"a name of media has at most {_LONGEST_NAME} bytes")
        if not -LARGEST_STEP <= step <= LARGEST_STEP:
            raise ValueRefusedError(f"step {step} is too large for W&B")

    def _copy(self, name: str, value: Any) -> MediaJob | None:
        """Return a value's copy; None where there is no room for it.

        Raises:
            ValueRefusedError: it cannot be logged.
        """
        if self._read is None:
            from fasttrack.hotpath.media_values import read  # few runs need it

            self._read = read
        kind, sources, about = self._read(value)
        size_bytes = 0
        for source in sources:
            size_bytes += source.size_bytes
        if not self._budget.try_take(size_bytes):
            waiting, limit = self._budget.waiting_bytes, self._budget.limit_bytes
            why = (
                f"its {gb(size_bytes)} would wait for the disk beside {gb(waiting)}, above the "
                f"{gb(limit)} of Options.media_limit_mb; log less often, or set that higher"
            )
            self._notices.lose("media_dropped", name, why, result="dropped")
            return None
        try:
            parts = tuple([(source.copy(), source.extension) for source in sources])
        except BaseException as error:  # a Ctrl-C, too: or the room would be gone for good
            self._budget.give_back(size_bytes)
            if isinstance(error, (MemoryError, RuntimeError)) and not is_handlers(error):
                raise ValueRefusedError(f"no copy could be made of it ({error})") from error
            raise
        return MediaJob(name, kind, parts, about, size_bytes)
