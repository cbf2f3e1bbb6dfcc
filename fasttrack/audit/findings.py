"""Where the loop waited: what is found, added up by line, and told."""

from __future__ import annotations

import linecache
import os
import sys
import sysconfig
import textwrap
import threading
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from fasttrack.audit.waits import CUDA_SYNC, advise

if TYPE_CHECKING:
    from types import FrameType

_AUDIT = os.path.dirname(os.path.abspath(__file__))
_OURS = os.path.dirname(_AUDIT) + os.sep
_SKIPPED = (
    _AUDIT + os.sep,
    os.path.dirname(os.path.abspath(torch.__file__)) + os.sep,
    "<frozen ",
    "<eval_with_key>",  # code that torch.fx wrote
)
_STANDARD_LIBRARY = sysconfig.get_path("stdlib") + os.sep
_INSTALLED = (sysconfig.get_path("purelib") + os.sep, sysconfig.get_path("platlib") + os.sep)
_LONGEST_SOURCE = 60
_WIDTH = 100
Place: TypeAlias = tuple[str, int]
"""File and line."""

_LINE = "{:>10} {:>7} {:>9}  {:<14} {}"


@dataclass(frozen=True, slots=True)
class Finding:
    """A line that waits for the device."""

    file: str
    """The file of the innermost code that is neither torch's nor Python's own."""
    line: int
    """The line in it; of `loss.backward()` where the wait is in the backward pass."""
    op: str
    """What waits: "item" for any reading of a value (`.item()`, `float()`, `bool()`, `if`),
    "copy to cpu", "copy from cpu", "index", an operation such as "nonzero", or "CUDA sync"."""
    count: int
    """How often."""
    total_ms: float | None
    """Milliseconds in all; None where only torch's own warning told of it ("CUDA sync")."""
    source: str
    """The line as it stands in the file; empty where it cannot be read."""
    by_fasttrack: bool
    """Whether the line is fasttrack's own."""

    @property
    def ms_per_call(self) -> float | None:
        """The mean of one wait."""
        return None if self.total_ms is None else self.total_ms / self.count


class Findings:
    """Waits, added up by place and kind.

    Threads: any. The lock is re-entrant because a signal handler may log, and so wait, meanwhile.
    """

    def __init__(self, waits: dict[tuple[str, int, str], list[float]] | None = None) -> None:
        """Start with none, or with those of a pickled one."""
        self._lock = threading.RLock()
        self._waits = {} if waits is None else waits

    def __reduce__(self) -> tuple[Any, ...]:
        """Be pickled without the lock."""
        with self._lock:
            return Findings, ({key: list(sums) for key, sums in self._waits.items()},)

    def add(self, place: Place, wait: str, waited_s: float | None) -> None:
        """Add one wait at a place; None seconds if they are not known."""
        with self._lock:
            sums = self._waits.setdefault((*place, wait), [0, 0.0])
            sums[0] += 1
            sums[1] += waited_s or 0.0

    def sorted(self) -> tuple[Finding, ...]:
        """Return what was found, the longest waits first.

        torch warns of a synchronisation when the call that made it returns, so that both tell of
        the same one: at a line of which the dispatcher knows, torch's warnings are left out.
        """
        with self._lock:
            waits = {key: tuple(sums) for key, sums in self._waits.items()}
        timed = {(file, line) for file, line, wait in waits if wait != CUDA_SYNC}
        found = [
            Finding(
                file=file,
                line=line,
                op=wait,
                count=int(count),
                total_ms=None if wait == CUDA_SYNC else waited_s * 1000,
                source=linecache.getline(file, line).strip(),
                by_fasttrack=file.startswith(_OURS),
            )
            for (file, line, wait), (count, waited_s) in waits.items()
            if wait != CUDA_SYNC or (file, line) not in timed
        ]
        return tuple(sorted(found, key=lambda one: (-(one.total_ms or 0.0), one.file, one.line)))


def locate_caller(thread_id: int) -> Place:
    """Return where the code that runs now waits, for the sake of a thread.

    A thread of autograd's has no code of the user's but for custom functions; then it is the line
    at which `thread_id`, whose backward pass it is, waits for it.
    """
    place = _locate(sys._getframe(1))
    return place or _locate(sys._current_frames().get(thread_id)) or ("<unknown>", 0)


def _locate(frame: FrameType | None) -> Place | None:
    """Return the innermost code that is not torch's, Python's or the audit's."""
    while frame is not None:
        file = frame.f_code.co_filename
        if not _is_skipped(file):
            return file, frame.f_lineno
        frame = frame.f_back
    return None


@lru_cache(maxsize=10_000)
def _is_skipped(file: str) -> bool:
    standard = file.startswith(_STANDARD_LIBRARY) and not file.startswith(_INSTALLED)
    return standard or file.startswith(_SKIPPED)


def make_table(findings: tuple[Finding, ...]) -> list[str]:
    """Return the lines of a table of `findings`, and of advice for what is in it."""
    lines = [_LINE.format("total ms", "count", "ms each", "what", "where")]
    for one in findings:
        total, each = ("?" if ms is None else f"{ms:.3f}" for ms in (one.total_ms, one.ms_per_call))
        where = f"{_short_path(one.file)}:{one.line}{' (fasttrack)' if one.by_fasttrack else ''}"
        source = one.source
        if len(source) > _LONGEST_SOURCE:
            source = f"{source[:_LONGEST_SOURCE]}..."
        lines.append(_LINE.format(total, one.count, each, one.op, f"{where}  {source}".rstrip()))
    advice: dict[str, list[str]] = {}
    for one in findings:
        names = advice.setdefault(advise(one.op), [])
        if one.op not in names:
            names.append(one.op)
    for text, names in advice.items():
        lines += textwrap.wrap(f"{', '.join(names)}: {text}.", _WIDTH, subsequent_indent="  ")
    return lines


def _short_path(file: str) -> str:
    """Return `file` as seen from here, if it lies below."""
    below = os.getcwd() + os.sep
    return file[len(below) :] if file.startswith(below) else file
