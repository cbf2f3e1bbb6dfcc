"""`fasttrack doctor`: what would happen here if a tracker were started now?"""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table
from rich.text import Text

from fasttrack.cli.shared import json_option, make_console, print_json
from fasttrack.context.redaction import REDACTED, looks_secret, redact
from fasttrack.doctor import checks
from fasttrack.doctor import machine as machine_checks
from fasttrack.doctor.checks import Check
from fasttrack.errors import ConfigurationError
from fasttrack.settings import resolve_mode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PROBES: dict[str, Callable[[], list[Check]]] = {
    "python": checks.check_python,
    "rank": checks.check_rank,
    "mode": checks.check_mode,
    "wandb": checks.check_client,
    "torch": machine_checks.check_torch,
    "gpu": machine_checks.check_gpu,
    "git": machine_checks.check_git,
    "directory": machine_checks.check_directory,
    "slurm": machine_checks.check_slurm,
    "environment": checks.check_environment,
    "runs": checks.check_runs,
}
_NEEDED_TO_START = {"mode", "directory", "torch"}
_DEADLINE_S = 10.0
_STYLES = {"ok": "green", "note": "yellow", "problem": "bold red"}
_WIDTH = 80  # where there is no terminal
_SHORTEST_SECRET = 8


@click.command()
@json_option
@click.pass_context
def doctor(context: click.Context, as_json: bool) -> None:
    """Check what would happen if a tracker were started here, now.

    Changes nothing, and takes 10 seconds at most. A "note" is worth knowing; a "problem" keeps a
    tracker from recording as asked, and comes with its mend. In mode offline no server is asked;
    in mode disabled nothing is a problem. --json prints a list of {check, state, text, mend}.

    Exit codes: 0 a tracker would record as asked (or stay silent, as asked); 1 there is a problem.
    """
    found = [_without_secrets(check) for check in examine(PROBES, _DEADLINE_S)]
    if as_json:
        print_json([dataclasses.asdict(check) for check in found])
    else:
        _print(found)
    context.exit(1 if any(check.state == "problem" for check in found) else 0)


def examine(probes: Mapping[str, Callable[[], list[Check]]], deadline_s: float) -> list[Check]:
    """Ask all probes side by side and return what they found, with the verdict last.

    Raises nothing, and waits no longer than `deadline_s`, whatever a probe does.
    """
    answers: dict[str, list[Check]] = {}
    threads = [
        threading.Thread(target=_ask, args=(name, probe, answers), daemon=True)
        for name, probe in probes.items()
    ]
    for thread in threads:
        thread.start()
    until_s = time.monotonic() + deadline_s
    for thread in threads:
        thread.join(max(0.0, until_s - time.monotonic()))
    late = f"no answer within {deadline_s:g} s"
    found = [c for name in probes for c in answers.get(name) or [_unknown(name, late)]]
    if _mode() == "disabled":  # and needs nothing of all this
        found = [
            dataclasses.replace(check, state="note") if check.state == "problem" else check
            for check in found
        ]
    return [*found, judge(found)]


def _ask(name: str, probe: Callable[[], list[Check]], answers: dict[str, list[Check]]) -> None:
    try:
        answers[name] = probe()
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


def _without_secrets(check: Check) -> Check:
    """Return `check` without anything that the environment holds under a secret name."""
    secrets = [v for n, v in os.environ.items() if looks_secret(n) and len(v) >= _SHORTEST_SECRET]

    def clean(text: Any) -> Any:
        for secret in secrets if text else ():
            text = text.replace(secret, REDACTED)
        return redact(text)

    return dataclasses.replace(check, text=clean(check.text), mend=clean(check.mend))


def _print(found: list[Check]) -> None:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check in found:
        text = Text(check.text)
        if check.mend:
            text.append(f"\nmend: {check.mend}", style="cyan")
        table.add_row(Text(check.state, style=_STYLES[check.state]), Text(check.check), text)
    console = make_console()
    if not console.is_terminal:
        console.width = _WIDTH
    console.print(table)
