"""`alerts.json`: what was worth an alert in a run, and who has been told. One writer at a time."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

import orjson

from fasttrack.journal.json_bytes import json_bytes

if TYPE_CHECKING:
    from pathlib import Path

ASKED: Final = "asked"
"""The kind of an alert that the program itself asks for."""
_VERSION = 1


@dataclass(kw_only=True)
class Sending:
    """How it goes with an alert at one of those who are to be told."""

    done: bool = False
    tries: int = 0
    """How often it was sent in vain."""
    why: str | None = None
    """Why the last time; None: it was not, yet."""
    time_s: float | None = None
    """Unix time of the last try, or of the success."""


@dataclass(kw_only=True)
class Alert:
    """Something that was worth an alert."""

    time_s: float
    """Unix time of it."""
    level: str
    """"INFO", "WARN" or "ERROR"."""
    title: str
    text: str
    kind: str
    """"non_finite", "spike", "stall", "hung", "crash", "rule" or "asked"."""
    key: str
    """Its cause: there is one alert for each."""
    step: int | None = None
    attempt: int = 1
    sent: dict[str, Sending] = field(default_factory=dict)
    """By "stderr", "wandb", "webhook" and "command", as far as they are to be told."""


def save_alerts(path: Path, alerts: list[Alert]) -> None:
    """Replace the file at `path` in one step.

    Raises:
        OSError: the disk does not take it.
    """
    replace_file(path, {"version": _VERSION, "alerts": [asdict(alert) for alert in alerts]})


def replace_file(path: Path, value: object) -> None:
    """Write `value` as JSON in the place of what is at `path`, readable by its owner only.

    Raises:
        OSError: the disk does not take it.
    """
    scratch = path.with_suffix(".tmp")
    with open(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(json_bytes(value, orjson.OPT_INDENT_2))
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)


def load_alerts(path: Path) -> list[Alert]:
    """Return the alerts saved at `path`, oldest first; an unknown or damaged file has none."""
    try:
        saved: Any = orjson.loads(path.read_bytes())
        if saved["version"] != _VERSION:
            return []
        return [_alert(told) for told in saved["alerts"]]
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return []


def _alert(told: Any) -> Alert:
    sent = {name: Sending(**sending) for name, sending in told["sent"].items()}
    return Alert(**{**told, "sent": sent})
