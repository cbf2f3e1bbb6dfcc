"""What `fasttrack doctor` asks about the settings, the process and the runs here.

None of the checks raises for what it looks into, and none changes anything. What may be slow, may
crash or may disturb this process (wandb, torch) runs in a process of its own with a time limit.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path

from fasttrack.command import spell_command
from fasttrack.context.distributed import get_rank, get_world_size, is_main_process
from fasttrack.doctor.check import Check
from fasttrack.errors import ConfigurationError
from fasttrack.redaction import looks_secret, redact
from fasttrack.runs.local import list_runs
from fasttrack.runs.status import find_status, seems_delivered
from fasttrack.settings import (
    resolve_backends,
    resolve_entity,
    resolve_log_model,
    resolve_mode,
    resolve_project,
)

_PACKAGE = Path(__file__).resolve().parents[1]
_RANK_VARIABLES = ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK")
_SHOWN = (
    *("WANDB_MODE", "WANDB_PROJECT", "WANDB_ENTITY", "WANDB_DIR", "WANDB_LOG_MODEL"),
    *("WANDB_BASE_URL", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE"),
    *("http_proxy", "https_proxy", "no_proxy", "CUDA_VISIBLE_DEVICES"),
)


def check_python() -> list[Check]:
    """Return the versions of what runs."""
    try:
        version = importlib.metadata.version("fasttrack")
    except importlib.metadata.PackageNotFoundError:
        version = "not installed"
    text = f"Python {platform.python_version()}, fasttrack {version} ({_PACKAGE})"
    return [Check("python", "ok", text)]


def check_rank() -> list[Check]:
    """Return whether this process is the one that records, and who says so."""
    rank, world_size = get_rank(), get_world_size()
    numbered = [name for name in _RANK_VARIABLES if os.environ.get(name) == str(rank)]
    if world_size == 1 and rank == 0:
        numbered = [name for name in numbered if not name.startswith("SLURM_")]
    source = f"from {numbered[0]}" if numbered else "no launcher"
    text = f"rank {rank} of {world_size} ({source}): this process would"
    if is_main_process():
        return [Check("rank", "ok", f"{text} record")]
    return [Check("rank", "note", f"{text} stay silent, rank 0 records")]


def check_mode() -> list[Check]:
    """Return the mode, project, entity and backends, and where the mode comes from."""
    try:
        mode = resolve_mode(None, True)
        project = resolve_project(None)
        backends = resolve_backends(None)
        resolve_log_model()
    except ConfigurationError as error:
        name = str(error).split()[0].rstrip(":")
        return [Check("mode", "problem", f"the tracker would raise: {error}", f"unset {name}")]
    source = "WANDB_MODE" if os.environ.get("WANDB_MODE") else "the default"
    where = f"project {project}, entity {resolve_entity(None) or 'of the account'}"
    if backends != ("wandb",):
        where += f", delivered to {', '.join(backends) or 'nowhere (the journal only)'}"
    return [Check("mode", "ok", f"{mode} ({source}); {where}")]


def check_environment() -> list[Check]:
    """Return the variables that matter and are set; values only of those that hold no secret."""
    shown = [f"{name}={redact(os.environ[name])}" for name in _SHOWN if os.environ.get(name)]
    others = sorted(n for n in os.environ if n.startswith("WANDB_") and n not in _SHOWN)
    named = [f"{name} ({'secret' if looks_secret(name) else 'set'})" for name in others]
    return [Check("environment", "ok", ", ".join([*shown, *named]) or "nothing of note is set")]


def check_runs() -> list[Check]:
    """Return how many of the runs here have ended and are not proven to have arrived."""
    try:
        runs = list_runs()
        waiting = [run for run in runs if not find_status(run).word.startswith("running")]
        undelivered = sum(not seems_delivered(run) for run in waiting)
    except OSError as error:
        return [Check("runs", "note", f"runs cannot be read: {error}")]
    if not undelivered:
        return [Check("runs", "ok", f"{len(runs)} here; none waits to be delivered")]
    verb = "is" if undelivered == 1 else "are"
    text = f"{undelivered} of {len(runs)} {verb} not delivered"
    return [Check("runs", "note", text, spell_command("sync", "--all"))]
