"""What the trainer logs, what is found of it in a journal and at a destination, and the judgement.

Every row that the trainer logs has an id, from which all that it must hold can be computed; so
each row's contents are checked, not only how many there are.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

ID = "row/id"
STREAM = 100_000
"""Ids of different trainers lie in different such ranges; the order is that of each."""
_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_SPECIAL = {17: math.nan, 18: math.inf, 19: -math.inf}


def step_of(row_id: int) -> int:
    """Return the training step that a row belongs to: every tenth shares the step before it."""
    return row_id - 1 if row_id % 10 == 9 else row_id


def values_of(row_id: int, seed: int) -> dict[str, float]:
    """Return what a row must hold, under the names that a destination shows."""
    base = (row_id * 7919 + seed * 104_729) % 65_536
    if row_id % 10 == 9:
        return {ID: row_id, "eval.loss": base / 8, "eval.deep.er": math.sin(base)}
    special = _SPECIAL.get(row_id % 100, base * 1e-3)
    return {ID: row_id, "loss/total": base / 8, "check/sine": math.sin(base), "check/odd": special}


@dataclass(frozen=True)
class FoundRow:
    """One row as it was read back."""

    step: int
    values: Mapping[str, Any]

    @property
    def id(self) -> int:
        """The id that the trainer gave it."""
        return int(self.values[ID])


def is_right(row: FoundRow, seed: int) -> bool:
    """Return whether a row holds what was logged under its id, at its step."""
    expected = values_of(row.id, seed)
    return row.step == step_of(row.id) and all(
        name in row.values and _same(row.values[name], value) for name, value in expected.items()
    )


def _same(found: object, expected: float) -> bool:
    value = _NON_FINITE.get(found) if isinstance(found, str) else found
    if not isinstance(value, (int, float)):
        return False
    return value == expected or (math.isnan(value) and math.isnan(expected))


def read_journal(run_dir: Path) -> list[FoundRow]:
    """Return the trainer's rows in all segments; lines that are damaged or torn are left out.

    Reads the files by itself: the package's own reader is under test.
    """
    rows = _read_rows(run_dir)
    return [row for entry in rows for row in _found(entry.get("step"), entry.get("values"))]


def count_rows(run_dir: Path) -> int:
    """Return how many rows all segments have, those included that the trainer did not make."""
    return sum(1 for _ in _read_rows(run_dir, ("row", "media")))


def _read_rows(run_dir: Path, kinds: Sequence[str] = ("row",)) -> Iterator[dict[str, Any]]:
    for path in sorted(run_dir.glob("segment-*.jsonl")):
        for line in path.read_bytes().split(b"\n")[:-1]:
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict) and entry.get("kind") in kinds:
                yield entry


def read_history(history: Iterable[Mapping[str, Any]]) -> list[FoundRow]:
    """Return the trainer's rows of a W&B history, whose rows hold the training step as `step`."""
    return [row for values in history for row in _found(values.get("step"), values)]


def read_offline(directory: Path) -> list[FoundRow]:
    """Return the trainer's rows in a W&B run directory's `.wandb` file."""
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    from fasttrack.delivery.backends.wandb.file import read_payloads

    found = []
    for file in directory.glob("run-*.wandb"):
        for payload in read_payloads(file):
            record = Record.FromString(payload)
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                values = {".".join(i.nested_key) or i.key: json.loads(i.value_json) for i in items}
                found += _found(values.get("step"), values)
    return found


def _found(step: Any, values: Any) -> list[FoundRow]:
    return [FoundRow(step, values)] if isinstance(values, dict) and ID in values else []


@dataclass
class Counts:
    """What was found wrong with a run's rows."""

    checked: int = 0
    lost: list[int] = field(default_factory=list)
    doubled: list[int] = field(default_factory=list)
    wrong: list[int] = field(default_factory=list)
    late: list[int] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether all are there, once and right, in whatever order."""
        return not (self.lost or self.doubled or self.wrong)


def compare(expected: Iterable[int], found: list[FoundRow], seed: int) -> Counts:
    """Compare the rows that a place must hold with those that it does.

    Args:
        expected: ids of the rows that must be there, each once.
        found: what is there, in order.
        seed: the run's.

    Returns:
        `lost`: not there; `doubled`: there more than once; `wrong`: there with other contents, or
        not expected at all; `late`: there behind one that was logged later.
    """
    must = set(expected)
    counts = Counts(checked=len(found))
    seen = Counter(row.id for row in found)
    counts.lost = sorted(must - seen.keys())
    counts.doubled = sorted(row_id for row_id, times in seen.items() if times > 1)
    latest: dict[int, int] = {}
    for row in found:
        before = latest.get(row.id // STREAM, -1)
        if row.id not in must or not is_right(row, seed):
            counts.wrong.append(row.id)
        if row.id < before:
            counts.late.append(row.id)
        latest[row.id // STREAM] = max(before, row.id)
    return counts
