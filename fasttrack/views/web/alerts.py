"""What a run was warned of."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import orjson

if TYPE_CHECKING:
    from pathlib import Path

_FILE = "alerts.json"


@dataclass(frozen=True, slots=True)
class Alert:
    """One warning."""

    time_s: float
    """Unix time."""
    level: str
    """"INFO", "WARN" or "ERROR"."""
    title: str
    text: str

    def as_json(self) -> dict[str, object]:
        """Return what the page is told of it."""
        return asdict(self)


def alerts_path(run_dir: Path) -> Path:
    """Return the file that they stand in."""
    return run_dir / _FILE


def read_alerts(run_dir: Path) -> list[Alert]:
    """Return the alerts of the run in `run_dir`, oldest first; damaged ones are none."""
    try:
        told = orjson.loads(alerts_path(run_dir).read_bytes())
        return [
            Alert(float(one["time_s"]), str(one["level"]), str(one["title"]), str(one["text"]))
            for one in told["alerts"]
        ]
    except (OSError, ValueError, KeyError, TypeError):
        return []
