"""Delivered is said of what the destination shows, row by row, and of nothing else."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from support.journals import finish, rows_of, write_attempt
from support.runs import deliver, make_tracker, offline_dirs, run_dir, run_script, wait_until
from support.wandb_server import Fault

from fasttrack.journal.cursor import load_cursor
from fasttrack.journal.rows import Row
from fasttrack.journal.run_directory import cursor_path

if TYPE_CHECKING:
    from pathlib import Path

    from support.wandb_server import WandbServer

    from fasttrack import ExperimentTracker

pytestmark = pytest.mark.server


def losses(server: WandbServer, run_id: str | None) -> list[tuple[int, float]]:
    """Return the step and loss of each row on the server, in order."""
    history = server.runs[str(run_id)].history
    return [(row["step"], row["loss"]) for row in history if "loss" in row]


def proof_of(directory: Path, number: int = 1) -> str | None:
    """Return what proves an attempt's delivery to W&B."""
    ledger = load_cursor(cursor_path(directory)).ledger("wandb")
    return ledger.segment(f"segment-{number:04d}.jsonl").proof


def log(tracker: ExperimentTracker, steps: range, sign: int = 1) -> None:
    """Log a row a step."""
    for step in steps:
        tracker.log_metrics({"loss": float(sign * step)}, step=step)


def test_rows_that_the_client_dropped_in_the_middle_are_sent_again(
    server: WandbServer, tmp_path: Path
) -> None:
    """A full disk makes wandb-core drop rows and go on: the server's last step is right then."""
    with make_tracker(mode="online") as tracker:
        log(tracker, range(1))
        wait_until(lambda: str(tracker.get_run_id()) in server.runs)
        server.runs[str(tracker.get_run_id())].lose_steps = {20, 21, 22, 40}
        log(tracker, range(1, 100))

    found = losses(server, tracker.get_run_id())
    assert sorted(found) == [(step, float(step)) for step in range(100)]
    assert found[-4:] == [(20, 20.0), (21, 21.0), (22, 22.0), (40, 40.0)]
    directory = run_dir(tmp_path, tracker.get_run_id())
    assert proof_of(directory) == "100 rows read back from the server"


def test_a_summary_that_died_with_wandb_core_is_sent_by_the_next_session(
    server: WandbServer, tmp_path: Path
) -> None:
    """Lines are sent before the summary that belongs to them; a process may end in between."""
    result = run_script(
        """
        import os
        from support.runs import delivery_pid, make_tracker, wait_until
        tracker = make_tracker(mode="online")
        tracker.log_metrics({"val/acc": 0.5}, step=0)
        for step in range(1, 50):
            tracker.log_metrics({"loss": float(step)}, step=step)
        assert tracker.flush(30)
        print(tracker.get_run_id(), flush=True)
        wait_until(lambda: tracker.stats().rows_delivered == 50)
        os.kill(os.getpid(), 9)
        """,
        check=False,
    )
    run_id = result.stdout.split()[-1]
    wait_until(lambda: run_id in server.runs and len(server.runs[run_id].history) == 50)
    directory = run_dir(tmp_path, run_id)
    wait_until(lambda: proof_of(directory) is not None)
    cursor_path(directory).unlink()  # as if nothing had been proven
    server.runs[run_id].summary_json = "{}"

    assert deliver(directory)["delivered"]
    assert len(server.runs[run_id].history) == 50
    summary = server.runs[run_id].summary
    assert (summary["val/acc"], summary["loss"], summary["step"]) == (0.5, 49.0, 49)


def test_two_writers_of_one_id_are_told_and_nothing_of_either_is_lost(
    server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each client counts the server's lines by itself, so each overwrites the other's."""
    trackers = []
    for name in ("a", "b"):
        monkeypatch.setenv("WANDB_DIR", str(tmp_path / name))
        trackers.append(make_tracker(mode="online", resume_id="shared01"))
    wait_until(lambda: all(tracker.get_run_url() for tracker in trackers))
    for start in range(0, 200, 50):
        for tracker, sign in zip(trackers, (1, -1), strict=True):
            log(tracker, range(start, start + 50), sign)
            assert tracker.flush(60)
    for tracker in trackers:
        tracker.finish()
    directories = [run_dir(tmp_path / name, "shared01") for name in ("a", "b")]

    there = set(losses(server, "shared01"))
    for directory, sign in zip(directories, (1, -1), strict=True):
        if proof_of(directory) is not None:
            assert {(step, float(sign * step)) for step in range(200)} <= there
    assert None in map(proof_of, directories)

    done = [deliver(directory) for directory in directories]
    assert [one["delivered"] for one in done] == [True, True]
    expected = [(step, float(sign * step)) for sign in (1, -1) for step in range(200)]
    assert set(losses(server, "shared01")) >= set(expected)


def test_what_an_earlier_attempt_has_lost_since_its_proof_is_sent_with_the_next(
    server: WandbServer, tmp_path: Path
) -> None:
    """Another directory has overwritten a row of it; found when rows are looked for by content."""
    write_attempt(
        tmp_path, "early001", *rows_of({"loss": [0.0, 1.0, 2.0]}), finish(), mode="online"
    )
    assert deliver(run_dir(tmp_path, "early001"))["delivered"]
    lines = server.runs["early001"].streams["wandb-history.jsonl"]
    lines[1] = lines[1].replace('"loss":1', '"loss":77')
    later = rows_of({"loss": [3.0, 4.0, 5.0]}, first_step=3)
    write_attempt(tmp_path, "early001", *later, finish(), mode="online", resumed=True)
    server.runs["early001"].lose_steps = {4}

    done = deliver(run_dir(tmp_path, "early001"))

    assert (done["delivered"], done["rows"], done["reason"]) == (True, 6, None)
    expected = [(1, 77.0), *((step, float(step)) for step in range(6))]
    assert sorted(losses(server, "early001")) == sorted(expected)


def test_a_server_that_shows_nothing_proves_nothing(server: WandbServer, tmp_path: Path) -> None:
    """The client's word is not a proof; once the server answers, nothing is sent twice."""
    tracker = make_tracker(mode="online")
    log(tracker, range(20))
    wait_until(lambda: tracker.get_run_url() is not None)
    server.fault = Fault("error", "graphql", operation="RunHistoryKeys")
    tracker.finish()
    directory = run_dir(tmp_path, tracker.get_run_id())

    assert proof_of(directory) is None
    assert len(losses(server, tracker.get_run_id())) == 20

    server.fault = None
    assert deliver(directory)["delivered"]
    assert losses(server, tracker.get_run_id()) == [(step, float(step)) for step in range(20)]


def test_pages_and_the_public_api_show_the_same(server: WandbServer, tmp_path: Path) -> None:
    """What proof rests on first is what it rested on before."""
    values = {"loss": [0.0, 1.5, float("nan"), 2.0**60], "acc": [1.0, float("inf"), 0.0, -1e-9]}
    write_attempt(tmp_path, "same0001", *rows_of(values), finish(), mode="online")
    assert deliver(run_dir(tmp_path, "same0001"))["delivered"]

    told = run_script(
        """
        import json
        import sys
        import wandb
        from fasttrack.delivery.backends.wandb.history import ServerHistory
        history = ServerHistory(sys.argv[1])
        wandb.setup()
        pages = history.pages
        # Of NaN there are two, which are not equal; their texts are.
        both = [repr([sorted(line.items()) for line in lines])
                for lines in (pages.read(0, 4), history.rows(0, 4))]
        print(json.dumps([pages.last_step(), both[0] == both[1], pages.read(1, 3)]))
        """,
        "tester/vla-lego/same0001",
        warnings="default",
        fresh=True,
    ).stdout.splitlines()[-1]

    last_step, same, some = json.loads(told)
    assert (last_step, same) == (3, True)
    assert [line["step"] for line in some] == [1, 2]
    assert (some[0]["loss"], some[0]["acc"]) == (1.5, float("inf"))


def test_a_server_that_refuses_pages_is_read_by_the_public_api(
    server: WandbServer, tmp_path: Path
) -> None:
    """They are a shorter way to the same proof."""
    tracker = make_tracker(mode="online")
    log(tracker, range(20))
    wait_until(lambda: tracker.get_run_url() is not None)
    server.fault = Fault("error", "graphql", times=1, operation="HistoryPage")
    tracker.finish()

    assert proof_of(run_dir(tmp_path, tracker.get_run_id())) == "20 rows read back from the server"


def test_a_row_above_the_clients_limit_arrives_in_parts(
    server: WandbServer, tmp_path: Path
) -> None:
    """wandb-core skips a line above 10,383,360 bytes with a printed warning.

    Its names are long: fewer of them take as many bytes.
    """
    values = {f"metric/{number:0240d}": 0.5 for number in range(43_000)}
    assert sum(map(len, values)) > 10_383_360
    segment = write_attempt(
        tmp_path,
        "large001",
        *rows_of({"loss": [0.0, 1.0]}),
        Row(2, 2, 1e9, {**values, "loss": 2.0}),
        *[Row(3, 3, 1e9, {"loss": 3.0})],
        finish(),
        mode="online",
        finish_timeout_s=120.0,
    )

    done = deliver(segment.parent)

    assert done["proof"] == "4 rows read back from the server"
    history = server.runs["large001"].history
    assert {row["step"] for row in history} == {0, 1, 2, 3}
    parts = [row for row in history if row["step"] == 2]
    assert len(parts) > 1
    merged: dict[str, Any] = {name: value for part in parts for name, value in part.items()}
    assert merged.items() >= {**values, "loss": 2.0}.items()


@pytest.mark.parametrize("name", ["", "_step", "_timestamp"])
def test_a_metric_that_the_client_never_takes_is_named_and_keeps_nothing_up(
    server: WandbServer, tmp_path: Path, name: str
) -> None:
    """Older journals hold such names; all else is proven, and nothing is tried for ever."""
    row = Row(0, 7, 1e9, {name: 1.0, "loss": 2.0})
    segment = write_attempt(tmp_path, "named001", row, finish(), mode="online")

    done = deliver(segment.parent)

    why = f"{name!r} from step 7 on: W&B keeps this name to itself"
    assert done["delivered"]
    assert done["proof"] == f"1 rows read back from the server; left out: {why}"
    assert losses(server, "named001") == [(7, 2.0)]
    assert deliver(segment.parent)["already"]


def test_an_offline_file_is_compared_row_by_row(tmp_path: Path) -> None:
    """A row that was altered in the file, or is missing, is no proof; a new file is written."""
    tracker = make_tracker()
    log(tracker, range(50))
    tracker.finish()

    (directory,) = offline_dirs(tmp_path)
    ledger = load_cursor(cursor_path(run_dir(tmp_path, tracker.get_run_id()))).ledger("wandb")
    state = ledger.segment("segment-0001.jsonl")
    assert state.offline_proof == f"50 rows read back from {directory.name}"
