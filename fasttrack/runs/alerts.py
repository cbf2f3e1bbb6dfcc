"""A run's alerts, as they were noted, and who has been told."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from fasttrack.journal.alerts import load_alerts
from fasttrack.journal.run_directory import alerts_path

if TYPE_CHECKING:
    from pathlib import Path

    from fasttrack.journal.alerts import Sending


class RunAlert(NamedTuple):
    """Something that was worth an alert."""

    time_s: float
    """Unix time of it."""
    level: str
    """"INFO", "WARN" or "ERROR"."""
    title: str
    text: str
    kind: str
    """"non_finite", "spike", "stall", "hung", "crash", "rule" or "asked"."""
    step: int | None
    """The training step at which it was; None: not known."""
    attempt: int
    told: dict[str, str]
    """By who is to be told ("stderr", "wandb", "webhook", "command"): how that went, in words."""

    def as_json(self) -> dict[str, object]:
        """Return what `fasttrack show --json` prints of it."""
        told = self._asdict()
        told["time"] = told.pop("time_s")
        return told


def read_alerts(run_dir: Path) -> list[RunAlert]:
    """Return the alerts of the run in `run_dir`, oldest first; [] where there are none.

    Each begins with its time, level, title and text.
    """
    return [
        RunAlert(
            time_s=alert.time_s,
            level=alert.level,
            title=alert.title,
            text=alert.text,
            kind=alert.kind,
            step=alert.step,
            attempt=alert.attempt,
            told={name: _spell(sending) for name, sending in alert.sent.items()},
        )
        for alert in load_alerts(alerts_path(run_dir))
    ]


def _spell(sending: Sending) -> str:
    tries = f"{sending.tries} {'try' if sending.tries == 1 else 'tries'} in vain"
    if sending.done:
        return f"told, after {tries}" if sending.tries else "told"
    return f"waits; {tries} ({sending.why})" if sending.tries else "waits"
