"""What may be tuned: defaults, limits, and what is refused."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from fasttrack import ConfigurationError, FasttrackError, Options


def test_defaults_are_the_documented_ones() -> None:
    """The design's numbers, and what the README's tables say."""
    assert dataclasses.asdict(Options()) == {
        "capture": "snapshot",
        "grad_norm": "auto",
        "grad_hold_limit_gb": 1.0,
        "ring_capacity": 65_536,
        "full_wait_s": 1.0,
        "media_limit_mb": 256.0,
        "flush_interval_s": 0.2,
        "wait_for_delivery": "auto",
        "finish_timeout_s": 60.0,
        "upload_timeout_s": 3600.0,
        "checkpoint_wait_s": 120.0,
        "online_timeout_s": 30.0,
        "hang_timeout_s": 60.0,
        "backends": None,
        "directory": None,
        "delivery": "process",
        "console": None,
        "log_rank": 0,
        "ranks": "main",
        "share_run_id": False,
        "nodes": "main",
        "nodes_interval_s": 15.0,
        "stop_signals": ("SIGTERM", "SIGUSR1"),
        "stop_before_end_s": 120.0,
        "overhead_budget": None,
        "find_pauses": True,
        "flops_per_token": None,
        "flops_per_sample": None,
        "peak_flops": "auto",
        "watch_nonfinite": False,
        "layer_norms_every": None,
        "flight_recorder": 0,
        "alerts": None,
    }


def test_options_are_frozen_and_keyword_only() -> None:
    """Two trackers may share one; positions mean nothing."""
    options = Options()

    with pytest.raises(dataclasses.FrozenInstanceError):
        options.log_rank = 1  # type: ignore[misc]
    with pytest.raises(TypeError, match="positional"):
        Options("snapshot")  # type: ignore[call-arg]


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
        ("directory", b"x"),
        ("share_run_id", "yes"),
        ("ranks", "every"),
        ("nodes", "some"),
        ("nodes", True),
        ("nodes_interval_s", 0),
        ("log_rank", -1),
        ("log_rank", 0.0),
        ("log_rank", True),
        ("ring_capacity", 0),
        ("ring_capacity", 1),
        ("ring_capacity", 64.0),
        ("ring_capacity", 1000),
        ("flops_per_token", 0),
        ("flops_per_token", -1e9),
        ("flops_per_token", True),
        ("flops_per_sample", math.inf),
        ("flops_per_sample", math.nan),
        ("flops_per_sample", "1e9"),
        ("peak_flops", 0),
        ("peak_flops", "h100"),
        ("peak_flops", None),
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
    values: dict[str, Any] = {name: math.inf}

    with pytest.raises(ConfigurationError, match=f"{name}.*inf"):
        Options(**values)


def test_console_must_be_a_bool() -> None:
    """`console="off"` would switch it on."""
    with pytest.raises(ConfigurationError, match=r"Options\.console.*'off'"):
        Options(console="off")  # type: ignore[arg-type]


def test_refused_capacity_names_the_next_power_of_two() -> None:
    """The fix is in the message, and works."""
    with pytest.raises(ConfigurationError, match="take 1024"):
        Options(ring_capacity=1000)

    assert Options(ring_capacity=1024).ring_capacity == 1024


@pytest.mark.parametrize(
    "backends",
    [["wandb", "tensorboard"], ("wandb", "tensorboard"), "wandb, tensorboard"],
)
def test_backends_are_kept_as_a_tuple(backends: Any) -> None:
    """A list, or the variable's text, is what many write; options are hashable all the same."""
    options = Options(backends=backends)

    assert options.backends == ("wandb", "tensorboard")
    assert hash(options) == hash(Options(backends=("wandb", "tensorboard")))


@pytest.mark.parametrize(
    ("backends", "message"),
    [
        (5, r"Options\.backends must be a sequence of names"),
        ((5,), r"Options\.backends must hold non-empty strings, not 5"),
        (("wandb", ""), r"Options\.backends must hold non-empty strings, not ''"),
    ],
)
def test_backends_that_are_no_names_are_refused(backends: Any, message: str) -> None:
    """Which names there are is checked with the settings."""
    with pytest.raises(ConfigurationError, match=message):
        Options(backends=backends)
