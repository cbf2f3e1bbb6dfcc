"""`fasttrack doctor`, as a user starts it."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

from click.testing import CliRunner
from support.doctors import hide_module

from fasttrack.cli.app import cli
from fasttrack.doctor import PROBES

if TYPE_CHECKING:
    from pathlib import Path

    import pytest
    from support.wandb_server import WandbServer

KEY = "planted" + "0" * 40


def run_doctor(*arguments: str) -> tuple[int, str]:
    """Run the command in this process, patiently; return its exit code and all that it printed."""
    result = CliRunner().invoke(cli, ["doctor", "--timeout", "100", *arguments])
    return result.exit_code, result.output


def test_healthy_machine_is_printed_in_80_columns_without_secrets(
    server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line each and more where it is long; no colour codes; exit code 0."""
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_PROJECT", KEY)  # a slip of the clipboard
    monkeypatch.setenv("COLUMNS", "200")

    code, output = run_doctor()

    lines = output.splitlines()
    assert code == 0, output
    assert lines[-1].split() == ["ok", "tracker", "would", "record", "online"]
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in output
    assert f"torch {importlib.metadata.version('torch').split('+')[0]}" in output
    assert "project [redacted]" in output
    assert "planted" not in output


def test_json_has_every_check_and_disabled_needs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory that cannot be written does not matter to a tracker that writes nothing."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "file"))
    monkeypatch.setenv("WANDB_MODE", "disabled")
    hide_module("torch", tmp_path / "hidden", monkeypatch)

    code, output = run_doctor("--json")

    found = {entry["check"]: entry for entry in json.loads(output)}
    assert code == 0
    assert list(found) == [*PROBES, "tracker"]
    assert {"check", "state", "text", "fix"} == set(found["tracker"])
    unwell = {name: found[name]["state"] for name in ("directory", "torch", "tracker")}
    assert unwell == {"directory": "note", "torch": "note", "tracker": "ok"}


def test_problem_makes_the_program_exit_with_1_and_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole program, as a user starts it."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "file"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    hide_module("torch", tmp_path / "hidden", monkeypatch)

    command = [sys.executable, "-W", "error", "-m", "fasttrack", "doctor", "--timeout=100"]
    result = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))

    assert result.returncode == 1, result.stderr
    assert result.stderr == ""
    assert "would not start: see directory and torch" in result.stdout
    assert "fix: export WANDB_DIR=" in result.stdout
