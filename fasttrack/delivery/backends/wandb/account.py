"""What W&B's client finds on this machine: versions, server, account. For `fasttrack doctor`."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from fasttrack.delivery.backends.wandb.client import CORE_DIED, import_wandb, one_line, probe
from fasttrack.errors import BackendUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator


def describe_client(timeout_s: int) -> Iterator[dict[str, Any]]:
    """Yield what the client finds here, fact by fact; the first asks no server. Never the key.

    May take longer than `timeout_s`: names must be resolved and programs started.

    Yields:
        `version`, `core` (wandb-core's path), `base_url`, `key_source` (None: there is no key);
        then `latency_ms`, or `server_error` and `fault`, its type; then `user` or `key_error`.

    Raises:
        Exception: wandb, or its configuration, is broken; any of the many types that wandb has.
    """
    wandb = import_wandb()
    settings = wandb.setup().settings
    core = wandb.util.get_core_path()
    source = _key_source(wandb, settings)
    base_url = settings.base_url
    yield {"version": wandb.__version__, "core": core, "base_url": base_url, "key_source": source}
    started_s = time.monotonic()
    try:
        probe(base_url, timeout_s)
    except BackendUnavailableError as error:
        reason = getattr(error.__cause__, "reason", error.__cause__)
        yield {"server_error": str(error), "fault": type(reason).__name__}
        return
    yield {"latency_ms": round(1000 * (time.monotonic() - started_s))}
    try:
        yield {"user": wandb.Api(timeout=timeout_s).viewer.username}
    except (wandb.errors.Error, *CORE_DIED, ValueError) as error:
        yield {"key_error": one_line(error)}


def _key_source(wandb: Any, settings: Any) -> str | None:
    """Return where the client takes its API key from, in its own order; None: there is none."""
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        if os.environ.get(name):
            return name
    try:
        in_netrc = wandb.sdk.lib.wbauth.read_netrc_auth(host=settings.base_url) is not None
    except wandb.errors.Error:  # something stands there, but no key
        in_netrc = True
    return "the netrc file" if in_netrc else "W&B's settings" if settings.api_key else None
