"""A training script whose `import wandb` was changed: to its end, broken, and killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from support.runs import (
    HANG_GUARD_S,
    journal_rows,
    metrics,
    offline_dirs,
    program_environment,
    wait_until,
)
from support.wandb_files import WandbFile, read_wandb_file

from fasttrack.cli.app import cli

if TYPE_CHECKING:
    from support.wandb_server import WandbServer

_SCRIPT = Path(__file__).parents[1] / "data" / "scripts" / "nano_train.py"


def train(monkeypatch: pytest.MonkeyPatch, *, returncode: int, **environment: str) -> str:
    """Run the script offline; return the id of its run."""
    for name, value in {"WANDB_MODE": "offline", **environment}.items():
        monkeypatch.setenv(name, value)
    result = subprocess.run(
        [sys.executable, "-W", "error", str(_SCRIPT)],
        capture_output=True,
        text=True,
        timeout=HANG_GUARD_S,
        env=program_environment(),
    )
    assert result.returncode == returncode, result.stderr
    return result.stdout.split()[-1] if result.stdout else ""


def delivered(base: Path) -> WandbFile:
    """Return what the run's `.wandb` file says."""
    (directory,) = offline_dirs(base)
    return read_wandb_file(directory)


def test_a_script_with_one_line_changed_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows, its configuration, its best loss and the files that it saved."""
    run_id = train(monkeypatch, returncode=0)

    found = delivered(tmp_path)
    assert found.exit_code == 0
    assert (found.name, found.config["learning_rate"]) == ("mini-gpt", 1e-2)
    evaluated = [row for row in found.rows if "val/loss" in row]
    assert [row["iter"] for row in evaluated] == [0, 20, 40, 60]
    assert [row["iter"] for row in found.rows if "loss" in row] == list(range(0, 61, 5))
    assert [row["_step"] for row in found.rows] == list(range(17))
    assert found.summary["best_val_loss"] == min(row["val/loss"] for row in evaluated)
    assert set(found.artifacts) == {(f"files-{run_id}", "files")}


def test_an_exception_is_the_runs_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Failed, with all rows up to then."""
    train(monkeypatch, returncode=1, RAISE_AT="30")

    found = delivered(tmp_path)
    assert found.exit_code == 1
    assert [row["iter"] for row in found.rows if "loss" in row] == list(range(0, 31, 5))


@pytest.mark.server
def test_what_a_killed_script_has_logged_is_delivered_by_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: WandbServer
) -> None:
    """kill -9, offline; then `fasttrack sync`, as soon as its own delivery has left the run."""
    run_id = train(monkeypatch, returncode=-9, KILL_AT="40")

    def sync() -> bool:
        return CliRunner().invoke(cli, ["sync", run_id]).exit_code == 0

    wait_until(sync)
    (run,) = server.runs.values()
    rows = [row.values for row in journal_rows(tmp_path, run_id)]
    assert [row["iter"] for row in rows if "loss" in row] == list(range(0, 41, 5))
    assert [metrics(row) for row in run.history] == rows
