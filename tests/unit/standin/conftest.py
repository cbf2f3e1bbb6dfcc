"""Runs of the stand-in that keep their journal only, and what was said before is forgotten."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import fasttrack.wandb as wandb
from fasttrack.notices import Notices
from fasttrack.wandb import said

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("FASTTRACK_BACKENDS", "none")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_CONSOLE", "off")
    monkeypatch.setattr(said, "NOTICES", Notices())
    monkeypatch.setattr(said, "_told", [0])
    yield
    wandb.teardown()
