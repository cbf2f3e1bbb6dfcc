"""What a check is: one subject, how it fares, and what would fix it."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence

Level: TypeAlias = Literal["ok", "note", "problem"]
"""A "note" is worth knowing; a "problem" keeps a tracker from recording as asked."""


@dataclass(frozen=True, slots=True)
class Check:
    """What was found on one subject."""

    check: str
    """The subject."""
    state: Level
    text: str
    fix: str | None = None
    """A command to type, where something is not as it should be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long a doctor may wait, in seconds."""

    total_s: float = 10.0
    """For all checks, which run side by side."""
    client_s: float = 9.0
    """For W&B's client: to be imported, ask the server, start wandb-core, ask for the account."""
    torch_s: float = 9.0
    """For torch to be imported."""
    network_s: float = 3.0
    """For one answer of a server."""
    tool_s: float = 2.0
    """For a program such as git."""

    @classmethod
    def within(cls, total_s: float) -> Limits:
        """Return limits in the usual proportions for so long a time in all."""
        share = total_s / cls().total_s
        usual = cls()
        return cls(
            total_s=total_s,
            client_s=usual.client_s * share,
            torch_s=usual.torch_s * share,
            network_s=usual.network_s * share,
            tool_s=usual.tool_s * share,
        )


def ask(
    command: Sequence[str], timeout_s: float, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a program without input and return what it printed.

    Raises:
        OSError: it cannot be started.
        subprocess.TimeoutExpired: it took longer; `output` holds, as bytes, what it had printed.
    """
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        errors="replace",
        stdin=subprocess.DEVNULL,
        timeout=timeout_s,
        env={**os.environ, "LC_ALL": "C", "PYTHONSAFEPATH": "1", **environment},
    )
