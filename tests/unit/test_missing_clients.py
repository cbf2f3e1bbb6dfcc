"""A backend whose client is not installed is said before the run begins."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
from support.runs import make_tracker

from fasttrack import ConfigurationError, Options

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("name", ["mlflow", "trackio"])
def test_one_line_names_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Nothing is begun, and no folder of that name is taken for it."""
    monkeypatch.setitem(sys.modules, name, None)
    (tmp_path / name).mkdir()

    with pytest.raises(ConfigurationError) as raised:
        make_tracker(options=Options(backends=(name,)))

    assert str(raised.value) == (
        f"the backend {name!r} needs {name}, which is not installed: "
        f"pip install 'fasttrack[{name}]'"
    )
    assert not (tmp_path / "wandb").exists()


def test_who_does_not_record_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """A script runs everywhere with tracking switched off."""
    monkeypatch.setitem(sys.modules, "mlflow", None)

    tracker = make_tracker(options=Options(backends=("mlflow",)), mode="disabled")
    assert not tracker.is_active()
