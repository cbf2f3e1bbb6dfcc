"""What scripts take from `wandb.util`."""

from __future__ import annotations

import secrets
import string
from typing import Any

from fasttrack.wandb.unknown import named

_LETTERS = string.ascii_lowercase + string.digits


def generate_id(length: int = 8) -> str:
    """Return a new run id."""
    return "".join(secrets.choice(_LETTERS) for _ in range(length))


def __getattr__(name: str) -> Any:
    return named(f"wandb.util.{name}", name)
