"""What MLflow keeps of names and numbers, each seen with MLflow 3.17.

* A name has letters, digits and `/ _ . - :` and spaces only, is a plain path, and no longer than
  250 characters: one `acc@5` has all of its batch refused. Others get a name that MLflow takes.
* Its databases know no infinity: it is stored as the largest number there is, and shown as that.
  Files keep it. Here both count as infinite.
* Every number is one of 64 bits: integers are exact up to 2**53.
"""

from __future__ import annotations

import functools
import hashlib
import math
import posixpath
import re
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    from fasttrack.delivery.contents import Held
    from fasttrack.journal.rows import Row

_WHOLE = re.compile(r"[/\w.\- :]+")
_BAD = re.compile(r"[^/\w.\- :]")
_LONGEST_NAME = 250
LAST_STEP = 2**63 - 1
"""The highest that there is; higher ones become it."""
_LAST_STAMP_MS = 2**62


@functools.lru_cache(maxsize=4096)
def name_for(name: str) -> str:
    """Return the name under which MLflow keeps a metric, a parameter or a tag.

    One that it would refuse is spelled with `_` for what it does not take, and with a few digits
    that are the name's own, so that no two become one: `acc@5` is `acc_5-1b3c5f`, in every run.
    """
    if len(name) <= _LONGEST_NAME and _WHOLE.fullmatch(name) and _is_plain(name):
        return name
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:6]
    parts = [part for part in _BAD.sub("_", name).split("/") if part.strip(".")]
    spelled = "/".join(parts).lstrip(".")[: _LONGEST_NAME - len(digest) - 1]
    return f"{spelled or '_'}-{digest}"


def _is_plain(name: str) -> bool:
    normal = posixpath.normpath(name)
    return normal == name and normal != "." and not normal.startswith(("..", "/"))


def number_for(value: object) -> float:
    """Return the number that MLflow keeps of a value; what it shows for infinity is infinity."""
    number = float(value)  # type: ignore[arg-type]
    return math.copysign(math.inf, number) if abs(number) == sys.float_info.max else number


def kept(row: Row, refused: Collection[str] = ()) -> Held:
    """Return of a row what MLflow can be expected to hold.

    Args:
        row: the row.
        refused: names, as MLflow would spell them, that it never takes.
    """
    values = {name_for(name): number_for(value) for name, value in row.values.items()}
    if refused:
        values = {name: value for name, value in values.items() if name not in refused}
    return min(row.step, LAST_STEP), values


class Stamps:
    """Milliseconds at which rows count as logged, such that none hides another.

    A database of MLflow's takes two values of a metric with the same number, step and millisecond
    for one, without a word. Rows of one step within a millisecond are moved apart. The same rows
    get the same stamps in every session.

    Threads: one at a time.
    """

    def __init__(self) -> None:
        """Begin with a segment's first row."""
        self._newest_ms = -1
        self._by_step: dict[int, int] = {}

    def of(self, row: Row) -> int:
        """Return the stamp of the segment's next row."""
        stamp_ms = min(max(0, int(row.time_s * 1000)), _LAST_STAMP_MS)
        if stamp_ms > self._newest_ms:  # none of those before it can be at this millisecond
            self._by_step.clear()
        elif (before := self._by_step.get(row.step)) is not None:
            stamp_ms = max(stamp_ms, before + 1)
        self._by_step[row.step] = stamp_ms
        self._newest_ms = max(self._newest_ms, stamp_ms)
        return stamp_ms
