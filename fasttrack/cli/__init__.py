"""The command line, `fasttrack ...`: one module per command, loaded when it is called."""

from __future__ import annotations

from fasttrack.cli.app import main

__all__ = ["main"]
