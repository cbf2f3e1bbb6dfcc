"""One W&B run whatever happened between its attempts, and wherever they ran."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from support.runs import (
    deliver,
    journal_rows,
    make_tracker,
    metrics,
    offline_dirs,
    run_dir,
    run_script,
    start_script,
    wait_until,
    wandb_rows,
)
from support.wandb_server import Fault, WandbServer

from fasttrack import ExperimentTracker

pytestmark = pytest.mark.server


def _log(tracker: ExperimentTracker, steps: range) -> None:
    for step in steps:
        tracker.log_training_step(step / 4, step, 8)


def _steps(server: WandbServer, run_id: object) -> list[int]:
    """Return the user's steps of a run as the server has them, after checking the `_step`s."""
    history = server.runs[str(run_id)].history
    taken = [row["_step"] for row in history]
    assert taken == sorted(set(taken))
    assert [row["loss/total"] for row in history] == [row["step"] / 4 for row in history]
    return [row["step"] for row in history]


def _resume(run_id: object, steps: range, mode: str = "online") -> None:
    with make_tracker(mode=mode, resume_id=run_id, tags=None) as tracker:
        _log(tracker, steps)


def test_a_run_that_went_on_elsewhere_meanwhile_loses_nothing_when_it_comes_back(
    server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here, in another directory, and here again: every row of the three stands in one run."""
    with make_tracker(mode="online") as first:
        _log(first, range(20))
    run_id = first.get_run_id()
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "elsewhere"))
    with make_tracker(mode="online", resume_id=run_id, tags=None) as second:
        _log(second, range(20, 60))
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    with make_tracker(mode="online", resume_id=run_id, tags=None) as third:
        _log(third, range(15, 30))

    assert [row["step"] for row in server.runs[str(run_id)].history] == [
        *range(20),
        *range(20, 60),
        *range(15, 30),
    ]


def _killed_attempt(server: WandbServer, *, before: int, after: int) -> str:
    """Log rows that arrive, then rows that do not; kill trainer and delivery; return the run id."""
    process = start_script(
        """
        import os, sys
        from support.runs import delivery_pid, make_tracker
        tracker = make_tracker(mode="online")
        print(tracker.get_run_id(), flush=True)
        before, after = int(sys.argv[1]), int(sys.argv[2])
        for step in range(before):
            tracker.log_training_step(step / 4, step, 8)
        sys.stdin.readline()  # they have arrived
        os.kill(delivery_pid(tracker), 9)
        for step in range(before, before + after):
            tracker.log_training_step(step / 4, step, 8)
        tracker.flush()
        os.kill(os.getpid(), 9)
        """,
        str(before),
        str(after),
    )
    assert process.stdout is not None
    run_id = process.stdout.readline().strip()
    # W&B closes a row only when the next one comes: the last stays open.
    wait_until(
        lambda: run_id in server.runs and server.runs[run_id].history_line_count >= before - 1
    )
    process.communicate("go on\n", timeout=60)
    return run_id


@pytest.mark.parametrize("after", [30, 0], ids=["rows are missing", "nearly all had arrived"])
def test_rows_left_behind_are_delivered_although_the_run_went_on_elsewhere(
    server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """The server's last step is another directory's; what arrived of ours is found by content."""
    monkeypatch.setenv("WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL", "1")
    run_id = _killed_attempt(server, before=20, after=after)
    arrived = _steps(server, run_id)
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "elsewhere"))
    _resume(run_id, range(15, 80))
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    first = deliver(run_dir(tmp_path, run_id))
    second = deliver(run_dir(tmp_path, run_id))

    missing = [step for step in range(20 + after) if step not in arrived]
    assert len(missing) in (after, after + 1)
    rows = server.runs[run_id].history
    # The loss of each missing step is there already, equal, from elsewhere: nothing comes twice.
    assert [row["step"] for row in rows if "loss/total" in row] == [*arrived, *range(15, 80)]
    theirs = {(row["step"], name, value) for row in rows for name, value in metrics(row).items()}
    ours = journal_rows(tmp_path, run_id)
    logged = {(row.step, name, value) for row in ours for name, value in row.values.items()}
    assert len(ours) == 20 + after
    assert logged - theirs == set()
    assert (first["delivered"], second["delivered"], second["already"]) == (True, True, True)


def test_what_a_kill_left_undelivered_comes_once(
    server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody else was there: the server's newest row is ours, and the rest follows it."""
    monkeypatch.setenv("WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL", "1")
    run_id = _killed_attempt(server, before=20, after=30)

    assert deliver(run_dir(tmp_path, run_id))["delivered"]
    assert _steps(server, run_id) == list(range(50))


def test_a_refused_artifact_does_not_hide_the_rows_of_later_attempts(
    server: WandbServer, tmp_path: Path
) -> None:
    """The first attempt stays undelivered for its checkpoint, the second is proven, the third new.

    Seen: the third one's rows were placed behind the first's, and taken for delivered.
    """
    (tmp_path / "model.pt").write_bytes(b"weights")
    with make_tracker(mode="online") as first:
        wait_until(lambda: first.get_run_url() is not None)
        server.fault = Fault("status", "artifact", status=403)
        _log(first, range(10))
        first.log_checkpoint(tmp_path / "model.pt", force=True)
    run_id = first.get_run_id()
    _resume(run_id, range(10, 40))
    _resume(run_id, range(20, 50))
    server.fault = None
    last = deliver(run_dir(tmp_path, run_id))

    assert last["delivered"]
    assert _steps(server, run_id) == [*range(10), *range(10, 40), *range(20, 50)]
    assert [a.state for a in server.artifacts if a.type == "model"][-1] == "COMMITTED"


def test_an_early_segment_that_grows_after_a_later_one_loses_nothing(
    server: WandbServer, tmp_path: Path
) -> None:
    """Two attempts may live at once, by mistake."""
    with make_tracker() as first:
        _log(first, range(20))
    run_id = first.get_run_id()
    segment = run_dir(tmp_path, run_id) / "segment-0001.jsonl"
    whole = segment.read_bytes()
    segment.write_bytes(b"".join(whole.splitlines(keepends=True)[:12]))
    seen = len(journal_rows(tmp_path, run_id))
    assert deliver(segment.parent)["delivered"]
    _resume(run_id, range(20, 50))
    segment.write_bytes(whole)

    assert deliver(segment.parent)["delivered"]
    assert _steps(server, run_id) == [*range(seen), *range(20, 50), *range(seen, 20)]


def test_a_segment_without_a_header_is_passed_over(server: WandbServer, tmp_path: Path) -> None:
    """The disk was full when its attempt began; what is there can be delivered all the same."""
    with make_tracker() as tracker:
        _log(tracker, range(5))
    directory = run_dir(tmp_path, tracker.get_run_id())
    (directory / "segment-0002.jsonl").touch()

    assert deliver(directory)["delivered"]
    assert _steps(server, tracker.get_run_id()) == list(range(5))


@pytest.mark.parametrize("place", ["the same directory", "another directory"])
@pytest.mark.parametrize("modes", [("offline", "offline"), ("offline", "online")])
def test_offline_attempts_become_one_run(
    server: WandbServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    modes: tuple[str, str],
) -> None:
    """Resumed from an older checkpoint; each row once, whatever is synced when."""
    with make_tracker(mode=modes[0]) as first:
        _log(first, range(20))
    run_id = first.get_run_id()
    second_base = tmp_path if place == "the same directory" else tmp_path / "elsewhere"
    monkeypatch.setenv("WANDB_DIR", str(second_base))
    _resume(run_id, range(10, 30), modes[1])
    for base in (tmp_path, second_base):
        assert deliver(run_dir(base, run_id))["delivered"]

    assert list(server.runs) == [run_id]
    rows = server.runs[str(run_id)].history
    losses = [row["step"] for row in rows if "loss/total" in row]
    late_first = modes[1] == "online" and place == "another directory"
    # An equal value of the same step that is there already is not sent beside it.
    both = [[*range(20), *range(10, 30)], [*range(10, 30), *range(10)]]
    assert losses == both[late_first]
    theirs = {(row["step"], name, value) for row in rows for name, value in metrics(row).items()}
    for base in (tmp_path, second_base):
        ours = journal_rows(base, run_id)
        logged = {(row.step, name, value) for row in ours for name, value in row.values.items()}
        assert len(ours) >= 20
        assert logged - theirs == set()


def test_an_id_that_the_server_does_not_know_begins_that_run(server: WandbServer) -> None:
    """A checkpoint may come from a run that never was uploaded."""
    _resume("never-seen", range(5, 10))

    assert list(server.runs) == ["never-seen"]
    assert _steps(server, "never-seen") == [5, 6, 7, 8, 9]


def test_the_run_id_survives_a_checkpoint(server: WandbServer, tmp_path: Path) -> None:
    """torch.save and torch.load with weights only, as a plain string."""
    path = tmp_path / "checkpoint.pt"
    with make_tracker(mode="online") as tracker:
        _log(tracker, range(3))
        torch.save({"step": 3, "wandb_run_id": tracker.get_run_id()}, path)
    checkpoint = torch.load(path, weights_only=True)
    _resume(checkpoint.get("wandb_run_id"), range(checkpoint["step"], 6))

    assert _steps(server, next(iter(server.runs))) == list(range(6))


def test_a_killed_offline_attempt_is_whole_after_the_next_one(tmp_path: Path) -> None:
    """Without any server: all rows of both attempts stand in offline directories, once."""
    result = run_script(
        """
        import os
        from support.runs import delivery_pid, make_tracker
        tracker = make_tracker()
        for step in range(20):
            tracker.log_training_step(step / 4, step, 8)
        tracker.flush()
        print(tracker.get_run_id(), flush=True)
        os.kill(delivery_pid(tracker), 9)
        os.kill(os.getpid(), 9)
        """,
        check=False,
    )
    run_id = result.stdout.strip()
    _resume(run_id, range(15, 30), "offline")

    rows = [row["step"] for d in offline_dirs(tmp_path) for row in wandb_rows(d)]
    assert rows == [*range(20), *range(15, 30)]
    assert [row.step for row in journal_rows(tmp_path, run_id)] == rows


def test_a_segment_that_grows_after_it_was_proven_is_delivered_again(
    server: WandbServer, tmp_path: Path
) -> None:
    """Synced by hand from another machine, say, while its trainer still wrote there."""
    with make_tracker() as tracker:
        _log(tracker, range(20))
    directory = run_dir(tmp_path, tracker.get_run_id())
    segment = directory / "segment-0001.jsonl"
    lines = segment.read_bytes().splitlines(keepends=True)
    segment.write_bytes(b"".join(lines[:12]))
    first = deliver(directory)
    segment.write_bytes(b"".join(lines))
    second, third = deliver(directory), deliver(directory)

    assert [first["already"], second["already"], third["already"]] == [False, False, True]
    assert _steps(server, tracker.get_run_id()) == list(range(20))


def test_a_run_copied_anywhere_is_delivered(server: WandbServer, tmp_path: Path) -> None:
    """Only its own directory, without the tree around it; a whole tree works as well."""
    with make_tracker() as tracker:
        _log(tracker, range(5))
        tracker.log_config({"lr": 0.1})
    copy = tmp_path / "copy"
    shutil.copytree(run_dir(tmp_path, tracker.get_run_id()), copy)

    assert deliver(copy)["delivered"]
    assert _steps(server, tracker.get_run_id()) == list(range(5))
    assert {path.name for path in tmp_path.iterdir()} == {"copy", "home", "wandb"}
