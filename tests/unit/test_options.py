"""The settings, and the W&B variables. tests/conftest.py removes those of the caller."""

from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path
from typing import Any

import pytest

from fasttrack import ConfigurationError, FasttrackError, Options
from fasttrack.settings import resolve_base_dir, resolve_entity, resolve_mode, resolve_project

# --- Options --------------------------------------------------------------------------------------


def test_defaults_are_the_documented_ones() -> None:
    """The design's numbers, and what the README's tables say."""
    assert dataclasses.asdict(Options()) == {
        "capture": "snapshot",
        "grad_norm": "auto",
        "grad_hold_limit_gb": 1.0,
        "ring_capacity": 65_536,
        "full_wait_s": 1.0,
        "flush_interval_s": 0.2,
        "finish_timeout_s": 60.0,
        "upload_timeout_s": 3600.0,
        "online_timeout_s": 30.0,
        "delivery": "process",
        "console": True,
        "log_rank": 0,
        "overhead_budget": None,
    }


def test_options_are_frozen_and_keyword_only() -> None:
    """Two trackers may share one; positions mean nothing."""
    options = Options()

    with pytest.raises(dataclasses.FrozenInstanceError):
        options.log_rank = 1  # type: ignore[misc]
    with pytest.raises(TypeError, match="positional"):
        Options("snapshot")  # type: ignore[misc]


@pytest.mark.parametrize(
    "values",
    [
        {"capture": "reference"},
        {"grad_norm": "off", "grad_hold_limit_gb": 0},
        {"ring_capacity": 2, "full_wait_s": 0, "flush_interval_s": 0.001},
        {"finish_timeout_s": 0, "online_timeout_s": 0.5, "delivery": "thread"},
        {"log_rank": 7, "console": False},
    ],
)
def test_values_at_the_limits_are_taken(values: dict[str, Any]) -> None:
    """The least that is allowed is allowed."""
    assert dataclasses.asdict(Options(**values)).items() >= values.items()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("capture", "copy"),
        ("capture", None),
        ("capture", ["snapshot"]),
        ("grad_norm", "on"),
        ("grad_norm", True),
        ("delivery", "fork"),
        ("grad_hold_limit_gb", -1),
        ("grad_hold_limit_gb", "1"),
        ("full_wait_s", -0.1),
        ("full_wait_s", True),
        ("flush_interval_s", 0),
        ("flush_interval_s", 0.0001),
        ("flush_interval_s", math.nan),
        ("finish_timeout_s", None),
        ("finish_timeout_s", math.nan),
        ("online_timeout_s", -math.inf),
        ("online_timeout_s", 1j),
        ("log_rank", -1),
        ("log_rank", 0.0),
        ("log_rank", True),
        ("ring_capacity", 0),
        ("ring_capacity", 1),
        ("ring_capacity", 64.0),
        ("ring_capacity", 1000),
    ],
)
def test_bad_value_is_refused_with_its_name_and_itself(name: str, value: Any) -> None:
    """The message says which option, what it may be, and what was passed."""
    with pytest.raises(ConfigurationError) as caught:
        Options(**{name: value})

    message = str(caught.value)
    assert f"Options.{name} must be" in message
    assert repr(value) in message
    assert isinstance(caught.value, FasttrackError)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    "name",
    [
        "grad_hold_limit_gb",
        "flush_interval_s",
        "finish_timeout_s",
        "online_timeout_s",
    ],
)
def test_infinity_is_refused_where_it_cannot_be_used(name: str) -> None:
    """`finish_timeout_s=inf` would make finish() raise OverflowError into training."""
    with pytest.raises(ConfigurationError, match=f"{name}.*inf"):
        Options(**{name: math.inf})


def test_console_must_be_a_bool() -> None:
    """`console="off"` would switch it on."""
    with pytest.raises(ConfigurationError, match=r"Options\.console.*'off'"):
        Options(console="off")  # type: ignore[arg-type]


def test_refused_capacity_names_the_next_power_of_two() -> None:
    """The mend is in the message, and works."""
    with pytest.raises(ConfigurationError, match="take 1024"):
        Options(ring_capacity=1000)

    assert Options(ring_capacity=1024).ring_capacity == 1024


# --- environment ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("enabled", "argument", "variable", "mode"),
    [
        (True, None, None, "online"),
        (True, None, "", "online"),
        (True, None, "offline", "offline"),
        (True, None, "disabled", "disabled"),
        (True, "online", "disabled", "online"),
        (True, "offline", "nonsense", "offline"),
        (False, "online", "online", "disabled"),
        (False, "nonsense", "nonsense", "disabled"),
    ],
)
def test_mode_is_enabled_then_argument_then_variable_then_online(
    monkeypatch: pytest.MonkeyPatch,
    enabled: bool,
    argument: str | None,
    variable: str | None,
    mode: str,
) -> None:
    """Arguments beat WANDB_MODE; `enabled=False` beats both."""
    if variable is not None:
        monkeypatch.setenv("WANDB_MODE", variable)

    assert resolve_mode(argument, enabled) == mode


@pytest.mark.parametrize("mode", ["", "dryrun", "ONLINE", "off"])
def test_unknown_mode_argument_is_refused(mode: str) -> None:
    """Naming the argument and the choices."""
    with pytest.raises(ConfigurationError, match=r"^mode must be one of online, offline, disabled"):
        resolve_mode(mode, True)


def test_unknown_mode_in_the_environment_names_the_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The user looks for the fault where it is."""
    monkeypatch.setenv("WANDB_MODE", "onlin")

    with pytest.raises(ConfigurationError, match=r"^WANDB_MODE must be .*'onlin'"):
        resolve_mode(None, True)


@pytest.mark.parametrize(
    ("argument", "variable", "project"),
    [
        (None, None, "vla-lego"),
        (None, "", "vla-lego"),
        (None, "theirs", "theirs"),
        ("mine", "theirs", "mine"),
        ("mine", "bad/name", "mine"),
        ("x" * 128, None, "x" * 128),
        ("ünïcode & spaces", None, "ünïcode & spaces"),
    ],
)
def test_project_is_argument_then_variable_then_default(
    monkeypatch: pytest.MonkeyPatch, argument: str | None, variable: str | None, project: str
) -> None:
    """Arguments beat WANDB_PROJECT."""
    if variable is not None:
        monkeypatch.setenv("WANDB_PROJECT", variable)

    assert resolve_project(argument) == project


@pytest.mark.parametrize("character", "/\\#?%:")
def test_character_that_wandb_refuses_is_named(character: str) -> None:
    """W&B would refuse the project minutes later, in another process."""
    with pytest.raises(ConfigurationError) as caught:
        resolve_project(f"a{character}b")

    assert f"holds {character};" in str(caught.value)


@pytest.mark.parametrize("project", ["", "  ", 5, b"bytes", Path("p")])
def test_project_that_is_no_name_is_refused(project: Any) -> None:
    """Empty, or not a string."""
    with pytest.raises(ConfigurationError, match=r"^project must be a non-empty string"):
        resolve_project(project)


def test_project_that_is_too_long_is_refused_with_its_length() -> None:
    """W&B's limit is 128 characters."""
    with pytest.raises(ConfigurationError, match="has 129 characters"):
        resolve_project("x" * 129)


@pytest.mark.parametrize("project", ["a/b", " "])
def test_bad_project_in_the_environment_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, project: str
) -> None:
    """As with WANDB_MODE."""
    monkeypatch.setenv("WANDB_PROJECT", project)

    with pytest.raises(ConfigurationError, match="WANDB_PROJECT"):
        resolve_project(None)


@pytest.mark.parametrize(
    ("argument", "variable", "entity"),
    [(None, None, None), (None, "", None), (None, "team", "team"), ("me", "team", "me")],
)
def test_entity_is_argument_then_variable_then_none(
    monkeypatch: pytest.MonkeyPatch, argument: str | None, variable: str | None, entity: str | None
) -> None:
    """None lets W&B take the account's own."""
    if variable is not None:
        monkeypatch.setenv("WANDB_ENTITY", variable)

    assert resolve_entity(argument) == entity


def test_base_directory_is_absolute_whatever_the_variable_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that changes its directory later must not split its run."""
    found = []
    for value in (str(tmp_path / "elsewhere"), "relative", "", None):
        if value is None:
            monkeypatch.delenv("WANDB_DIR")
        else:
            monkeypatch.setenv("WANDB_DIR", value)
        found.append(resolve_base_dir())

    here = Path(os.getcwd())
    assert found == [tmp_path / "elsewhere", here / "relative", here, here]
