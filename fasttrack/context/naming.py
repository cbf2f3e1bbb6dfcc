"""Run ids and run names."""

from __future__ import annotations

import secrets
import string
from datetime import datetime
from typing import TYPE_CHECKING

from fasttrack.context.git import ask_about_code

if TYPE_CHECKING:
    from collections.abc import Mapping

_ALPHABET = string.ascii_lowercase + string.digits
_GIT_TIMEOUT_S = 0.5  # the constructor must not wait for a slow file system


def make_run_id() -> str:
    """Return a new run id of W&B's form: 8 lower-case letters and digits.

    Drawn from the system's randomness: the user's seeded generators stay as they were.
    """
    return "".join(secrets.choice(_ALPHABET) for _ in range(8))


def make_run_name(
    project: str,
    tags: Mapping[str, str],
    now: datetime,
    *,
    git_timeout_s: float = _GIT_TIMEOUT_S,
) -> str:
    """Return `{model}_{objective}_{dataset}_{YYYYMMDD}_{HHMMSS}_{git_short}`.

    A tag that is not there is left out, and so is the commit outside a git repository. Where none
    of the three is there, the project stands in their place.
    """
    named = [value for key in ("model", "objective", "dataset") if (value := tags.get(key))]
    parts = [*(named or [project]), now.strftime("%Y%m%d_%H%M%S"), _git_short(git_timeout_s)]
    return "_".join(part for part in parts if part)


def _git_short(timeout_s: float) -> str | None:
    try:
        return ask_about_code("rev-parse", "--short=6", "HEAD", timeout_s=timeout_s)
    except TimeoutError:
        return None
