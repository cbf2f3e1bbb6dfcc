"""Real processes that stop, die or hang at the worst moments: delivery goes on, rows come once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from support.runs import delivery_pid, make_tracker, run_dir, wait_until

from fasttrack import ExperimentTracker, Options
from fasttrack.delivery.children import children_of, kill_children
from fasttrack.delivery.spawn import delivery_environment, verification_command

if TYPE_CHECKING:
    from pathlib import Path

    from support.wandb_server import WandbServer

pytestmark = pytest.mark.server

# Short, so that a test does not take minutes; a machine under load must still be let be.
OPTIONS = Options(hang_timeout_s=8, finish_timeout_s=180)


def core_of(pid: int, timeout_s: float = 120.0) -> int:
    """Return the pid of the wandb-core that process `pid` starts, as soon as it is there."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        for child in children_of(pid):
            if child.name == "wandb-core" and child.alive:
                return child.pid
        time.sleep(0.005)
    raise AssertionError("no wandb-core was started")


def losses(server: WandbServer, run_id: str | None) -> list[float]:
    """Return what the server has of a run."""
    return [row["loss/total"] for row in server.runs[str(run_id)].history]


def log(tracker: ExperimentTracker, steps: range) -> None:
    """Log a row at each of `steps`."""
    for step in steps:
        tracker.log_training_step(float(step), step, 8)


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_a_helper_that_stops_or_dies_while_the_client_starts_holds_nothing_up(
    server: WandbServer, number: signal.Signals
) -> None:
    """The client waited for it for good, in its own start-up, and held the run's lock."""
    with make_tracker(mode="online", options=OPTIONS) as tracker:
        os.kill(core_of(delivery_pid(tracker)), number)
        log(tracker, range(50))

    assert losses(server, tracker.get_run_id()) == list(range(50))
    assert tracker.stats().delivery_lag_rows == 0


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_a_helper_that_stops_or_dies_in_mid_run_costs_no_row(
    server: WandbServer, number: signal.Signals
) -> None:
    """What it had in memory is sent again by the next one."""
    with make_tracker(mode="online", options=OPTIONS) as tracker:
        log(tracker, range(50))
        wait_until(lambda: tracker.get_run_url() is not None, 120)
        os.kill(core_of(delivery_pid(tracker)), number)
        log(tracker, range(50, 100))

    assert losses(server, tracker.get_run_id()) == list(range(100))
    assert tracker.stats().delivery_lag_rows == 0


def test_a_stopped_delivery_process_is_replaced(server: WandbServer) -> None:
    """Nobody looked whether it lived; `finish()` waited in vain, and nothing was delivered."""
    with make_tracker(mode="online", options=OPTIONS) as tracker:
        log(tracker, range(50))
        wait_until(lambda: tracker.get_run_url() is not None, 120)
        stopped = delivery_pid(tracker)
        os.kill(stopped, signal.SIGSTOP)
        log(tracker, range(50, 100))
        wait_until(lambda: delivery_pid(tracker) != stopped, 180)

    assert losses(server, tracker.get_run_id()) == list(range(100))


def test_sync_goes_on_where_the_client_hangs(server: WandbServer, tmp_path: Path) -> None:
    """There is no trainer whose supervisor could do it; the process begins itself anew."""
    with make_tracker(mode="offline", options=OPTIONS) as tracker:
        log(tracker, range(50))
    directory = run_dir(tmp_path, tracker.get_run_id())
    command = [sys.executable, "-m", "fasttrack.delivery", str(directory)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        os.kill(core_of(process.pid), signal.SIGSTOP)
        said, _ = process.communicate(timeout=300)

    assert process.returncode == 0, said
    assert losses(server, tracker.get_run_id()) == list(range(50))


def test_verify_ends_where_the_client_hangs(server: WandbServer, tmp_path: Path) -> None:
    """It holds the run's lock, so that nobody could deliver either."""
    with make_tracker(mode="online", options=OPTIONS) as tracker:
        log(tracker, range(5))
    with subprocess.Popen(
        verification_command(run_dir(tmp_path, tracker.get_run_id())),
        env=delivery_environment(),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        os.kill(core_of(process.pid), signal.SIGSTOP)
        try:
            said, _ = process.communicate(timeout=120)
        finally:
            kill_children(process.pid)
            process.kill()

    assert json.loads(said.splitlines()[-1])["error"]
