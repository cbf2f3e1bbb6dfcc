"""What tests of the doctor share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fasttrack.doctor import Limits

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from fasttrack.doctor import Check, Level

PATIENT = Limits(total_s=110.0, client_s=100.0, torch_s=100.0, tool_s=100.0)
"""Lets slow machines be slow: what a time limit does has tests of its own."""


def by_name(found: list[Check]) -> dict[str, Check]:
    """Return the checks by their names."""
    assert len({check.check for check in found}) == len(found)
    return {check.check: check for check in found}


def only(found: list[Check]) -> Check:
    """Return the one check."""
    (check,) = found
    return check


def states(found: dict[str, Check]) -> dict[str, Level]:
    """Return the states by the names."""
    return {name: check.state for name, check in found.items()}


def hide_module(name: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a module impossible to import in processes that are started from now on."""
    directory.mkdir()
    (directory / "sitecustomize.py").write_text(f"import sys\nsys.modules[{name!r}] = None\n")
    monkeypatch.setenv("PYTHONPATH", str(directory))
