"""Where a run's settings come from: arguments, then the environment, then defaults.

The environment variables that fasttrack knows are read here and nowhere else.
"""

from __future__ import annotations

import os
from pathlib import Path

from fasttrack.errors import ConfigurationError
from fasttrack.validation import require_choice

DEFAULT_PROJECT = "vla-lego"
MODES = ("online", "offline", "disabled")


def resolve_mode(mode: str | None, enabled: bool) -> str:
    """Return "online", "offline" or "disabled": `enabled` > argument > WANDB_MODE > "online".

    Raises:
        ConfigurationError: the mode is none of these.
    """
    if not enabled:
        return "disabled"
    source = "mode" if mode is not None else "WANDB_MODE"
    chosen = mode if mode is not None else os.environ.get("WANDB_MODE") or "online"
    require_choice(source, chosen, MODES)
    return chosen


def resolve_project(project: str | None) -> str:
    """Return the W&B project: argument > WANDB_PROJECT > "vla-lego".

    Raises:
        ConfigurationError: W&B would refuse the name.
    """
    source = "project" if project is not None else "WANDB_PROJECT"
    chosen = project if project is not None else os.environ.get("WANDB_PROJECT") or DEFAULT_PROJECT
    if not isinstance(chosen, str) or not chosen.strip():
        raise ConfigurationError(f"{source} must be a non-empty string, not {chosen!r}")
    bad = sorted(set(chosen) & set("/\\#?%:"))
    if bad or len(chosen) > 128:
        fault = f"holds {' '.join(bad)}" if bad else f"has {len(chosen)} characters"
        raise ConfigurationError(
            f"{source} {chosen[:60]!r} {fault}; W&B takes 128 characters at most, no / \\ # ? % :"
        )
    return chosen


def resolve_entity(entity: str | None) -> str | None:
    """Return the W&B entity: argument > WANDB_ENTITY > the account's default (None)."""
    return entity if entity is not None else os.environ.get("WANDB_ENTITY") or None


def resolve_log_model() -> bool:
    """Return whether WANDB_LOG_MODEL asks for checkpoints to be uploaded; by default not.

    "1" and "true" do, and so do "end" and "checkpoint", which Hugging Face's trainer knows.

    Raises:
        ConfigurationError: it is something else than these, "0", "false" or nothing.
    """
    value = os.environ.get("WANDB_LOG_MODEL", "").strip().lower()
    if value not in ("", "0", "false", "1", "true", "end", "checkpoint"):
        raise ConfigurationError(f"WANDB_LOG_MODEL must be 0 or 1, not {value!r}")
    return value not in ("", "0", "false")


def resolve_base_dir() -> Path:
    """Return the parent of `wandb/`, absolute: WANDB_DIR > the working directory."""
    return Path(os.environ.get("WANDB_DIR") or ".").absolute()
