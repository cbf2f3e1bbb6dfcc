"""Modules that take seconds to import, for tests: each of pytest's processes collects them all."""

from __future__ import annotations

import importlib
from typing import Any


class Late:
    """A module, by its name, that is imported when something of it is first asked for."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_mock_name":  # pytest asks it of all that it finds
            raise AttributeError(name)
        return getattr(importlib.import_module(self._name), name)
