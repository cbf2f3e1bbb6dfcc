"""`fasttrack sync` against a W&B server on loopback: whole, once, and only while it is asked."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from support.journals import finish, row, write_attempt
from support.runs import (
    HANG_GUARD_S,
    delivery_pid,
    make_tracker,
    metrics,
    run_dir,
    script_environment,
    wait_until,
)
from support.wandb_server import Fault

from fasttrack.cli.app import cli

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from click.testing import Result
    from support.wandb_server import WandbServer

pytestmark = pytest.mark.server

ROWS = [{"loss": 0.0}, {"loss": 0.5}, {"loss": 1.0}, {"eval/loss": 0.25}]
KEYS = {
    *("run_id", "directory", "delivered", "already", "busy", "rows", "proof", "url", "reason"),
    *("backends", "left_out"),
}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory with a run of two attempts, recorded in mode "offline"."""
    base = tmp_path_factory.mktemp("recorded")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_DIR", str(base))
        patch.setenv("HOME", str(base))
        with make_tracker(resume_id="ab12") as tracker:
            for step, values in enumerate(ROWS[:-1]):
                tracker.log_metrics(values, step)
        with make_tracker(resume_id="ab12") as tracker:
            tracker.log_metrics(ROWS[-1], 3)
        yield base


@pytest.fixture
def run(recorded: Path, tmp_path: Path) -> Path:
    """The test's own copy of the run's directory, where the command looks for it."""
    shutil.copytree(recorded / "wandb", tmp_path / "wandb")
    return run_dir(tmp_path, "ab12")


def sync(*arguments: object) -> Result:
    """Call the command in this process; delivery is a process of its own."""
    return CliRunner().invoke(cli, ["sync", *map(str, arguments)])


def test_offline_run_arrives_whole_and_once(server: WandbServer, run: Path) -> None:
    """The second call finds nothing to do, and says by what it knows."""
    first = sync("ab")
    posted = server.runs["ab12"].history
    second = sync("ab12")
    (listed,) = json.loads(CliRunner().invoke(cli, ["runs", "--json"]).stdout)

    assert (first.exit_code, first.stderr) == (0, "")
    assert first.stdout == (
        f"ab12: 4 rows delivered (4 rows read back from the server)\n  {listed['url']}\n"
    )
    assert (second.exit_code, second.stderr) == (0, "")
    assert second.stdout == "ab12: already delivered (4 rows read back from the server)\n"
    assert [metrics(row) for row in posted] == ROWS
    assert server.runs["ab12"].history == posted
    assert (listed["delivered"], listed["proofs"]) == (
        "server",
        ["4 rows read back from the server"],
    )
    assert listed["url"].startswith(server.url)


def test_a_run_for_the_journal_only_is_delivered_where_it_is_told(
    server: WandbServer, tmp_path: Path
) -> None:
    """From then on that is one of its destinations."""
    rows = [row(seq, seq, loss=float(seq)) for seq in range(5)]
    segment = write_attempt(tmp_path, "ab12", *rows, finish(), backends=())
    first = sync("--to", "wandb", "--to", "tensorboard", "ab12")
    second = sync("ab12", "--json")
    (done,) = json.loads(second.stdout)

    assert (first.exit_code, first.stderr) == (0, "")
    assert [metrics(found) for found in server.runs["ab12"].history] == [
        {"loss": float(seq)} for seq in range(5)
    ]
    assert len(list((tmp_path / "tensorboard" / "ab12").iterdir())) == 1
    assert (second.exit_code, done["already"]) == (0, True)
    assert sorted(done["backends"]) == ["tensorboard", "wandb"]
    assert done["directory"] == str(segment.parent)


def test_copied_run_waits_for_the_server_to_be_back(
    server: WandbServer, run: Path, tmp_path: Path
) -> None:
    """The segments are all it takes, wherever they lie; what failed is said in a line."""
    copy = tmp_path / "some" / "where" / "else" / "copied"
    copy.mkdir(parents=True)
    for segment in run.glob("segment-*"):
        shutil.copy(segment, copy)
    server.stop()
    away = sync(copy)
    server.start()
    back = sync(copy, "--json")
    (done,) = json.loads(back.stdout)

    assert (away.exit_code, away.stdout) == (1, "")
    assert away.stderr.startswith("fasttrack: ab12 is not delivered: ")
    assert away.stderr.endswith(f"; its rows are safe in {copy}\n")
    assert away.stderr.count("\n") == 1
    assert (back.exit_code, set(done)) == (0, KEYS)
    assert (done["run_id"], done["delivered"], done["rows"], done["reason"]) == (
        "ab12",
        True,
        4,
        None,
    )
    assert [metrics(row) for row in server.runs["ab12"].history] == ROWS


def test_run_that_fails_does_not_keep_the_others_from_the_server(
    server: WandbServer, run: Path
) -> None:
    """One of --all; and a delivery process that dies without a word is reported with its log."""
    broken = run.with_name("broken")
    shutil.copytree(run, broken)
    (broken / "courier.lock").unlink()
    (broken / "courier.lock").mkdir()

    result = sync("--all", "--json")
    outcomes = {os.path.basename(r["directory"]): r for r in json.loads(result.stdout)}

    assert result.exit_code == 1
    assert {name: outcome["delivered"] for name, outcome in outcomes.items()} == {
        "ab12": True,
        "broken": False,
    }
    assert outcomes["broken"]["reason"] == f"delivery ended with 1; see {broken}/delivery.log"
    assert "IsADirectoryError" in (broken / "delivery.log").read_text()


def test_run_that_delivers_itself_is_left_alone(server: WandbServer, tmp_path: Path) -> None:
    """Two deliveries of one run at a time would double its rows."""
    with make_tracker(mode="online") as tracker:
        tracker.log_metrics({"loss": 1.0}, 0)
        directory = run_dir(tmp_path, tracker.get_run_id())
        wait_until((directory / "courier.lock").exists)
        process = delivery_pid(tracker)
        result = sync("latest")
        as_json = sync("latest", "--json")
    (outcome,) = json.loads(as_json.stdout)

    assert (result.exit_code, as_json.exit_code) == (1, 1)
    assert result.stderr.startswith(
        f"fasttrack: {tracker.get_run_id()}: it is being delivered by the run's own delivery "
        f"(process {process} on this machine) since "
    )
    assert (outcome["busy"], outcome["delivered"]) == (True, False)
    assert len(server.runs[str(tracker.get_run_id())].history) == 1


def test_ctrl_c_ends_the_delivery_process_too(server: WandbServer, run: Path) -> None:
    """Nothing goes on behind the user's back, and nothing is printed."""
    server.fault = Fault("hang")
    (run / "courier.lock").unlink()
    command = subprocess.Popen(
        [sys.executable, "-m", "fasttrack", "sync", "ab12"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=script_environment(),
    )
    wait_until((run / "courier.lock").exists)
    command.send_signal(signal.SIGINT)
    output, errors = command.communicate(timeout=HANG_GUARD_S)
    with (run / "courier.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises where it still runs

    assert (command.returncode, output) == (130, "")
    assert errors.strip() == ""  # but for the line break behind the terminal's "^C"


def test_nothing_to_deliver_is_no_failure(tmp_path: Path) -> None:
    """As for a job that syncs whatever there is."""
    result = sync("--all")

    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == f"fasttrack: no runs under {tmp_path}; pass --dir or set WANDB_DIR\n"
