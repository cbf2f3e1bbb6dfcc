"""Compare a run's journal with what its destinations hold: what `fasttrack verify` does.

The comparison is by count and content: every value of every row, by its metric and step. It is made
by a process of its own, which reads both sides as streams.
"""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import orjson

from fasttrack.delivery.events import Busy, decode
from fasttrack.delivery.spawn import BUSY, HUNG, delivery_environment, verification_command
from fasttrack.runs.listening import SilentError, ended_with_block, lines_of
from fasttrack.runs.sync import deliver_run

if TYPE_CHECKING:
    from collections.abc import Callable

    from fasttrack.delivery.events import Event
    from fasttrack.runs.local import LocalRun


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceVerdict:
    """What one place holds of a run."""

    backend: str
    place: str = ""
    """Which, in words."""
    attempts: list[int] = field(default_factory=list)
    """Whose rows are to be there."""
    rows: int = 0
    """In the journal."""
    values: int = 0
    """In these rows."""
    lines: int = 0
    """What the place holds, in its own units: it may merge rows of one step, or cut one."""
    missing: int = 0
    """Rows of which not every value is there."""
    replaced: int = 0
    """How many of them have other values in their place."""
    missing_steps: list[list[int]] = field(default_factory=list)
    """Their steps, as ranges [first, last]."""
    missing_rows: list[list[int]] = field(default_factory=list)
    """The first thousand of them: [attempt, number of the row from 0, step]."""
    doubled: int = 0
    """Values that are there more often than they were logged."""
    doubled_steps: list[list[int]] = field(default_factory=list)
    others: int = 0
    """Values of the run's metrics that this journal does not have: another directory's, say."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Metric -> why the destination never takes it."""
    metrics: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)
    """Metric -> "journal" and "held" -> count, checksum (of steps and values, in any order)."""
    error: str | None = None
    """Why it could not be read."""

    @property
    def is_whole(self) -> bool:
        """Whether every row is there, and none twice."""
        return self.error is None and not self.missing and not self.doubled


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What the destinations of a run hold of it."""

    run_id: str
    directory: str
    places: tuple[PlaceVerdict, ...] = ()
    damaged: tuple[str, ...] = ()
    """Lines of the journal that cannot be read, and so are nowhere; the first of them."""
    reason: str | None = None
    """Why nothing could be compared."""

    @property
    def exit_code(self) -> int:
        """0: all is there; 1: something differs; 2: something could not be checked."""
        if any(place.error is None and not place.is_whole for place in self.places):
            return 1
        if self.reason is not None or any(place.error is not None for place in self.places):
            return 2
        return int(bool(self.damaged))

    def as_json(self) -> dict[str, Any]:
        """Return what `fasttrack verify --json` prints."""
        return {
            "run_id": self.run_id,
            "directory": self.directory,
            "whole": self.exit_code == 0,
            "exit_code": self.exit_code,
            "reason": self.reason,
            "damaged": list(self.damaged),
            "places": [{f.name: getattr(one, f.name) for f in fields(one)} for one in self.places],
        }


def verify_run(
    run: LocalRun,
    *,
    on_silence: Callable[[str], object] = lambda why: None,
    timeout_s: float | None = None,
) -> Verification:
    """Compare `run` with what its destinations hold; changes nothing.

    Blocks while both are read; what shows nothing for long is given up, and said. A run that is
    being delivered is not compared.

    Args:
        run: the run.
        on_silence: told in words where the comparison lies still.
        timeout_s: how long it may take; None: any time.
    """
    told: dict[str, Any] = {"run_id": run.run_id, "directory": str(run.directory.absolute())}
    if run.journal_only:
        why = "it was recorded for the journal only (backends: none)"
        return Verification(**told, reason=why)
    for _ in run.entries():
        pass  # only what is damaged counts here
    told["damaged"] = tuple(map(str, run.damage))
    lines: list[bytes] = []
    try:
        code, last = _compare(run, lines, on_silence, timeout_s)
    except SilentError as error:
        return Verification(**told, places=tuple(_places(lines)), reason=str(error))
    if code == BUSY:
        return Verification(**told, reason=f"it is being delivered by {_holder(lines)}")
    places = tuple(_places(lines))
    reason: str | None = None
    if code == HUNG:
        reason = last
    elif code or not places:
        reason = f"the comparison ended with {code}: {last}"
    return Verification(**told, places=places, reason=reason)


def _compare(
    run: LocalRun,
    lines: list[bytes],
    on_silence: Callable[[str], object],
    timeout_s: float | None,
) -> tuple[int, str]:
    """Compare; add to `lines` what is found, and return the exit code and what was said last.

    Raises:
        SilentError: it lay still, or took too long.
    """
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            verification_command(run.directory),
            env=delivery_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=said,
        )
        with ended_with_block(process):
            lines.extend(lines_of(process, on_silence=on_silence, timeout_s=timeout_s))
            code = process.wait()
        said.seek(0)
        words = said.read().decode(errors="replace").strip().splitlines()
    return code, words[-1] if words else "nothing was said"


def repair_run(
    run: LocalRun,
    *,
    on_event: Callable[[Event], object] = lambda event: None,
    on_silence: Callable[[str], object] = lambda why: None,
) -> Verification:
    """Deliver what a destination lacks, and compare again.

    Rows that are there too often, or are somebody else's, stay: no destination takes rows back.

    Args:
        run: the run.
        on_event: told what delivery reports.
        on_silence: told in words where it, or the comparison, lies still.
    """
    found = verify_run(run, on_silence=on_silence)
    if found.exit_code != 1 or not any(place.missing for place in found.places):
        return found
    marked = subprocess.run(
        verification_command(run.directory, recheck=True),
        env=delivery_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    if marked.returncode:
        return found
    deliver_run(run, on_event=on_event, on_silence=on_silence)
    return verify_run(run, on_silence=on_silence)


def _holder(lines: list[bytes]) -> str:
    for line in lines:
        with contextlib.suppress(ValueError):  # something that a client prints
            if isinstance(event := decode(line), Busy):
                return event.holder
    return Busy().holder


def _places(lines: list[bytes]) -> list[PlaceVerdict]:
    names = {f.name for f in fields(PlaceVerdict)}
    places = []
    for line in lines:
        try:
            told = orjson.loads(line)
        except ValueError:
            continue  # something that a client prints
        if isinstance(told, dict) and told.get("event") == "place":
            places.append(PlaceVerdict(**{k: v for k, v in told.items() if k in names}))
    return places
