"""Copy what the program prints into the run's console log."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

from fasttrack.hotpath.records import Console

if TYPE_CHECKING:
    from fasttrack.hotpath.ring import Ring


class ConsoleCapture:
    """Wrap `sys.stdout.write` and `sys.stderr.write`, as wandb does: our only global change.

    Threads: `_tee` on any; the rest on the thread that builds and finishes the tracker.
    """

    def __init__(self, ring: Ring[Console]) -> None:
        """Start copying into `ring`."""
        self._ring = ring
        self.active = True
        self._wrapped: list[tuple[Any, Any, Any]] = []
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if stream is None:  # pythonw, daemons
                continue
            original = stream.write
            wrapper = self._tee(name, original)
            try:
                stream.write = wrapper
            except AttributeError:  # a stream whose methods cannot be replaced
                continue
            self._wrapped.append((stream, original, wrapper))

    def _tee(self, name: str, original: Any) -> Any:
        push = self._ring.push

        def write(text: str) -> Any:
            written = original(text)
            if self.active and text and isinstance(text, str):
                push(Console(name, text, time.time()))
            return written

        return write

    def stop(self) -> None:
        """Put the original methods back, unless somebody has wrapped ours since."""
        for stream, original, wrapper in self._wrapped:
            if stream.write is wrapper:
                stream.write = original
        self._wrapped.clear()
        self.active = False
