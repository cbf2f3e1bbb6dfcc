"""The calls of `should_stop()`: what each costs is what stands here."""

from __future__ import annotations

import sys

GO_ON = sys.maxsize
"""The limit while nobody asks to stop."""


class Calls:
    """The calls of one tracker, numbered from 0.

    Threads: `newest` is written by the one that trains, `limit` by another.
    """

    __slots__ = ("limit", "newest")

    def __init__(self) -> None:
        """Begin before the first call, which needs a closer look."""
        self.newest = -1
        self.limit = 0
        """Calls from this number on need a closer look; the others are answered "go on"."""
