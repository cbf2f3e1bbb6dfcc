"""Checks of what a user gave; each error names the argument, what was wrong, and what to do."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from fasttrack.errors import ConfigurationError

_RUN_ID = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}"  # compiled where one is given
_ARTIFACT_NAME_LIMIT = 128
_TAG_LIMIT = 64  # characters; W&B's
_LARGEST = 1_000_000  # of any number here: 11 days in seconds


def require_integer(name: str, value: Any, *, least: int) -> None:
    """Raise ConfigurationError unless `value` is an int of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigurationError(f"{name} must be an integer of at least {least}, not {value!r}")


def require_number(name: str, value: Any, *, least: float) -> None:
    """Raise ConfigurationError unless `value` is a number from `least` to a million."""
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not least <= value <= _LARGEST
    ):
        raise ConfigurationError(
            f"{name} must be a number from {least} to {_LARGEST}, not {value!r}"
        )


def require_flops(name: str, value: Any) -> None:
    """Raise ConfigurationError unless `value` is a finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise ConfigurationError(f"{name} must be a number above 0, not {value!r}")


def require_choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    """Raise ConfigurationError unless `value` is one of `choices`."""
    if value not in choices:
        known = ", ".join(map(str, choices))
        raise ConfigurationError(f"{name} must be one of {known}, not {value!r}")


def require_strings(**values: Any) -> None:
    """Raise ConfigurationError unless each of `values` is a string or None."""
    for argument, value in values.items():
        if value is not None and not isinstance(value, str):
            raise ConfigurationError(f"{argument} must be a string, not {value!r}")


def require_mapping(argument: str, value: Any) -> None:
    """Raise ConfigurationError unless `value` is a mapping or None."""
    if value is not None and not isinstance(value, Mapping):
        raise ConfigurationError(
            f"{argument} must be a mapping such as a dict, not {type(value).__name__}"
        )


def check_names(argument: str, value: Any) -> tuple[str, ...]:
    """Return a sequence of names as a tuple.

    Raises:
        ConfigurationError: it is one string, or no sequence of non-empty strings.
    """
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ConfigurationError(
            f"{argument} must be a sequence of names such as {(value,) if value else ('a', 'b')!r},"
            f" not {value!r}"
        )
    for name in value:
        if not isinstance(name, str) or not name:
            raise ConfigurationError(f"{argument} must hold non-empty strings, not {name!r}")
    return tuple(value)


def split_names(listed: str) -> tuple[str, ...]:
    """Return the names in a comma list."""
    names = (name.strip() for name in listed.split(","))
    return tuple(name for name in names if name)


def check_tags(tags: Any, required: Sequence[str], source: str = "") -> dict[str, str]:
    """Return `tags` as strings.

    Args:
        tags: the user's.
        required: the names that must be there.
        source: who requires them, where that is not the caller, for the message.

    Raises:
        ConfigurationError: they are no mapping to short strings, or lack some of `required`; all
            that are missing are named.
    """
    require_mapping("tags", tags)
    checked: dict[str, str] = {}
    for key, value in (tags or {}).items():
        if not isinstance(key, str) or not isinstance(value, (str, int, float)) or value == "":
            raise ConfigurationError(
                f"tags must map strings to non-empty strings, not {key!r} to {value!r}"
            )
        if len(f"{key}:{value}") > _TAG_LIMIT:
            raise ConfigurationError(
                f"tag {f'{key}:{value}'!r} is longer than W&B's {_TAG_LIMIT} characters"
            )
        checked[key] = str(value)
    missing = [key for key in required if key not in checked]
    if missing:
        asked = f", which {source} requires" if source else ""
        raise ConfigurationError(
            f"tags lacks {', '.join(missing)}{asked}; pass them, e.g. "
            f"tags={{{', '.join(f'{key!r}: ...' for key in missing)}}}, or other required_tags"
        )
    return checked


def require_run_id(argument: str, value: Any) -> None:
    """Raise ConfigurationError unless `value` is None or can name a run and its directory."""
    if value is not None and not (isinstance(value, str) and re.fullmatch(_RUN_ID, value)):
        raise ConfigurationError(
            f"{argument} {value!r} is no run id (letters, digits, '_', '-' and '.' only); "
            "pass what get_run_id() returned"
        )


def check_aliases(aliases: Any) -> tuple[str, ...]:
    """Return artifact aliases as a tuple.

    Raises:
        ConfigurationError: they are not a sequence of strings that W&B takes.
    """
    if isinstance(aliases, str) or not isinstance(aliases, Sequence):
        raise ConfigurationError(f"aliases must be a list of strings, not {aliases!r}")
    for alias in aliases:
        if not isinstance(alias, str) or not alias or set(alias) & set("/:"):
            raise ConfigurationError(f"alias {alias!r} must be a string without '/' and ':'")
    return tuple(aliases)


def artifact_name(name: str) -> str:
    """Return a name that W&B takes for an artifact, as much as possible like `name`."""
    return re.sub(r"[^a-zA-Z0-9_.-]", "-", name)[:_ARTIFACT_NAME_LIMIT]
