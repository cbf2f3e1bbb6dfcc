"""What `fasttrack doctor` asks about W&B: the client, its account and its server."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.request
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from fasttrack.command import spell_command
from fasttrack.doctor.check import Check, Limits, ask
from fasttrack.errors import ConfigurationError
from fasttrack.redaction import redact
from fasttrack.settings import resolve_backends, resolve_mode

if TYPE_CHECKING:
    from collections.abc import Sequence

_ROOT = Path(__file__).resolve().parents[2]  # what this package is imported from
_DESCRIBE_CLIENT = """
import itertools, json, math, sys
try:
    from fasttrack.delivery.backends.wandb.account import describe_client
    facts = describe_client(math.ceil(float(sys.argv[1])))
    for fact in itertools.islice(facts, int(sys.argv[2])):
        print(json.dumps(fact), flush=True)
except Exception as error:
    text = " ".join(str(error).partition(" [type=")[0].split())  # pydantic adds its own lore
    print(json.dumps({"error": text[:300] or repr(error)}))
"""
_REINSTALL = "pip install --force-reinstall wandb"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientFacts:
    """What W&B's client told of itself, as far as it came."""

    error: str
    """How it ended, where that matters."""
    version: str | None = None
    core: str = ""
    """The path of wandb-core."""
    base_url: str = ""
    key_source: str | None = None
    """Where the API key comes from; None: there is none."""
    latency_ms: int | None = None
    """How long the server took to answer; None: it was not asked, or did not answer."""
    server_error: str | None = None
    fault: str | None = None
    """The type of the error that kept the server from answering."""
    user: str | None = None
    """Whom the server knows the key as."""
    key_error: str | None = None


_FACTS = {field.name for field in fields(ClientFacts)}


def check_client(limits: Limits) -> list[Check]:
    """Return what W&B's client, its account and its server would do; asks only in mode online."""
    try:
        mode, backends = resolve_mode(None, True), resolve_backends(None)
    except ConfigurationError:
        return [Check("wandb", "note", "not asked: the settings must be fixed first")]
    if mode == "disabled":
        return [Check("wandb", "ok", "not asked: tracking is disabled")]
    if "wandb" not in backends:
        return [Check("wandb", "ok", "not asked: runs do not go there")]
    most_facts = 1 if mode == "offline" else 3
    command = [sys.executable, "-c", _DESCRIBE_CLIENT, str(limits.network_s), str(most_facts)]
    return judge_client(read_facts(command, limits.client_s), mode, limits)


def read_facts(command: Sequence[str], timeout_s: float) -> ClientFacts:
    """Return what a program printed, a JSON object a line, until it ended or ran out of time."""
    path = os.environ.get("PYTHONPATH")
    python_path = f"{_ROOT}{os.pathsep}{path}" if path else str(_ROOT)
    error = f"wandb's client took longer than {timeout_s:g} s"
    try:
        result = ask(command, timeout_s, PYTHONPATH=python_path)
        output = result.stdout
        error = f"wandb's client crashed (exit code {result.returncode})"
    except subprocess.TimeoutExpired as late:
        output = (late.output or b"").decode(errors="replace")
    except OSError as failed:
        return ClientFacts(error=f"{command[0]} cannot be started: {failed}")
    told = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    facts = {name: value for fact in told for name, value in fact.items() if name in _FACTS}
    return ClientFacts(**{"error": error, **facts})


def judge_client(facts: ClientFacts, mode: str, limits: Limits) -> list[Check]:
    """Return what these facts, which `read_facts` found, mean for a run in this mode."""
    if facts.version is None:
        return [Check("wandb", "problem", facts.error, _fix_of_client(facts.error))]
    checks = [_judge_core(facts, limits)]
    if mode == "offline":
        return checks
    return [*checks, _judge_account(facts), _judge_server(facts, limits)]


def _fix_of_client(error: str) -> str:
    if "cannot be imported" in error:
        return "pip install wandb"
    if "base_url" in error:
        return "unset WANDB_BASE_URL"
    if "took longer" in error:
        return f"{spell_command('doctor')} (once more: files are in memory then)"
    return _REINSTALL


def _judge_core(facts: ClientFacts, limits: Limits) -> Check:
    try:
        said = ask([facts.core, "--help"], limits.network_s)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Check("wandb", "problem", f"wandb-core does not run: {error}", _REINSTALL)
    found = re.search(r"Version: (\S+)", said.stdout + said.stderr)
    core = found[1] if found else "of unknown version"
    return Check("wandb", "ok", f"wandb {facts.version}, wandb-core {core}")


def _judge_account(facts: ClientFacts) -> Check:
    source = facts.key_source
    if source is None:
        return Check("account", "problem", "no API key is configured", "wandb login")
    if facts.user is not None:
        return Check("account", "ok", f"credentials from {source} are accepted: {facts.user}")
    if facts.latency_ms is None:
        return Check("account", "note", f"credentials from {source}, not checked: no answer")
    text = f"credentials from {source}: {facts.key_error or facts.error}"
    if "did not respond" in text:
        return Check("account", "problem", text, _go_offline())
    unset = f"unset {source} && " if source.startswith("WANDB_") else ""
    return Check("account", "problem", text, f"{unset}wandb login --relogin")


def _judge_server(facts: ClientFacts, limits: Limits) -> Check:
    url = facts.base_url
    proxy = _proxy(url)
    name = redact(f"{url} through the proxy {proxy}" if proxy else url)
    if facts.latency_ms is not None:
        return Check("server", "ok", f"{name} answers within {facts.latency_ms} ms")
    if facts.server_error is None:
        return Check("server", "problem", f"{name}: {facts.error}", _go_offline())
    meaning, fix = _meaning(facts.fault, limits)
    text = f"{name}: {meaning or facts.server_error}"
    return Check("server", "problem", text, fix or _go_offline())


def _meaning(fault: str | None, limits: Limits) -> tuple[str | None, str | None]:
    """Return what an error of this type means, and what fixes it but for going offline."""
    match fault:
        case "gaierror":
            return "its name is not known here (DNS)", None
        case "TimeoutError":
            return f"no answer within {limits.network_s:g} s", None
        case "ConnectionRefusedError":
            return "the connection is refused", None
        case "SSLCertVerificationError":
            bundle = "export SSL_CERT_FILE=/path/to/your/ca-bundle.pem"
            return "its TLS certificate is not trusted here", bundle
        case "SSLError":
            return "TLS fails", "export WANDB_BASE_URL=... (is it http:// or https://?)"
    return None, None


def _go_offline() -> str:
    sync = spell_command("sync", "--all")
    return f"export WANDB_MODE=offline (then, where there is network: {sync})"


def _proxy(url: str) -> str | None:
    parts = urlsplit(url)
    if urllib.request.proxy_bypass(parts.hostname or ""):
        return None
    return urllib.request.getproxies().get(parts.scheme)
