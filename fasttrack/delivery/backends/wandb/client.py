"""W&B's client: its import, its exceptions, and its public API, as this folder needs them."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fasttrack.errors import BackendUnavailableError

# What the client raises from a run whose wandb-core has died, besides its own errors.
CORE_DIED = (OSError, RuntimeError)


def import_wandb() -> Any:
    """Return the module `wandb`.

    Raises:
        BackendUnavailableError: it cannot be imported.
    """
    # Offline means silent: wandb sends telemetry even then, unless told otherwise before import.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    # Saves two "who am I" queries of 5 s each against a server that does not answer.
    os.environ.setdefault("WANDB_X_DISABLE_VIEWER", "true")
    try:
        import wandb
    except ImportError as error:
        raise BackendUnavailableError(
            f"wandb cannot be imported ({error}): pip install wandb", final=True
        ) from error
    return wandb


def failures(*more: type[Exception]) -> tuple[type[BaseException], ...]:
    """Return the exceptions that calls of a run may raise.

    The client's own have no common base (MailboxClosedError, once wandb-core is dead); the others
    are whatever its socket raises, and what asyncio takes for no error.
    """
    return (Exception, asyncio.CancelledError, *more)


def one_line(error: object) -> str:
    """Return an exception's text for a message."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def probe(base_url: str, timeout_s: float) -> None:
    """Find out cheaply whether anything answers HTTP at `base_url`, through a proxy if one is set.

    Raises:
        BackendUnavailableError: nothing does.
    """
    try:
        urllib.request.urlopen(f"{base_url}/healthz", timeout=timeout_s).close()
    except urllib.error.HTTPError:
        return  # any answer is an answer
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise BackendUnavailableError(f"{base_url} does not answer: {one_line(reason)}") from error


def public_run(path: str, timeout_s: float = 60.0) -> Any:
    """Return the run `entity/project/id` as the client's public API sees it. Asks the server."""
    run = import_wandb().Api(timeout=max(1, int(timeout_s))).run(path)
    # The client makes a folder for downloads, entity/project/run, in WANDB_DIR.
    for folder in (Path(run.dir), *Path(run.dir).parents[:2]):
        with contextlib.suppress(OSError):  # not empty: it is used
            folder.rmdir()
    return run


def inert(value: Any) -> Any:
    """Return `value` without what wandb would take for an artifact, fetch, and fail over."""
    if isinstance(value, Mapping):
        text = str(value) if value.get("_type") == "artifactVersion" else None
        return text or {name: inert(item) for name, item in value.items()}
    if isinstance(value, list):
        return [inert(item) for item in value]
    is_reference = isinstance(value, str) and value.startswith("wandb-artifact://")
    return f" {value}" if is_reference else value
