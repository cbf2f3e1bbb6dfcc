"""`fasttrack runs` on runs that were really recorded: by trackers that ended in every way."""

from __future__ import annotations

import fcntl
import json
import math
import shutil
import time
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from support.journals import change_header
from support.runs import HANG_GUARD_S, make_tracker, run_dir, start_script, wait_until

from fasttrack import Options
from fasttrack.cli.app import cli
from fasttrack.runs import find_delivery, find_run, find_status, list_runs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ROWS = 50
SOON = Options(finish_timeout_s=1.0)  # finish() hardly waits; delivery goes on by itself
CRASHES = """
    import os
    from support.runs import make_tracker

    tracker = make_tracker(resume_id="crashed", name="eo1_ar+fm_lego_20260123_143052_a1b2c3")
    tracker.log_metrics({"loss": 0.5}, 1)
    tracker.flush()
    os._exit(9)
"""
IS_PREEMPTED = """
    import os, signal
    from support.runs import make_tracker

    tracker = make_tracker(resume_id="preempted")
    tracker.log_metrics({"loss": 0.5}, 1)
    os.kill(os.getpid(), signal.SIGTERM)
"""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory with runs that were really recorded; copy it before changing anything."""
    base = tmp_path_factory.mktemp("recorded")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_DIR", str(base))
        patch.setenv("HOME", str(base))
        dying = [start_script(script, warnings=None) for script in (CRASHES, IS_PREEMPTED)]
        failed = make_tracker(resume_id="failed", options=SOON)
        failed.log_metrics({"loss": 1.0}, 0)
        failed.finish(exit_code=3)
        with make_tracker(resume_id="finished", name="two attempts", options=SOON) as tracker:
            for step in range(ROWS):
                values = {"loss": 1 / (step + 1), "train/lr": math.nan if step == 7 else 0.1}
                tracker.log_metrics(values, step)
        config = {"batch": {"size": 4}}
        with make_tracker(resume_id="finished", tags=None, config=config, options=SOON) as tracker:
            tracker.log_metrics({"eval/ok": True, "eval/loss": math.inf}, ROWS)
        for process, code in zip(dying, (9, -15), strict=True):
            _, stderr = process.communicate(timeout=HANG_GUARD_S)
            assert process.returncode == code, stderr
        wait_until(lambda: {find_delivery(run).word for run in list_runs()} == {"offline dir"})
        for run in list_runs():  # nothing may be written any more when the directory is copied
            with (run.directory / "courier.lock").open() as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield base


@pytest.fixture
def base(recorded: Path, tmp_path: Path) -> Path:
    """The test's own copy of the recorded runs, where commands look for runs by themselves."""
    shutil.copytree(recorded / "wandb" / "fasttrack", tmp_path / "wandb" / "fasttrack")
    return tmp_path


def call_json(*arguments: object) -> Any:
    """Call the command line with --json and return what it printed."""
    result = CliRunner().invoke(cli, [*map(str, arguments), "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_runs_lists_every_run_with_its_fate(base: Path) -> None:
    """What one wants to know the morning after."""
    listed = {run["run_id"]: run for run in call_json("runs")}

    assert {name: run["state"] for name, run in listed.items()} == {
        "finished": "finished",
        "failed": "failed",
        "preempted": "preempted",
        "crashed": "crashed",
    }
    assert listed["failed"]["exit_code"] == 3
    finished = listed["finished"]
    assert (finished["rows"], finished["attempts"]) == (ROWS + 1, 2)
    assert finished["delivered"] == "offline dir"
    assert [proof.split(" read back")[0] for proof in finished["proofs"]] == ["50 rows", "1 rows"]
    assert finished["name"] == "two attempts"
    assert finished["directory"] == str(run_dir(base, "finished"))
    assert list(finished["backends"]) == ["wandb"]


def test_show_tells_a_recorded_run(base: Path) -> None:
    """Configuration of both attempts, the tracker's own metadata, and what is not finite."""
    shown = call_json("show", "finished")

    assert shown["config"] == {"lr": 0.1, "batch": {"size": 4}}
    assert shown["metadata"] is not None
    assert [segment["rows"] for segment in shown["segments"]] == [ROWS, 1]
    assert shown["metrics"]["train/lr"]["non_finite"] == 1
    assert shown["metrics"]["eval/loss"]["last"] == "Infinity"
    assert (shown["bad_lines"], shown["header"]["console"]) == (0, True)


def test_offline_directory_of_a_recorded_run_is_named_and_is_there(recorded: Path) -> None:
    """For whoever wants to sync it with W&B's own command."""
    (shown,) = (run for run in call_json("runs", "--dir", recorded) if run["run_id"] == "failed")
    directory = shown["backends"]["wandb"]["directory"]

    assert directory.startswith(f"{recorded}/wandb/offline-run-")
    assert list((recorded / "wandb").glob(f"{directory.rpartition('/')[2]}/run-failed.wandb"))


def test_running_run_is_told_by_its_process(tmp_path: Path) -> None:
    """And not taken for running when its process id has gone to a younger process."""
    with make_tracker(options=SOON):
        run = find_run("latest")
        running = find_status(run).word
        change_header(run.segments[0], time_s=time.time() - 1e6)
        older = find_status(find_run("latest")).word

    assert (running, older) == ("running", "crashed")
