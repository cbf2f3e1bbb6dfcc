"""The file by which `fasttrack stop` reaches a program, also from another node."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from fasttrack.handler_errors import is_handlers

if TYPE_CHECKING:
    from pathlib import Path


class StopFile:
    """Tell whether somebody wrote into the file. It is there, empty, while the program listens.

    Threads: one.
    """

    def __init__(self, path: Path) -> None:
        """Do nothing yet."""
        self._path = path
        self._made = False

    def __call__(self) -> str | None:
        """Return "command" if the program was asked to stop. Looks at the disk."""
        with contextlib.suppress(OSError):  # the disk is full, the directory gone
            if not self._made:
                self._path.touch(mode=0o600)
                self._made = True
            if self._path.stat().st_size:
                return "command"
        return None

    def close(self) -> None:
        """Remove the file: nobody listens any more."""
        if self._made:
            try:
                self._path.unlink()
            except OSError as error:  # the directory is gone
                if is_handlers(error):
                    raise
