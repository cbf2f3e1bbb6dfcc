"""The dumps of a run's flight recorder: what there is, and the steps in each."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from fasttrack.journal.run_directory import flights

if TYPE_CHECKING:
    from pathlib import Path


class FlightDump(NamedTuple):
    """A file with the last steps at full rate."""

    path: Path
    attempt: int
    number: int
    """Of the attempt's, from 1."""
    reason: str
    """"non_finite", "out_of_memory", "exception", "SIGTERM" or "exit_code"."""
    error: str | None
    """What happened, in words."""
    step: int | None
    """At which step."""
    steps: int
    """How many it holds."""
    time_s: float
    """Unix time at which it was written."""

    def as_json(self) -> dict[str, object]:
        """Return what `fasttrack show --json` prints of it."""
        told = self._asdict()
        told["time"] = told.pop("time_s")
        told["file"] = told.pop("path").name
        return told


def read_flights(run_dir: Path) -> list[FlightDump]:
    """Return the dumps in `run_dir`, oldest first; without those that cannot be read."""
    found = []
    for path in flights(run_dir):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError), path.open("rb") as file:
            head: Any = orjson.loads(file.readline())
            dump = FlightDump(
                path=path,
                attempt=int(head["attempt"]),
                number=int(head["number"]),
                reason=str(head["reason"]),
                error=None if head["error"] is None else str(head["error"]),
                step=None if head["step"] is None else int(head["step"]),
                steps=int(head["steps"]),
                time_s=float(head["time"]),
            )
            found.append(dump)
    return found
