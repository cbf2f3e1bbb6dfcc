"""Look whether wandb-core takes the lines that the outbox posts as they are.

The outbox speaks to wandb-core as the client does, by names and a format that another version may
have otherwise. So what stands in the run's `.wandb` file, which is written online too, is compared
with the first line of a session: whether it is there, as a line of its own with its numbers, and a
summary with it.
"""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING

import orjson

from fasttrack.delivery.backends.wandb.file import find_field, read_payloads
from fasttrack.delivery.backends.wandb.media import identity_of
from fasttrack.delivery.contents import canonical
from fasttrack.errors import BackendLostError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fasttrack.delivery.backends.wandb.lines import Line

_FIRST_LOOK_S = 1.5  # wandb-core flushes the file once a second
_LOOK_EVERY_S = 1.0
_POLL_S = 0.05
_PATIENCE_S = 60.0  # the disk may be slow, the machine full
_MOST_RECORDS = 200_000  # that are looked through: what was printed before comes first
_TELLING = (2, 3)  # fields of a `Record`: a line of history, a summary


class Witness:
    """See that one session's first line was written.

    Threads: one at a time.
    """

    def __init__(self, directory: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Be ready to look into the run directory `directory`."""
        self._directory = directory
        self._clock = clock
        self._since_s: float | None = None
        self._looked_at_s = 0.0

    def sees(self, line: Line | None) -> bool:
        """Return whether `line` is known to be written; looks now and then. None: no line yet.

        Raises:
            BackendLostError: it was written otherwise, or not at all.
        """
        now_s = self._clock()
        if line is None:
            return False
        if self._since_s is None:
            self._since_s = now_s
            self._looked_at_s = now_s + _FIRST_LOOK_S - _LOOK_EVERY_S
        if now_s - self._looked_at_s < _LOOK_EVERY_S:
            return False
        self._looked_at_s = now_s
        if self._finds(line):
            return True
        if now_s - self._since_s > _PATIENCE_S:
            raise BackendLostError("wandb-core does not write the lines that it was sent")
        return False

    def conclude(self, line: Line | None, timeout_s: float) -> None:
        """See to it that `line` was written, once the run has ended. Waits for the file's end.

        Raises:
            BackendLostError: it was written otherwise, or not at all.
        """
        until_s = self._clock() + timeout_s
        while line is not None and not self._finds(line):
            if self._clock() >= until_s:
                raise BackendLostError("wandb-core did not write the lines that it was sent")
            time.sleep(_POLL_S)

    def _finds(self, line: Line) -> bool:
        from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

        found: dict[str, str] | None = None
        summed = False
        for file in self._directory.glob("run-*.wandb"):
            for payload in itertools.islice(read_payloads(file), _MOST_RECORDS):
                if not any(find_field(payload, field) for field in _TELLING):
                    continue
                record = Record.FromString(payload)
                kind = record.WhichOneof("record_type")
                if kind == "history" and found is None:
                    items = record.history.item
                    found = {"/".join(i.nested_key) or i.key: i.value_json for i in items}
                elif kind == "summary" and any(i.key == "_step" for i in record.summary.update):
                    summed = True
                if summed and found is not None:
                    break
        if found is None or not summed:
            return False
        expected = {**line.values(), "_step": line.step}
        for name, value in expected.items():
            if name not in found or _compared(_read(found[name])) != _compared(value):
                raise BackendLostError(f"wandb-core writes {name!r} otherwise than it was sent")
        return True


def _compared(value: object) -> object:
    return canonical(identity_of(value))


def _read(text: str) -> object:
    try:
        return float(text)
    except ValueError:
        pass
    try:
        found: object = orjson.loads(text)
    except ValueError:
        return text
    return found
