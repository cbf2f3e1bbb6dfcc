"""Settings, ranks and runs as the doctor finds them."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest
from support.doctors import only
from support.journals import finish, row, write_attempt, write_proofs

from fasttrack.doctor import checks

if TYPE_CHECKING:
    from pathlib import Path

KEY = "planted" + "0" * 40


def test_other_ranks_would_stay_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the variable that says so is named."""
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("SLURM_PROCID", "3")

    found = only(checks.check_rank())

    assert found.state == "note"
    assert found.text == ("rank 3 of 8 (from RANK): this process would stay silent, rank 0 records")


def test_batch_script_is_no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slurm numbers it 0 although it is one process by itself."""
    monkeypatch.setenv("SLURM_PROCID", "0")

    assert only(checks.check_rank()).text == (
        "rank 0 of 1 (no launcher): this process would record"
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WANDB_MODE", "fast"),
        ("WANDB_PROJECT", "a/b"),
        ("WANDB_LOG_MODEL", "maybe"),
        ("FASTTRACK_BACKENDS", "wandb,nosuch"),
    ],
)
def test_setting_that_a_tracker_refuses_is_a_problem(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the words of its error, and the variable to fix."""
    monkeypatch.setenv(name, value)

    found = only(checks.check_mode())

    assert (found.state, found.fix) == ("problem", f"unset {name}")
    assert value.rpartition(",")[2] in found.text


def test_mode_says_where_it_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment or nowhere."""
    default = only(checks.check_mode())
    monkeypatch.setenv("WANDB_MODE", "offline")
    offline = only(checks.check_mode())
    monkeypatch.setenv("FASTTRACK_BACKENDS", "none")

    assert default.text.startswith("online (the default); project vla-lego,")
    assert offline.text.startswith("offline (WANDB_MODE);")
    assert only(checks.check_mode()).text.endswith(", delivered to nowhere (the journal only)")


def test_environment_shows_no_value_that_may_be_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only values of variables that are known to be harmless."""
    monkeypatch.setenv("WANDB_LOG_MODEL", "1")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_X_EXTRA_HTTP_HEADERS", f'{{"X-Own": "{KEY}"}}')

    text = only(checks.check_environment()).text

    assert "WANDB_LOG_MODEL=1" in text
    assert "WANDB_API_KEY (secret)" in text
    assert "WANDB_X_EXTRA_HTTP_HEADERS (set)" in text
    assert KEY not in text


def test_runs_that_have_not_arrived_are_counted(tmp_path: Path) -> None:
    """Not while they are written, nor once every destination has them."""
    before = only(checks.check_runs())
    rows = [row(0, 0, loss=0.5)]
    backends = ("wandb", "tensorboard")
    write_attempt(tmp_path, "running", *rows, pid=os.getpid())
    write_attempt(tmp_path, "nowhere", *rows, finish(), backends=())
    during = only(checks.check_runs())
    run_dir = write_attempt(tmp_path, "ended", *rows, finish(), backends=backends).parent
    write_proofs(run_dir, "wandb", proof="seen")
    after = only(checks.check_runs())
    write_proofs(run_dir, "tensorboard", proof="seen")

    assert before.text == "0 here; none waits to be delivered"
    assert during.text == "2 here; none waits to be delivered"
    assert after.state == "note"
    assert str(after.fix).endswith("fasttrack sync --all")
    assert after.text == "1 of 3 is not delivered"
    assert only(checks.check_runs()).state == "ok"


def test_runs_that_cannot_be_read_are_a_note(tmp_path: Path) -> None:
    """A tracker would record all the same."""
    segment = write_attempt(tmp_path, "ab")
    segment.unlink()
    segment.mkdir()
    found = only(checks.check_runs())

    assert found.state == "note"
    assert found.text.startswith("runs cannot be read: ")


def test_versions_are_those_that_run() -> None:
    """Python's and ours."""
    assert f"Python {sys.version.split()[0]}, fasttrack " in only(checks.check_python()).text
