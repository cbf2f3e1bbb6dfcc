"""What `fasttrack doctor` asks: one function per subject, each callable by itself.

None raises for what it looks into, and none changes anything. What may be slow, may crash or may
disturb this process (wandb, torch) runs in a process of its own with a time limit.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from fasttrack.context.distributed import get_rank, get_world_size, is_main_process
from fasttrack.context.redaction import looks_secret, redact
from fasttrack.errors import ConfigurationError
from fasttrack.journal.cursor import load_cursor
from fasttrack.runs.local import list_runs
from fasttrack.runs.status import find_state
from fasttrack.settings import resolve_entity, resolve_mode, resolve_project

if TYPE_CHECKING:
    from collections.abc import Sequence

State = Literal["ok", "note", "problem"]

_PACKAGE = Path(__file__).resolve().parents[1]
_NETWORK_TIMEOUT_S = 3
_CLIENT_TIMEOUT_S = 9.0  # to import wandb, ask the server, start wandb-core, ask for the account
_DESCRIBE_CLIENT = """
import itertools, json, sys
try:
    from fasttrack.delivery.backends.wandb.backend import describe_client
    for fact in itertools.islice(describe_client(int(sys.argv[1])), int(sys.argv[2])):
        print(json.dumps(fact), flush=True)
except Exception as error:
    text = " ".join(str(error).partition(" [type=")[0].split())  # pydantic adds its own lore
    print(json.dumps({"error": text[:300] or repr(error)}))
"""
_OFFLINE_MEND = "export WANDB_MODE=offline (then, where there is network: fasttrack sync --all)"
_SERVER_FAULTS = {  # type of the error -> what it means, how to mend it
    "gaierror": ("its name is not known here (DNS)", _OFFLINE_MEND),
    "TimeoutError": (f"no answer within {_NETWORK_TIMEOUT_S} s", _OFFLINE_MEND),
    "ConnectionRefusedError": ("the connection is refused", _OFFLINE_MEND),
    "SSLCertVerificationError": (
        "its TLS certificate is not trusted here",
        "export SSL_CERT_FILE=/path/to/your/ca-bundle.pem",
    ),
    "SSLError": ("TLS fails", "export WANDB_BASE_URL=... (is it http:// or https://?)"),
}
_RANK_VARIABLES = ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK")
_SHOWN = (
    *("WANDB_MODE", "WANDB_PROJECT", "WANDB_ENTITY", "WANDB_DIR", "WANDB_LOG_MODEL"),
    *("WANDB_BASE_URL", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE"),
    *("http_proxy", "https_proxy", "no_proxy", "CUDA_VISIBLE_DEVICES"),
)


@dataclass(frozen=True)
class Check:
    """What was found on one subject."""

    check: str
    state: State
    text: str
    mend: str | None = None
    """A command to type, where something is not as it should be."""


def ask(
    command: Sequence[str], timeout_s: float, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a program without input and return what it printed.

    Raises:
        OSError: it cannot be started.
        subprocess.TimeoutExpired: it took longer; `output` holds, as bytes, what it had printed.
    """
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        errors="replace",
        stdin=subprocess.DEVNULL,
        timeout=timeout_s,
        env={**os.environ, "LC_ALL": "C", "PYTHONSAFEPATH": "1", **environment},
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
    whence = f"from {numbered[0]}" if numbered else "no launcher"
    text = f"rank {rank} of {world_size} ({whence}): this process would"
    if is_main_process():
        return [Check("rank", "ok", f"{text} record")]
    return [Check("rank", "note", f"{text} stay silent, rank 0 records")]


def check_mode() -> list[Check]:
    """Return the mode, project and entity, and where they come from."""
    try:
        mode, project, entity = (
            resolve_mode(None, True),
            resolve_project(None),
            resolve_entity(None),
        )
    except ConfigurationError as error:
        name = str(error).split()[0]
        return [Check("mode", "problem", f"the tracker would raise: {error}", f"unset {name}")]
    whence = "WANDB_MODE" if os.environ.get("WANDB_MODE") else "the default"
    where = f"project {project}, entity {entity or 'of the account'}"
    return [Check("mode", "ok", f"{mode} ({whence}); {where}")]


def check_client() -> list[Check]:
    """Return what W&B's client, its account and its server would do; asks only in mode online."""
    try:
        mode = resolve_mode(None, True)
    except ConfigurationError:
        return [Check("wandb", "note", "not asked: the mode must be mended first")]
    if mode == "disabled":
        return [Check("wandb", "ok", "not asked: tracking is disabled")]
    facts = _ask_client(1 if mode == "offline" else 3)
    if "version" not in facts:
        mend = "pip install --force-reinstall wandb"
        if "cannot be imported" in facts["error"]:
            mend = "pip install wandb"
        elif "base_url" in facts["error"]:
            mend = "unset WANDB_BASE_URL"
        elif "took longer" in facts["error"]:
            mend = "fasttrack doctor (once more: files are in memory then)"
        return [Check("wandb", "problem", facts["error"], mend)]
    checks = [_judge_core(facts)]
    if mode == "offline":
        return checks
    return [*checks, _judge_account(facts), _judge_server(facts)]


def _ask_client(most_facts: int) -> dict[str, Any]:
    """Return what `describe_client` yielded until it ended, failed or ran out of time."""
    root = str(_PACKAGE.parent)
    path = os.environ.get("PYTHONPATH")
    command = [sys.executable, "-c", _DESCRIBE_CLIENT, str(_NETWORK_TIMEOUT_S), str(most_facts)]
    facts: dict[str, Any] = {"error": f"wandb's client took longer than {_CLIENT_TIMEOUT_S:g} s"}
    try:
        python_path = f"{root}{os.pathsep}{path}" if path else root
        result = ask(command, _CLIENT_TIMEOUT_S, PYTHONPATH=python_path)
        output = result.stdout
        facts["error"] = f"wandb's client crashed (exit code {result.returncode})"
    except subprocess.TimeoutExpired as error:
        output = (error.output or b"").decode(errors="replace")
    except OSError as error:
        facts["error"] = f"{sys.executable} cannot be started: {error}"
        output = ""
    for line in output.splitlines():
        if line.startswith("{"):
            facts |= json.loads(line)
    return facts


def _judge_core(facts: dict[str, Any]) -> Check:
    repair = "pip install --force-reinstall wandb"
    try:
        said = ask([facts["core"], "--help"], _NETWORK_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Check("wandb", "problem", f"wandb-core does not run: {error}", repair)
    found = re.search(r"Version: (\S+)", said.stdout + said.stderr)
    core = found[1] if found else "of unknown version"
    return Check("wandb", "ok", f"wandb {facts['version']}, wandb-core {core}")


def _judge_account(facts: dict[str, Any]) -> Check:
    source = facts["key_source"]
    if source is None:
        return Check("account", "problem", "no API key is configured", "wandb login")
    if "user" in facts:
        return Check("account", "ok", f"credentials from {source} are accepted: {facts['user']}")
    if "latency_ms" not in facts:
        return Check("account", "note", f"credentials from {source}, not checked: no answer")
    text = f"credentials from {source}: {facts.get('key_error', facts['error'])}"
    if "did not respond" in text:
        return Check("account", "problem", text, _OFFLINE_MEND)
    unset = f"unset {source} && " if source.startswith("WANDB_") else ""
    return Check("account", "problem", text, f"{unset}wandb login --relogin")


def _judge_server(facts: dict[str, Any]) -> Check:
    url = facts["base_url"]
    proxy = _proxy(url)
    name = redact(f"{url} through the proxy {proxy}" if proxy else url)
    if "latency_ms" in facts:
        return Check("server", "ok", f"{name} answers within {facts['latency_ms']} ms")
    if "server_error" not in facts:
        return Check("server", "problem", f"{name}: {facts['error']}", _OFFLINE_MEND)
    meaning, mend = _SERVER_FAULTS.get(facts["fault"], (facts["server_error"], _OFFLINE_MEND))
    return Check("server", "problem", f"{name}: {meaning}", mend)


def _proxy(url: str) -> str | None:
    parts = urlsplit(url)
    if urllib.request.proxy_bypass(parts.hostname or ""):
        return None
    return urllib.request.getproxies().get(parts.scheme)


def check_environment() -> list[Check]:
    """Return the variables that matter and are set; values only of those that hold no secret."""
    shown = [f"{name}={redact(os.environ[name])}" for name in _SHOWN if os.environ.get(name)]
    others = sorted(n for n in os.environ if n.startswith("WANDB_") and n not in _SHOWN)
    named = [f"{name} ({'secret' if looks_secret(name) else 'set'})" for name in others]
    return [Check("environment", "ok", ", ".join([*shown, *named]) or "nothing of note is set")]


def check_runs() -> list[Check]:
    """Return how many of the runs here have ended and are not proven to be on the server."""
    try:
        runs = list_runs()
        waiting = [run for run in runs if not find_state(run).word.startswith("running")]
    except OSError as error:
        return [Check("runs", "note", f"runs cannot be read: {error}")]
    undelivered = 0
    for run in waiting:
        known = load_cursor(run.directory / "cursor.json").segments
        states = [known.get(path.name) for path in run.segments]
        undelivered += not all(state is not None and state.online_proof for state in states)
    if not undelivered:
        return [Check("runs", "ok", f"{len(runs)} here; none waits to be delivered")]
    verb = "is" if undelivered == 1 else "are"
    text = f"{undelivered} of {len(runs)} {verb} not delivered to the server"
    return [Check("runs", "note", text, "fasttrack sync --all")]
