"""The environment that a delivery is started with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fasttrack.delivery.spawn import delivery_environment

if TYPE_CHECKING:
    import pytest


def test_pydantic_looks_for_plugins_only_where_the_user_says_of_which(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """wandb's import has it read the metadata of all that is installed."""
    monkeypatch.delenv("PYDANTIC_DISABLE_PLUGINS", raising=False)
    unset = delivery_environment()
    monkeypatch.setenv("PYDANTIC_DISABLE_PLUGINS", "logfire-plugin")

    assert unset["PYDANTIC_DISABLE_PLUGINS"] == "__all__"
    assert delivery_environment()["PYDANTIC_DISABLE_PLUGINS"] == "logfire-plugin"
