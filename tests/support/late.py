"""Modules that take seconds to import, for tests: each of pytest's processes collects them all."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import pytest


def need(name: str, reason: str) -> None:
    """Skip the test module that calls this where a package is not installed; import nothing."""
    if importlib.util.find_spec(name) is None:
        pytest.skip(reason, allow_module_level=True)


class Late:
    """A module, by its name, that is imported when something of it is first asked for."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_mock_name":  # pytest asks it of all that it finds
            raise AttributeError(name)
        return getattr(importlib.import_module(self._name), name)
