"""The stop button of a run's page, as delivery reports it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class StopButton:
    """Tell whether somebody pressed it. Threads: any."""

    def __init__(self, pressed: Callable[[], bool]) -> None:
        """Ask `pressed`, which knows what delivery last said."""
        self._pressed = pressed

    def __call__(self) -> str | None:
        """Return "wandb" if the program was asked to stop. Never waits."""
        return "wandb" if self._pressed() else None

    def close(self) -> None:
        """Nothing is held."""
