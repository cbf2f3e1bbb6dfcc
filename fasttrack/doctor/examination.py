"""Examine this machine: all checks side by side, within a time limit, and a verdict."""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from typing import TYPE_CHECKING, Any

from fasttrack.doctor import checks, client, machine
from fasttrack.doctor.check import Check, Limits
from fasttrack.errors import ConfigurationError
from fasttrack.redaction import REDACTED, looks_secret, redact
from fasttrack.settings import resolve_backends, resolve_mode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PROBES: dict[str, Callable[[Limits], list[Check]]] = {
    "python": lambda limits: checks.check_python(),
    "rank": lambda limits: checks.check_rank(),
    "mode": lambda limits: checks.check_mode(),
    "wandb": client.check_client,
    "torch": machine.check_torch,
    "gpu": lambda limits: machine.check_gpu(),
    "git": machine.check_git,
    "directory": lambda limits: machine.check_directory(),
    "slurm": machine.check_slurm,
    "environment": lambda limits: checks.check_environment(),
    "runs": lambda limits: checks.check_runs(),
}
"""Name -> what looks into it."""
_NEEDED_TO_START = {"mode", "directory", "torch"}
_SHORTEST_SECRET = 8


def examine(
    limits: Limits, probes: Mapping[str, Callable[[Limits], list[Check]]] = PROBES
) -> list[Check]:
    """Ask all probes side by side and return what they found, with the verdict last.

    Raises nothing, and waits no longer than `limits.total_s`, whatever a probe does.
    """
    answers: dict[str, list[Check]] = {}
    threads = [
        threading.Thread(target=_ask, args=(name, probe, limits, answers), daemon=True)
        for name, probe in probes.items()
    ]
    for thread in threads:
        thread.start()
    until_s = time.monotonic() + limits.total_s
    for thread in threads:
        thread.join(max(0.0, until_s - time.monotonic()))
    late = f"no answer within {limits.total_s:g} s"
    found = [c for name in probes for c in answers.get(name) or [_unknown(name, late)]]
    if _mode() == "disabled":  # and needs nothing of all this
        found = [
            dataclasses.replace(check, state="note") if check.state == "problem" else check
            for check in found
        ]
    return [*found, judge(found)]


def _ask(
    name: str,
    probe: Callable[[Limits], list[Check]],
    limits: Limits,
    answers: dict[str, list[Check]],
) -> None:
    try:
        answers[name] = probe(limits)
    except Exception as error:  # a doctor who faints helps nobody
        answers[name] = [_unknown(name, f"this check itself failed: {error!r}")]


def _unknown(name: str, why: str) -> Check:
    needed = name == "wandb" or name in _NEEDED_TO_START
    return Check(name, "problem" if needed else "note", why)


def judge(found: list[Check]) -> Check:
    """Return the verdict: what a tracker would do."""
    problems = {check.check for check in found if check.state == "problem"}
    mode = _mode()
    if mode == "disabled":
        return Check("tracker", "ok", "would record nothing, as asked")
    if fatal := problems & _NEEDED_TO_START:
        return Check("tracker", "problem", f"would not start: see {_join(fatal)}")
    if any(check.check == "rank" and check.state == "note" for check in found):
        return Check("tracker", "note", "would stay silent here; rank 0 records")
    if "wandb" in problems:
        text = "would record on disk; whether W&B gets it is in doubt: see wandb"
        return Check("tracker", "problem", text)
    if not (backends := resolve_backends(None)):
        return Check("tracker", "ok", "would record for the journal only, as asked")
    if "wandb" not in backends:
        return Check("tracker", "ok", f"would record and deliver to {_join(set(backends))}")
    if mode == "offline":
        return Check("tracker", "ok", "would record offline, as asked")
    if causes := problems & {"account", "server"}:
        text = f"would fall back to offline: see {_join(causes)}"
        return Check("tracker", "problem", text)
    return Check("tracker", "ok", "would record online")


def _mode() -> str | None:
    try:
        return resolve_mode(None, True)
    except ConfigurationError:
        return None


def _join(names: set[str]) -> str:
    return " and ".join(sorted(names))


def without_secrets(check: Check) -> Check:
    """Return `check` without anything that the environment holds under a secret name."""
    secrets = [v for n, v in os.environ.items() if looks_secret(n) and len(v) >= _SHORTEST_SECRET]

    def clean(text: Any) -> Any:
        for secret in secrets if text else ():
            text = text.replace(secret, REDACTED)
        return redact(text)

    return dataclasses.replace(check, text=clean(check.text), fix=clean(check.fix))
