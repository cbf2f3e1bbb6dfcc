"""What is sent of an alert, without secrets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fasttrack.journal.alerts import ASKED
from fasttrack.redaction import redact_text

if TYPE_CHECKING:
    from fasttrack.journal.alerts import Alert

_LONGEST = 2000  # characters of a message


class SendError(Exception):
    """A message did not arrive; says why, without an address."""

    def __init__(self, why: str, *, final: bool = False) -> None:
        """Say why, and whether trying again is in vain."""
        super().__init__(why)
        self.final = final


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """An alert, as somebody reads it who does not sit before the run."""

    key: str
    """The run and the cause, for who wants to know whether it came twice."""
    level: str
    title: str
    text: str
    run: str
    """The run's name, as people know it."""
    url: str | None
    """Where to look at it."""
    time_s: float
    """Unix time of what happened."""
    has_title: bool = False
    """Whether the text is nothing without the title: somebody else wrote both."""

    @property
    def words(self) -> str:
        """What is told where there is no place for a title."""
        if not self.has_title:
            return self.text
        return f"{self.title}: {self.text}" if self.text else self.title

    @property
    def line(self) -> str:
        """All of it, in one line."""
        where = f" ({self.url})" if self.url else ""
        return f"{self.level} {self.run}: {self.words}{where}"


def message_of(alert: Alert, run_id: str, run: str, url: str | None) -> Message:
    """Return what is sent of `alert`."""
    return Message(
        key=f"{run_id}:{alert.key}",
        level=alert.level,
        title=redact_text(alert.title)[:_LONGEST],
        text=redact_text(alert.text)[:_LONGEST],
        run=redact_text(run),
        url=url,
        time_s=alert.time_s,
        has_title=alert.kind == ASKED,
    )
