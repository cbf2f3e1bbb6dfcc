"""The flight recorder: the last steps at full rate, written to a file of their own when it matters.

Steps that were not logged stay where the caller has put them (`hotpath/trail.py`), rows are held
here; both are of fixed size. Nothing is put together before it is asked for.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from fasttrack.handler_errors import is_handlers
from fasttrack.hotpath.records import LARGEST_STEP
from fasttrack.hotpath.trail import SLACK
from fasttrack.journal.rows import spell_non_finite
from fasttrack.journal.run_directory import attempt, flight_path
from fasttrack.journal.trouble import Flight
from fasttrack.notices import spell
from fasttrack.redaction import redact_text
from fasttrack.worker.resolve import clock_offset_s

if TYPE_CHECKING:
    from pathlib import Path

    from fasttrack.hotpath.records import Scalar
    from fasttrack.hotpath.trail import StepTrail
    from fasttrack.notices import Notices

_VERSION = 1
_MOST_DUMPS = 5
_MOST_BY_LOSS = 2  # of them: the end of the run is to have its own
_LARGEST_BYTES = 8 * 2**20
_SHARE_AFTER = 4  # one in so many steps may lie behind the one that it is about
_LONGEST_ERROR = 2000  # characters
_DEEPEST = 10  # causes of causes
_OUT_OF_MEMORY = frozenset(("OutOfMemoryError", "MemoryError"))

_Row = tuple[int, float, "dict[str, Scalar]"]


class _Asked(NamedTuple):
    """Why there is to be a dump."""

    reason: str
    error: str | None
    step: int | None
    """At which it happened, where that is known."""


class FlightRecorder:
    """Hold the last steps, and write them when asked to.

    Threads: `rows` and `dump_if_asked` are the worker's; the others from any.
    """

    def __init__(self, steps: int, trail: StepTrail, segment: Path, notices: Notices) -> None:
        """Hold the last `steps`, those of `trail` among them, for the attempt of `segment`."""
        self.rows: deque[_Row] = deque(maxlen=steps + SLACK)
        """The last rows: step, unix time, values."""
        self._steps = steps
        self._trail = trail
        self._segment = segment
        self._notices = notices
        self._dumps = self._by_loss = 0
        self._asked: _Asked | None = None  # while the run goes on
        self._asked_at_end: _Asked | None = None
        self._writing = threading.Lock()

    def ask(self, reason: str, error: str | None = None, step: int | None = None) -> None:
        """Have the worker write a dump at the end of its round. Never waits.

        Args:
            reason: "non_finite", "out_of_memory", "exception", "SIGTERM" or "exit_code".
            error: what it was, in words; secrets are redacted.
            step: at which.
        """
        self._asked = _Asked(reason, error, step)

    def ask_at_end(self, exit_code: int, *, terminated: bool) -> None:
        """Have the worker write a dump in its last round, if the run ends in trouble.

        Args:
            exit_code: of the run.
            terminated: whether SIGTERM ends it.
        """
        if terminated:
            self._asked_at_end = _Asked("SIGTERM", None, None)
        elif exit_code:
            # An exception that leaves the `with` block is being handled; one that has left the
            # program was printed by the interpreter before the exit handlers run.
            error = sys.exc_info()[1] or getattr(sys, "last_value", None)
            if error is None or isinstance(error, SystemExit):
                self._asked_at_end = _Asked("exit_code", f"exit code {exit_code}", None)
            else:
                reason = "out_of_memory" if _is_out_of_memory(error) else "exception"
                self._asked_at_end = _Asked(reason, _describe(error), None)

    def dump_if_asked(self, *, last: bool = False) -> list[Flight]:
        """Write the dumps that were asked for; return what the journal is to say of them.

        Args:
            last: whether this is the worker's last round: what was asked for at the end has waited
                for the rows that came before it.
        """
        asked, self._asked = [self._asked], None
        if last:
            asked.append(self._asked_at_end)
            self._asked_at_end = None
        return [told for each in asked if each is not None and (told := self._dump(each))]

    def dump_without_worker(self) -> None:
        """Write what was asked for, where the worker hangs: on the device, mostly.

        Values that are still on the device are left out.
        """
        self.dump_if_asked(last=True)

    def _dump(self, asked: _Asked) -> Flight | None:
        if not self._writing.acquire(blocking=False):
            return None
        try:
            by_loss = asked.reason == "non_finite"
            if self._dumps >= _MOST_DUMPS or (by_loss and self._by_loss >= _MOST_BY_LOSS):
                return None
            self._dumps += 1
            self._by_loss += by_loss
            return self._write(asked)
        except Exception as error:  # the run goes on, or ends, without it
            if is_handlers(error):
                raise
            self._notices.warn("flight", f"the last steps could not be written: {spell(error)}")
            return None
        finally:
            self._writing.release()

    def _write(self, asked: _Asked) -> Flight:
        path = flight_path(self._segment, self._dumps)
        lines = self._lines(asked.step)
        now_s = time.time()
        error = None if asked.error is None else redact_text(asked.error)[:_LONGEST_ERROR]
        step = asked.step
        if step is None and lines:
            step = lines[-1]["step"]
        encoded: list[bytes] = []
        size_bytes = 0
        for line in reversed(lines):  # the newest matter most
            encoded.append(_encode(spell_non_finite(line)))
            size_bytes += len(encoded[-1])
            if size_bytes > _LARGEST_BYTES:
                break
        told = Flight(
            number=self._dumps,
            reason=asked.reason,
            file=path.name,
            error=error,
            step=step if step is not None and abs(step) <= LARGEST_STEP else None,
            steps=len(encoded),
            time_s=now_s,
        )
        head = {
            "kind": "flight",
            "version": _VERSION,
            "run_id": self._segment.parent.name,
            "attempt": attempt(self._segment),
            "number": told.number,
            "reason": told.reason,
            "error": error,
            "step": told.step,
            "steps": told.steps,
            "unread": sum(None in line["values"].values() for line in lines[-told.steps :]),
            "time": now_s,
        }
        encoded.append(orjson.dumps(head, option=orjson.OPT_APPEND_NEWLINE))
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(b"".join(reversed(encoded)))
        self._notices.warn(path.name, f"the last {told.steps} steps are in {path}")
        return told

    def _lines(self, step: int | None) -> list[dict[str, Any]]:
        """Return the last steps, oldest first, as they are written; some of them behind `step`.

        Training goes on while a loss travels: what led to it is wanted, not what followed.
        """
        began_s = clock_offset_s()
        found = [
            _line(step, time_s, None, values, logged=True)
            for step, time_s, values in list(self.rows)
        ]
        found += [
            _line(each.step, began_s + each.at_s, each.batch_size, each.values, logged=False)
            for each in self._trail.last(self._steps + SLACK)
        ]
        found.sort(key=lambda line: line["time"])
        lines: list[dict[str, Any]] = []
        for line in found:
            before: dict[str, Any] = lines[-1] if lines else {"step": None}
            if line["step"] == before["step"]:  # a row beside the step's own call
                before["values"].update(line["values"])
                before["logged"] = before["logged"] or line["logged"]
                continue
            if before["step"] is not None and line["step"] == before["step"] + 1:
                line["step_time_ms"] = (line["time"] - before["time"]) * 1e3
            lines.append(line)
        place = next((n for n, line in enumerate(reversed(lines)) if line["step"] == step), 0)
        end = len(lines) - max(0, place - self._steps // _SHARE_AFTER)
        return lines[max(0, end - self._steps) : end]


def _line(
    step: int, time_s: float, batch_size: int | None, values: dict[str, Any], *, logged: bool
) -> dict[str, Any]:
    """Return a step as it is written; what nobody has read of a device is None."""
    return {
        "step": step,
        "time": time_s,
        "logged": logged,
        "step_time_ms": None,
        "batch_size": batch_size,
        "values": {
            name: value if isinstance(value, (int, float)) else None
            for name, value in list(values.items())
        },
    }


def _encode(line: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:  # a name or a number of the user's that no row can have
        return json.dumps(line, skipkeys=True).encode() + b"\n"


def _is_out_of_memory(error: BaseException | None) -> bool:
    """Return whether it is one of torch's (`torch.OutOfMemoryError`), or of Python's."""
    for _ in range(_DEEPEST):
        if error is None:
            return False
        if any(cls.__name__ in _OUT_OF_MEMORY for cls in type(error).__mro__):
            return True
        error = error.__cause__
    return False


def _describe(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception as unspoken:  # of a class of the user's
        if is_handlers(unspoken):
            raise
        text = "<its text cannot be had>"
    return f"{type(error).__name__}: {text}"[:_LONGEST_ERROR]
