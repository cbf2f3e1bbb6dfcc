"""`fasttrack sync` of runs that go nowhere; what it does to others is in tests/system."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from click.testing import CliRunner
from support.journals import finish, row, write_attempt

from fasttrack.cli.app import cli

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result


def sync(*arguments: str) -> Result:
    """Call the command in this process."""
    return CliRunner().invoke(cli, ["sync", *arguments])


def test_run_for_the_journal_only_is_left_out_of_all(tmp_path: Path) -> None:
    """It was asked for; a job that syncs whatever there is must not fail over it."""
    write_attempt(tmp_path, "ab", row(0, 0, loss=1.0), finish(), backends=())

    assert (sync("--all").exit_code, sync("--all").output) == (0, "")
    assert json.loads(sync("--all", "--json").stdout) == []


def test_run_for_the_journal_only_that_is_named_is_not_delivered(tmp_path: Path) -> None:
    """Who names it expects it to arrive somewhere."""
    segment = write_attempt(tmp_path, "ab", row(0, 0, loss=1.0), finish(), backends=())
    result = sync("ab")
    (told,) = json.loads(sync("ab", "--json").stdout)

    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        "fasttrack: ab is not delivered: it was recorded for the journal only (backends: none); "
        f"its rows are safe in {segment.parent}\n"
    )
    assert (told["delivered"], told["busy"], told["backends"]) == (False, False, {})


def test_a_backend_that_there_is_none_of_is_said(tmp_path: Path) -> None:
    """Before anything is delivered."""
    write_attempt(tmp_path, "ab", row(0, 0, loss=1.0), finish(), backends=())
    result = sync("--to", "nowhere", "ab")

    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    known = "'wandb', 'tensorboard', 'mlflow', 'trackio'"
    assert f"Invalid value for '--to': 'nowhere' is not one of {known}" in line
