"""Alerts that a script asks for, as W&B's client takes them."""

from __future__ import annotations

import time
from datetime import timedelta
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from fasttrack.wandb.said import say_once

if TYPE_CHECKING:
    from collections.abc import Callable

_WAIT_S: Final = 60.0  # as the client has it


class AlertLevel(Enum):
    """How bad it is."""

    INFO = "INFO"
    WARN = "WARN"
    ERROR = "ERROR"


class Alerts:
    """Pass on alerts, of one title no more often than the script wants.

    Threads: one at a time.
    """

    def __init__(self, tell: Callable[[str, str, str], None]) -> None:
        """Pass title, text and level on to `tell`."""
        self._tell = tell
        self._told_s: dict[str, float] = {}  # by title: when

    def take(self, title: Any, text: Any, level: Any, wait_duration: Any) -> None:
        """Pass an alert on, unless one of its title was within the time that it is to wait.

        Args:
            title: what it is about.
            text: all of it.
            level: an `AlertLevel`, or its name; None: INFO.
            wait_duration: in seconds, or a timedelta; None: a minute.
        """
        word = str(getattr(level, "value", level) or "INFO").upper()
        if word not in AlertLevel.__members__:
            say_once(f"alert level={word}", f"alert: level={word!r} is not known; INFO is taken")
            word = "INFO"
        wait_s = _WAIT_S if wait_duration is None else wait_duration
        if isinstance(wait_s, timedelta):
            wait_s = wait_s.total_seconds()
        title, now_s = str(title), time.monotonic()
        told_s = self._told_s.get(title)
        if told_s is None or now_s - told_s >= float(wait_s):
            self._told_s[title] = now_s
            self._tell(title, str(text), word)
