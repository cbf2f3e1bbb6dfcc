"""End to end against a W&B server on loopback, and against servers that are not there."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from support.runs import (
    OFFLINE_LINE,
    TAGS,
    deliver,
    delivery_pid,
    journal_rows,
    make_tracker,
    metrics,
    offline_dirs,
    run_dir,
    run_script,
    train_with_everything,
    wait_until,
    wandb_rows,
)
from support.wandb_server import Fault, WandbServer

from fasttrack import ExperimentTracker, Options
from fasttrack.journal.cursor import load_cursor

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.server


def _log(tracker: ExperimentTracker, steps: range) -> None:
    for step in steps:
        tracker.log_training_step(step / 4, step, 8)


def _losses(rows: list[dict[str, Any]]) -> list[float]:
    return [row["loss/total"] for row in rows]


def test_a_run_arrives_whole_with_its_identity(server: WandbServer, tmp_path: Path) -> None:
    """Rows, config, tags, group, name, notes, host, console and state are the trainer's."""
    with make_tracker(
        mode="online", notes="a note", config={"lr": 0.1, "wandb_api_key": "do not show"}
    ) as tracker:
        print("hello console")
        _log(tracker, range(100))
        wait_until(lambda: tracker.get_run_url() is not None)
        assert not tracker.is_offline()

    run = server.runs[str(tracker.get_run_id())]
    assert _losses(run.history) == [step / 4 for step in range(100)]
    assert [row["step"] for row in run.history] == list(range(100))
    assert (run.state, run.exit_code, run.project, run.group) == (
        "finished",
        0,
        "vla-lego",
        "baseline",
    )
    assert sorted(run.tags) == sorted(f"{key}:{value}" for key, value in TAGS.items())
    assert run.display_name.startswith("eo1_ar+fm_lego_20")
    assert (run.notes, run.host) == ("a note", socket.gethostname())
    assert run.config["lr"] == 0.1
    assert run.config["wandb_api_key"] == "[redacted]"
    assert "hello console" in run.console
    assert offline_dirs(tmp_path) == []
    cursor = load_cursor(run_dir(tmp_path, tracker.get_run_id()) / "cursor.json")
    proof = cursor.ledger("wandb").segment("segment-0001.jsonl").proof
    assert proof == "100 rows read back from the server"


def test_an_exception_in_the_block_marks_the_run_as_failed(server: WandbServer) -> None:
    """The exception goes on its way; the run has its rows and a failed state."""
    tracker = make_tracker(mode="online")

    def train() -> None:
        with tracker:
            _log(tracker, range(10))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train()

    run = server.runs[str(tracker.get_run_id())]
    assert (run.state, run.exit_code, len(run.history)) == ("failed", 1, 10)


def test_resume_goes_on_in_the_same_run(server: WandbServer, tmp_path: Path) -> None:
    """One W&B run; the steps may go back; an unknown directory does not matter."""
    with make_tracker(mode="online") as first:
        _log(first, range(20))
    run_id = first.get_run_id()
    with make_tracker(mode="online", resume_id=run_id, tags=None) as second:
        _log(second, range(10, 30))
    elsewhere = tmp_path / "elsewhere"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_DIR", str(elsewhere))
        with make_tracker(mode="online", resume_id=run_id, tags=None) as third:
            _log(third, range(25, 40))

    assert list(server.runs) == [run_id]
    run = server.runs[str(run_id)]
    assert [row["step"] for row in run.history] == [*range(20), *range(10, 30), *range(25, 40)]
    steps = [row["_step"] for row in run.history]
    assert steps == sorted(set(steps))


def test_what_a_killed_attempt_left_behind_is_delivered_by_the_next(
    server: WandbServer, tmp_path: Path
) -> None:
    """Trainer and delivery both killed: the next attempt delivers the first one's rows, once."""
    result = run_script(
        """
        import os
        from support.runs import delivery_pid, make_tracker
        tracker = make_tracker(mode="online")
        for step in range(50):
            tracker.log_training_step(step / 4, step, 8)
        assert tracker.flush(30)
        print(tracker.get_run_id(), flush=True)
        os.kill(delivery_pid(tracker), 9)
        os.kill(os.getpid(), 9)
        """,
        check=False,
    )
    run_id = result.stdout.strip()
    with make_tracker(mode="online", resume_id=run_id, tags=None) as tracker:
        _log(tracker, range(40, 60))

    assert list(server.runs) == [run_id]
    history = server.runs[run_id].history
    assert [row["step"] for row in history] == [*range(50), *range(40, 60)]


def test_delivery_killed_midway_online_loses_and_doubles_nothing(server: WandbServer) -> None:
    """The server's last step tells the new courier where to go on."""
    with make_tracker(mode="online") as tracker:
        _log(tracker, range(100))
        wait_until(lambda: tracker.stats().rows_delivered >= 100)
        os.kill(delivery_pid(tracker), 9)
        _log(tracker, range(100, 200))

    run = server.runs[str(tracker.get_run_id())]
    assert _losses(run.history) == [step / 4 for step in range(200)]
    assert run.state == "finished"


@pytest.mark.parametrize(
    "fault",
    [
        Fault("status", "file_stream", status=503, times=2),
        Fault("close", "any", times=2),
        Fault("lose_reply", "file_stream", times=2),
    ],
    ids=["503", "connection closed", "reply lost"],
)
def test_passing_trouble_of_the_server_doubles_nothing(server: WandbServer, fault: Fault) -> None:
    """wandb-core retries; every row arrives once."""
    with make_tracker(mode="online") as tracker:
        wait_until(lambda: tracker.get_run_url() is not None)
        server.fault = fault
        _log(tracker, range(100))

    run = server.runs[str(tracker.get_run_id())]
    assert _losses(run.history) == [step / 4 for step in range(100)]


def test_an_upload_that_is_refused_for_good_is_noticed_and_repeated(
    server: WandbServer, tmp_path: Path
) -> None:
    """A 404 ends wandb's uploading silently; proof fails, and a new session delivers the rows."""
    with make_tracker(mode="online") as tracker:
        wait_until(lambda: tracker.get_run_url() is not None)
        server.fault = Fault("status", "file_stream", status=404, times=1)
        _log(tracker, range(100))

    run = server.runs[str(tracker.get_run_id())]
    assert _losses(run.history) == [step / 4 for step in range(100)]
    cursor = load_cursor(run_dir(tmp_path, tracker.get_run_id()) / "cursor.json")
    assert cursor.ledger("wandb").segment("segment-0001.jsonl").proof


def test_a_server_that_refuses_to_the_end_leaves_the_rows_named(
    server: WandbServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is claimed delivered; the printed command delivers it once the server is back."""
    with make_tracker(mode="online", options=Options(finish_timeout_s=15)) as tracker:
        wait_until(lambda: tracker.get_run_url() is not None)
        server.fault = Fault("status", "file_stream", status=403)
        _log(tracker, range(50))
    run_id = str(tracker.get_run_id())
    directory = run_dir(tmp_path, run_id)
    assert f"fasttrack sync {directory}" in capsys.readouterr().err
    assert len(journal_rows(tmp_path, run_id)) == 50

    server.fault = None
    assert deliver(directory, fresh=True)["delivered"]
    assert _losses(server.runs[run_id].history) == [step / 4 for step in range(50)]


@pytest.fixture
def closed_port() -> str:
    """A base URL at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def mute_server() -> Iterator[str]:
    """A base URL whose server accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("case", ["closed port", "mute server", "no api key"])
def test_an_unreachable_server_is_offline_and_training_never_waits(
    case: str,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """All rows stand in one offline directory, said once; no empty run folder stays behind."""
    if case == "no api key":
        monkeypatch.setenv("WANDB_BASE_URL", request.getfixturevalue("server").url)
        monkeypatch.delenv("WANDB_API_KEY")
    else:
        fixture = "closed_port" if case == "closed port" else "mute_server"
        monkeypatch.setenv("WANDB_BASE_URL", request.getfixturevalue(fixture))
        monkeypatch.setenv("WANDB_API_KEY", "local" + 40 * "0")
    options = Options(online_timeout_s=5, finish_timeout_s=60)
    started = time.monotonic()
    tracker = make_tracker(mode="online", options=options)
    constructed = time.monotonic()
    _log(tracker, range(100))
    logged = time.monotonic()
    wait_until(tracker.is_offline)
    finishing = time.monotonic()
    tracker.finish()
    finished = time.monotonic()

    assert constructed - started < 1.0  # hang guards: a contract of the constructor
    assert logged - constructed < 5.0
    assert finished - finishing < 60.0
    (directory,) = offline_dirs(tmp_path)
    rows = wandb_rows(directory)
    assert _losses(rows) == [step / 4 for step in range(100)]
    assert not list((tmp_path / "wandb").glob("run-*"))
    assert capsys.readouterr().err.count(OFFLINE_LINE) == 1


def test_a_refused_key_is_not_called_a_matter_of_the_network(
    server: WandbServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was "Network unavailable" although the server answers; the mend is elsewhere."""
    monkeypatch.setenv("WANDB_API_KEY", "short")
    with make_tracker(mode="online") as tracker:
        _log(tracker, range(5))

    said = capsys.readouterr().err
    assert "Not online, logging offline: W&B's API key is refused" in said
    assert "Network unavailable" not in said


def test_a_run_that_fell_back_uploads_at_finish_if_the_server_is_back(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, closed_port: str
) -> None:
    """As the troubleshooting guide promises; a later `wandb sync` does not double anything."""
    port = int(closed_port.rsplit(":", 1)[1])
    monkeypatch.setenv("WANDB_BASE_URL", closed_port)
    monkeypatch.setenv("WANDB_API_KEY", "local" + 40 * "0")
    tracker = make_tracker(mode="online", options=Options(online_timeout_s=1))
    _log(tracker, range(60))
    wait_until(tracker.is_offline)
    with WandbServer(port=port) as server:
        tracker.finish()

        run = server.runs[str(tracker.get_run_id())]
        assert _losses(run.history) == [step / 4 for step in range(60)]
    assert tracker.get_run_url() == run_url(closed_port, tracker)
    (directory,) = offline_dirs(tmp_path)
    assert next(directory.glob("*.wandb.synced"), None) is not None


def run_url(base_url: str, tracker: ExperimentTracker) -> str:
    """Return the page of a run on the loopback server."""
    return f"{base_url}/tester/vla-lego/runs/{tracker.get_run_id()}"


def test_many_threads_arrive_once_online(server: WandbServer) -> None:
    """Rows of eight threads stand on the server exactly once, each thread's in order."""
    with make_tracker(mode="online") as tracker:

        def log(number: int) -> None:
            for step in range(500):
                tracker.log_metrics({f"thread{number}": step}, step=step)

        workers = [threading.Thread(target=log, args=(number,)) for number in range(8)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    rows = [metrics(row) for row in server.runs[str(tracker.get_run_id())].history]
    for number in range(8):
        name = f"thread{number}"
        assert [row[name] for row in rows if name in row] == list(range(500))


def test_late_rows_carry_the_time_they_were_logged(server: WandbServer, tmp_path: Path) -> None:
    """The client overwrites a row's timestamp, so a replayed row brings its own."""
    with make_tracker(mode="offline") as tracker:
        _log(tracker, range(3))
    directory = run_dir(tmp_path, tracker.get_run_id())
    header, *rest = (directory / "segment-0001.jsonl").read_bytes().split(b"\n", 1)
    header = header.replace(b'"mode":"offline"', b'"mode":"online"')
    (directory / "segment-0001.jsonl").write_bytes(b"\n".join([header, *rest]))
    (directory / "cursor.json").unlink()
    result = run_script(
        """
        import sys, time
        from pathlib import Path
        from fasttrack.delivery.run_delivery import RunDelivery
        delivery = RunDelivery(
            Path(sys.argv[1]) / "segment-0001.jsonl",
            trainer_alive=lambda: False,
            report=lambda event: None,
            clock=lambda: time.time() + 120,
        )
        assert delivery.follow()
        """,
        str(directory),
        fresh=True,
    )

    assert result.returncode == 0
    rows = server.runs[str(tracker.get_run_id())].history
    logged = [row.time_s for row in journal_rows(tmp_path, tracker.get_run_id())]
    assert [row["time/logged_at"] for row in rows] == pytest.approx(logged)


def test_an_offline_part_that_the_user_synced_is_not_delivered_again(
    server: WandbServer, tmp_path: Path
) -> None:
    """`wandb sync` by hand, then an online resume in the same directory: each row once."""
    with make_tracker(mode="offline") as first:
        _log(first, range(20))
    run_id = first.get_run_id()
    subprocess.run(
        [sys.executable, "-m", "wandb", "sync", *map(str, offline_dirs(tmp_path))],
        check=True,
        capture_output=True,
    )
    with make_tracker(mode="online", resume_id=run_id, tags=None) as second:
        _log(second, range(10, 30))

    history = server.runs[str(run_id)].history
    assert [row["step"] for row in history] == [*range(20), *range(10, 30)]


def test_an_offline_part_that_nobody_synced_is_delivered_by_an_online_resume(
    server: WandbServer, tmp_path: Path
) -> None:
    """First what the offline attempt left behind, then the new rows; sync would do nothing more."""
    with make_tracker(mode="offline") as first:
        _log(first, range(20))
    run_id = first.get_run_id()
    with make_tracker(mode="online", resume_id=run_id, tags=None) as second:
        _log(second, range(10, 30))

    history = server.runs[str(run_id)].history
    assert [row["step"] for row in history] == [*range(20), *range(10, 30)]
    (directory,) = offline_dirs(tmp_path)
    assert next(directory.glob("*.wandb.synced"), None) is not None


def test_every_key_arrives_online_with_the_right_value(server: WandbServer) -> None:
    """What the server stored equals what was computed inline, grad norm included."""
    norms: list[float] = []
    with make_tracker(mode="online") as tracker:
        expected = train_with_everything(tracker, 30, norms)

    rows = [metrics(row) for row in server.runs[str(tracker.get_run_id())].history]
    assert [{key: row[key] for key in want} for row, want in zip(rows, expected, strict=True)] == (
        expected
    )
    assert [row["train/grad_norm"] for row in rows] == pytest.approx(norms, rel=1e-6)
    assert {"perf/steps_per_sec", "perf/samples_per_sec", "perf/step_time_ms/p99"} <= set(rows[-1])
