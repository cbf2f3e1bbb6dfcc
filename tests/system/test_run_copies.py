"""A run's directory that was copied while the run went on, and delivered from there."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from support.journals import change_header
from support.runs import make_tracker, run_dir

from fasttrack.cli.app import cli
from fasttrack.journal.run_directory import segments

if TYPE_CHECKING:
    from pathlib import Path

    from support.wandb_server import WandbServer

pytestmark = pytest.mark.server


def test_a_copy_of_a_live_run_does_not_say_that_it_failed(
    server: WandbServer, tmp_path: Path
) -> None:
    """Its trainer goes on elsewhere, as far as anybody knows; the run stood as failed."""
    with make_tracker(mode="offline") as tracker:
        for step in range(5):
            tracker.log_metrics({"loss": float(step)}, step)
        assert tracker.flush(60)
        copy = tmp_path / "elsewhere" / "wandb" / "fasttrack" / str(tracker.get_run_id())
        shutil.copytree(run_dir(tmp_path, tracker.get_run_id()), copy)
        (segment,) = segments(copy)
        change_header(segment, host="another-machine")
        early = CliRunner().invoke(cli, ["sync", str(copy)])
        run = server.runs[str(tracker.get_run_id())]
        state_of_copy = run.state
    late = CliRunner().invoke(cli, ["sync", str(run_dir(tmp_path, tracker.get_run_id()))])

    assert (early.exit_code, late.exit_code) == (0, 0)
    assert state_of_copy == "running"
    run = server.runs[str(tracker.get_run_id())]
    assert (run.state, run.exit_code) == ("finished", 0)
    assert [row["loss"] for row in run.history] == [float(step) for step in range(5)]
