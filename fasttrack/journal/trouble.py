"""The journal's lines about what people are to hear of; `entries.py` says how they stand."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

LEVELS: Final = ("INFO", "WARN", "ERROR")
"""Of alerts, as W&B has them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flight:
    """A dump of the last steps at full rate, which lies beside the journal."""

    kind: ClassVar[str] = "flight"

    number: int
    """Of the attempt's dumps, from 1."""
    reason: str
    """"non_finite", "out_of_memory", "exception", "SIGTERM" or "exit_code"."""
    file: str
    """Its name in the run's directory."""
    error: str | None = None
    """What happened, in words, secrets redacted."""
    step: int | None = None
    """At which step; None: no step is known."""
    steps: int = 0
    """How many it holds."""
    time_s: float = 0.0
    """"time"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BadLayers:
    """In which layers gradients or parameters were no finite numbers, the first time."""

    kind: ClassVar[str] = "bad_layers"

    step: int
    text: str
    """Which, in words."""
    time_s: float = 0.0
    """"time"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedAlert:
    """An alert that the training program itself asks for."""

    kind: ClassVar[str] = "alert"

    title: str
    text: str = ""
    level: str = "INFO"
    """"INFO", "WARN" or "ERROR"."""
    step: int | None = None
    """The last training step; None: there was none yet, or none that a row can have."""
    time_s: float = 0.0
    """"time"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RanksStanding:
    """How it stands with the ranks of a job, whenever that has changed. At first all is well."""

    kind: ClassVar[str] = "ranks"

    missing: tuple[str, ...] = ()
    """Where those ranks run, or ran, of which nothing is heard; the first 64."""
    missing_ranks: int = 0
    """How many they are."""
    stragglers: dict[str, Any] = field(default_factory=dict)
    """Those that hold the others up: where each runs, and in words what it is at; the first 64."""
    time_s: float = 0.0
    """"time"."""

    def __post_init__(self) -> None:
        """Look into `stragglers`, which is shown.

        Raises:
            ValueError: what is said of a rank is no text.
        """
        if not all(isinstance(told, str) for told in self.stragglers.values()):
            raise ValueError("what is said of a rank is no text")
