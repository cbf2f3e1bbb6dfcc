"""What a user may name and configure, made harmless for W&B's client: it must refuse no run.

What the client would take for something of its own is spelled so that it does not; what is longer
than W&B takes is cut. Both are said.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fasttrack.journal.entries import Header

_LONGEST_NAME = 128  # of a run or a group
_LONGEST_TAG = 64
_RESERVED = "_wandb"  # under this key the client keeps its own facts, and adds to what it finds


def describe(header: Header, leave_out: Callable[[str], None]) -> dict[str, Any]:
    """Return what describes a run, as arguments of `wandb.init`.

    Args:
        header: the run's.
        leave_out: told what of it W&B does not take.
    """

    def cut(what: str, text: str | None, limit: int) -> str | None:
        if text is None or len(text) <= limit:
            return text
        leave_out(f"the end of the {what} {text[:20]!r}..., which is longer than {limit} letters")
        return text[:limit]

    tags = [cut("tag", tag, _LONGEST_TAG) for tag in header.tags or () if tag]
    return {
        "name": cut("run's name", header.name, _LONGEST_NAME),
        "group": cut("group", header.group, _LONGEST_NAME),
        "notes": header.notes,
        "tags": None if header.tags is None else list(dict.fromkeys(tags)),
    }


def inert_config(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration without what the client would take for its own, or for an artifact."""
    return {
        f"{name}_" if name == _RESERVED else name: inert(value) for name, value in values.items()
    }


def inert(value: Any) -> Any:
    """Return `value` without what the client would take for an artifact, fetch, and fail over."""
    if isinstance(value, Mapping):
        told = {name: inert(item) for name, item in value.items()}
        return told | {"_type": " artifactVersion"} if _is_artifact(value) else told
    if isinstance(value, list):
        return [inert(item) for item in value]
    is_reference = isinstance(value, str) and value.startswith("wandb-artifact://")
    return f" {value}" if is_reference else value


def _is_artifact(value: Mapping[str, Any]) -> bool:
    return bool(value.get("_type") == "artifactVersion")
