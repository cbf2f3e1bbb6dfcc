"""`fasttrack sync --watch` against a W&B server on loopback, while runs are written offline."""

from __future__ import annotations

import fcntl
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from support.journals import append, finish, row, write_attempt
from support.runs import (
    HANG_GUARD_S,
    make_tracker,
    metrics,
    offline_dirs,
    run_dir,
    script_environment,
    wait_until,
)
from support.wandb_server import Fault

from fasttrack.cli.app import cli
from fasttrack.runs.local import LocalRun, candidate_directories
from fasttrack.runs.status import is_proven
from fasttrack.runs.watching import Told, Watch

if TYPE_CHECKING:
    from pathlib import Path

    from support.wandb_server import WandbServer

pytestmark = pytest.mark.server


def start_watch(*arguments: str) -> subprocess.Popen[str]:
    """Start the command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "fasttrack", "sync", "--watch", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=script_environment(),
    )


def wait_for_rows(server: WandbServer, count: int) -> int:
    """Wait until run ab12 has so many rows at the server; return how many it has."""
    server.wait_for(lambda: len(arrived(server, "ab12")) >= count, HANG_GUARD_S)
    return len(arrived(server, "ab12"))


def arrived(server: WandbServer, run_id: str) -> list[dict[str, Any]]:
    """Return the metrics of the rows that a run has at the server."""
    known = server.runs.get(run_id)
    return [] if known is None else [metrics(row) for row in known.history]


def test_rows_arrive_while_an_offline_run_is_written(server: WandbServer, tmp_path: Path) -> None:
    """In pieces, beside the run's own delivery; then all of it is proven, and its end told."""
    told: list[Told] = []
    watch = Watch(
        directories=lambda: candidate_directories(tmp_path),
        jobs=2,
        on_delivery=told.append,
        on_trouble=pytest.fail,
        look_every_s=0.1,
        pace_s=0.1,
    )
    thread = threading.Thread(target=watch.watch)
    directory = run_dir(tmp_path, "ab12")
    seen = []
    try:
        with make_tracker(resume_id="ab12") as tracker:
            for piece in range(2):
                for step in range(5 * piece, 5 * piece + 5):
                    tracker.log_metrics({"loss": step / 4}, step)
                if not piece:
                    assert tracker.flush(HANG_GUARD_S)
                    thread.start()
                seen.append(wait_for_rows(server, 5 * (piece + 1)))
        wait_until(lambda: is_proven(LocalRun(directory)))
    finally:
        watch.stopped.set()
        if thread.ident is not None:
            thread.join(HANG_GUARD_S)

    assert seen == [5, 10]
    assert arrived(server, "ab12") == [{"loss": step / 4} for step in range(10)]
    assert server.runs["ab12"].state == "finished"
    assert [one.result.reason for one in told if not one.result.busy] == [None] * len(told)
    (offline,) = offline_dirs(tmp_path)
    assert list(offline.glob("*.synced"))  # `wandb sync` would send the rows a second time
    assert not list(directory.glob("meanwhile*"))


def test_a_watch_that_is_killed_and_started_again_loses_and_doubles_nothing(
    server: WandbServer, tmp_path: Path
) -> None:
    """In the middle of sending rows, of a run that goes on; the second one ends by SIGTERM."""
    rows = [row(step, step, loss=step / 4) for step in range(20)]
    segment = write_attempt(tmp_path, "ab12", *rows[:10], mode="offline", host="node")
    server.fault = Fault("hang", target="file_stream")
    first = start_watch("--jobs", "1")
    assert server.wait_for(lambda: server.faults_struck, HANG_GUARD_S)
    first.kill()
    first.communicate(timeout=HANG_GUARD_S)
    append(segment, *rows[10:])
    server.fault = None
    second = start_watch()
    assert wait_for_rows(server, 20) == 20
    append(segment, finish())
    wait_until(lambda: is_proven(LocalRun(segment.parent)))
    assert second.stdout is not None
    said = next(line for line in second.stdout if line.startswith("ab12: 20 rows delivered ("))
    second.terminate()
    _, errors = second.communicate(timeout=HANG_GUARD_S)

    assert second.returncode == 0, errors
    assert sorted(row["loss"] for row in arrived(server, "ab12")) == [s / 4 for s in range(20)]
    assert said
    assert errors.startswith(f"fasttrack: watching the runs under {tmp_path}, 4 at a time;")
    assert errors.endswith("fasttrack: 1 runs are delivered whole; 0 are not, of which 0 failed\n")


def test_ctrl_c_ends_what_is_under_way(server: WandbServer, tmp_path: Path) -> None:
    """Nothing goes on behind the user's back; the next watch goes on with it."""
    entry = row(0, 0, loss=1.0)
    segment = write_attempt(tmp_path, "ab12", entry, mode="offline", host="node")
    server.fault = Fault("hang")
    watch = start_watch("ab12")
    assert server.wait_for(lambda: server.faults_struck, HANG_GUARD_S)
    watch.send_signal(signal.SIGINT)
    output, errors = watch.communicate(timeout=HANG_GUARD_S)
    with (segment.parent / "destination.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises where it still runs

    assert (watch.returncode, output) == (0, "")
    assert errors.splitlines() == [
        "fasttrack: watching 1 runs, 4 at a time; Ctrl-C ends it",
        "fasttrack: 0 runs are delivered whole; 1 are not, of which 0 failed",
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--watch", "--json"], "--watch has no --to and no --json"),
        (["--watch", "--all", "ab12"], "name the runs, or pass --all"),
        (["--watch", "--jobs", "0"], "Invalid value for '--jobs': 0 is not in the range"),
        (["--all", "--jobs", "2"], "--jobs is for --watch"),
        (["--watch", "nosuch"], "no run 'nosuch' in "),
    ],
)
def test_what_cannot_be_watched_is_one_line(arguments: list[str], said: str) -> None:
    """Exit code 2."""
    result = CliRunner().invoke(cli, ["sync", *arguments])

    assert result.exit_code == 2
    assert result.stderr.startswith(f"fasttrack: {said}")
    assert result.stderr.count("\n") == 1
