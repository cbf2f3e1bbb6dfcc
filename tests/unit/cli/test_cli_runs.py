"""`fasttrack runs`: what one sees in a terminal, and what programs read."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from support.journals import finish, row, rows_of, write_attempt, write_proofs

from fasttrack.cli.app import cli

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

LONG_ID = "an-id-that-somebody-chose-by-hand-and-that-no-column-holds"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Four runs: of two attempts, of two backends, of none, and one that has only begun."""
    write_attempt(tmp_path, "ab", *rows_of({"loss": [2.0, 1.0]}), finish(), name="two attempts")
    first = write_attempt(tmp_path, "ab", row(0, 2, loss=0.5), finish(), time_s=1.0, name=None)
    proof = "3 rows read back from offline-run-20260101_000000-ab"
    write_proofs(first.parent, offline_proof=proof)
    backends = ("wandb", "tensorboard")
    both = write_attempt(tmp_path, "both", row(0, 0, loss=9.0), finish(3), backends=backends)
    write_proofs(both.parent, "wandb", proof="the server's last step is 0", url="https://x")
    write_proofs(both.parent, "tensorboard", proof="1 rows read back", directory="/t")
    write_attempt(tmp_path, LONG_ID, row(0, 0, loss=math.nan), backends=())
    write_attempt(tmp_path, "begun")
    return tmp_path


def call(*arguments: object) -> Result:
    """Call the command in this process."""
    result = CliRunner().invoke(cli, ["runs", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result


def call_json(*arguments: object) -> list[dict[str, Any]]:
    """Call the command with --json and return what it printed."""
    told: list[dict[str, Any]] = json.loads(call(*arguments, "--json").stdout)
    return told


def test_json_tells_each_runs_fate_and_place(base: Path) -> None:
    """`delivered` is the worst word over the backends."""
    listed = {run["run_id"]: run for run in call_json()}

    assert {name: (run["state"], run["delivered"]) for name, run in listed.items()} == {
        "ab": ("finished", "offline dir"),
        "both": ("failed", "server"),
        LONG_ID: ("crashed", "journal"),
        "begun": ("crashed", "no"),
    }
    assert (listed["ab"]["rows"], listed["ab"]["attempts"]) == (3, 2)
    assert {name: one["delivered"] for name, one in listed["both"]["backends"].items()} == {
        "wandb": "server",
        "tensorboard": "files",
    }


def test_table_fits_a_terminal(base: Path) -> None:
    """80 columns, with everything that matters; a run's id is never broken."""
    output = call().stdout
    lines = output.splitlines()

    assert max(map(len, lines)) <= 80
    for text in (
        "vla-lego / two attempts",
        "3 rows read back from",
        "wandb: server - the server's last step is 0",
        "tensorboard: files - 1 rows read back",
        LONG_ID,
    ):
        assert text in output
    assert {line.split()[0]: line.split()[-1] for line in lines if line[:1].strip()} == {
        "run": "delivered",
        "ab": "dir",
        "both": "server",
        LONG_ID: LONG_ID,
        "begun": "no",
    }
    assert "wandb:" not in output.split("both")[0].split("begun")[0]
    assert "\x1b" not in output


def test_metric_orders_the_runs_and_has_a_column(base: Path) -> None:
    """Finite values first, then the others, then runs without it; 80 columns still."""
    output = call("--metric", "loss").stdout
    lines = output.splitlines()
    found = [line.split()[:2] for line in lines if line.split()[0] in ("ab", "both", "begun")]

    assert lines[0] == "by the last value of loss, the least first"
    assert lines[1].split()[:3] == ["run", "value", "state"]
    assert found == [["ab", "0.5"], ["both", "9"], ["begun", "-"]]
    assert output.index("both") < output.index(LONG_ID) < output.index("begun")
    assert max(map(len, lines)) <= 80


def test_metric_in_json_comes_with_its_step(base: Path) -> None:
    """`--descending` turns the finite ones round."""
    told = [(run["run_id"], run["value"], run["step"]) for run in call_json("-m", "loss")]
    turned = [run["run_id"] for run in call_json("-m", "loss", "--descending")]

    assert told == [("ab", 0.5, 2), ("both", 9.0, 0), (LONG_ID, "NaN", 0), ("begun", None, None)]
    assert turned == ["both", "ab", LONG_ID, "begun"]
    assert {run["metric"] for run in call_json("-m", "loss")} == {"loss"}


def test_metric_that_no_run_has_fails_and_names_what_there_is(base: Path) -> None:
    """As `plot` and `tail` do."""
    result = CliRunner().invoke(cli, ["runs", "-m", "lss"])

    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "fasttrack: the runs have no metric 'lss'; they have: loss\n"


def test_directory_without_runs_is_said(tmp_path: Path) -> None:
    """Empty, or not even there; no failure, also where they should be ordered."""
    (tmp_path / "wandb" / "fasttrack" / "empty").mkdir(parents=True)

    for arguments in ((), ("-m", "loss")):
        result = call(*arguments)
        assert result.stdout == ""
        assert result.stderr == (
            f"fasttrack: no runs under {tmp_path}; pass --dir or set WANDB_DIR\n"
        )
        assert call_json(*arguments) == []


def test_dir_option_is_the_parent_of_wandb(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It beats WANDB_DIR."""
    elsewhere = base / "elsewhere"
    write_attempt(elsewhere, "cd")

    assert [run["run_id"] for run in call_json("--dir", elsewhere)] == ["cd"]
