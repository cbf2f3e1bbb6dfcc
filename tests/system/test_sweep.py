"""A trial of a W&B sweep, as an agent starts it, against a W&B server on loopback."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.runs import deliver, journal_rows, make_tracker, metrics, run_dir, run_script

if TYPE_CHECKING:
    from pathlib import Path

    from support.wandb_server import WandbServer

pytestmark = pytest.mark.server

TRIAL = """
import sys
from fasttrack import Options
from support.runs import make_tracker
arguments = {"mode": "online", "project": "of-the-script", "config": {"lr": 0.1, "seed": 3}}
with make_tracker(**arguments, options=Options(delivery=sys.argv[1])) as tracker:
    tracker.log_metrics({"loss": 0.5}, 0)
    tracker.log_metrics({"loss": 0.25}, 1)
print(tracker.get_run_id())
"""


def begin_trial(monkeypatch: pytest.MonkeyPatch, base: Path, number: int) -> None:
    """Make this process's children trials, as `wandb agent` does for each."""
    file = base / f"config-{number}.yaml"
    file.write_text(f"wandb_version: 1\nlr:\n  value: 0.{number}\n")
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep1")
    monkeypatch.setenv("WANDB_RUN_ID", f"trial{number}")
    monkeypatch.setenv("WANDB_PROJECT", "of-the-sweep")
    monkeypatch.setenv("WANDB_SWEEP_PARAM_PATH", str(file))


@pytest.mark.parametrize("delivery", ["process", "thread"])
def test_a_trial_is_the_agents_run_with_its_rows_and_parameters(
    server: WandbServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, delivery: str
) -> None:
    """`get_run_id()`, the rows and the sweep's page speak of one run, in the sweep's project."""
    begin_trial(monkeypatch, tmp_path, 5)

    result = run_script(TRIAL, delivery, warnings="default")

    assert result.stdout.split()[-1] == "trial5"
    assert list(server.runs) == ["trial5"]
    run = server.runs["trial5"]
    assert [metrics(row) for row in run.history] == [{"loss": 0.5}, {"loss": 0.25}]
    assert (run.project, run.sweep, run.state) == ("of-the-sweep", "sweep1", "finished")
    assert {name: run.config[name] for name in ("lr", "seed")} == {"lr": 0.5, "seed": 3}
    assert "rows delivered: 2" in result.stderr


def test_a_trial_that_is_delivered_later_stays_its_own(
    server: WandbServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By hand, outside the agent: still in the sweep; inside another trial: not in that."""
    with monkeypatch.context() as patch:
        begin_trial(patch, tmp_path, 1)
        with make_tracker(mode="offline") as tracker:
            tracker.log_metrics({"loss": 0.5}, 0)
        begin_trial(patch, tmp_path, 2)
        patch.delenv("WANDB_SWEEP_ID")
        patch.delenv("WANDB_RUN_ID")
        with make_tracker(mode="offline") as plain:
            plain.log_metrics({"loss": 1.0}, 0)

    deliver(run_dir(tmp_path, "trial1"))
    begin_trial(monkeypatch, tmp_path, 3)
    deliver(run_dir(tmp_path, plain.get_run_id()))

    assert {run.id: run.sweep for run in server.runs.values()} == {
        "trial1": "sweep1",
        plain.get_run_id(): None,
    }
    assert [metrics(row) for row in server.runs["trial1"].history] == [{"loss": 0.5}]


def test_rows_never_go_to_another_run_than_ours(
    server: WandbServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In the thread mode the client reads this process's environment, whenever it changes."""
    script = """
    import os, sys
    from fasttrack import Options
    from support.runs import make_tracker
    tracker = make_tracker(mode="online", options=Options(delivery="process"))
    tracker.finish()
    os.environ["WANDB_SWEEP_ID"] = "sweep9"  # without a run id: the client makes one of its own
    with make_tracker(mode="online", options=Options(delivery="thread")) as other:
        other.log_metrics({"loss": 0.5}, 0)
    print(tracker.get_run_id(), other.get_run_id())
    """

    result = run_script(script, warnings="default")

    first, second = result.stdout.split()
    assert list(server.runs) == [first]
    assert f"would file {second}'s rows under another run" in result.stderr
    assert len(journal_rows(tmp_path, second)) == 1
