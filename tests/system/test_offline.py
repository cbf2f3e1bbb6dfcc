"""End to end without a server: what was logged stands in W&B's offline run directory."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest
import torch
from support.processes import children
from support.runs import (
    OFFLINE_LINE,
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

from fasttrack import Options

if TYPE_CHECKING:
    from pathlib import Path

    from support.wandb_server import WandbServer


@pytest.mark.parametrize("capture", ["snapshot", "reference"])
@pytest.mark.parametrize("grad_norm", ["worker", "inline", "auto"])
def test_every_row_and_key_is_in_the_offline_file_with_the_right_value(
    tmp_path: Path, capture: str, grad_norm: str
) -> None:
    """What wandb wrote equals what was computed inline, grad norm included."""
    norms: list[float] = []
    with make_tracker(options=Options(capture=capture, grad_norm=grad_norm)) as tracker:
        expected = train_with_everything(tracker, 50, norms)

    (directory,) = offline_dirs(tmp_path)
    rows = wandb_rows(directory)
    assert [row["step"] for row in rows] == list(range(50))
    assert [row["_step"] for row in rows] == list(range(50))
    for row, want, norm in zip(rows, expected, norms, strict=True):
        got = metrics(row)
        assert {key: got[key] for key in want} == want
        assert got["train/grad_norm"] == pytest.approx(norm, rel=1e-6)
    assert set(metrics(rows[-1])) == set(expected[-1]) | {
        "train/grad_norm",
        "perf/steps_per_sec",
        "perf/samples_per_sec",
        "perf/step_time_ms/p50",
        "perf/step_time_ms/p99",
        "perf/step_time_ms/max",
    }
    assert tracker.stats().stale == 0


def test_default_interval_logs_every_tenth_step(tmp_path: Path) -> None:
    """log_interval counts steps; the rest only feed the meters."""
    with make_tracker(log_interval=10) as tracker:
        for step in range(95):
            tracker.log_training_step(0.5, step, 2)

    rows = wandb_rows(offline_dirs(tmp_path)[0])
    assert [row["step"] for row in rows] == list(range(0, 95, 10))
    assert rows[1]["perf/samples_per_sec"] == pytest.approx(2 * rows[1]["perf/steps_per_sec"])


def test_a_hundred_thousand_rows_from_eight_threads_arrive_once_and_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is lost, doubled or reordered on the way to the journal and to wandb."""
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)  # delivery takes long enough
    threads, each = 8, 12_500
    with make_tracker(options=Options(finish_timeout_s=240)) as tracker:

        def log(number: int) -> None:
            for step in range(each):
                tracker.log_metrics({f"thread{number}": step}, step=step)

        workers = [threading.Thread(target=log, args=(number,)) for number in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    stats = tracker.stats()
    assert (stats.rows_written, stats.dropped) == (threads * each, 0)
    for rows in (
        [row.values for row in journal_rows(tmp_path, tracker.get_run_id())],
        [metrics(row) for row in wandb_rows(offline_dirs(tmp_path)[0])],
    ):
        for number in range(threads):
            name = f"thread{number}"
            assert [row[name] for row in rows if name in row] == list(range(each))


def test_non_finite_values_survive_as_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """NaN and infinities are the truth about a run, and the first one is said."""
    values = [1.5, math.nan, math.inf, -math.inf]
    with make_tracker() as tracker:
        for step, value in enumerate(values):
            tracker.log_training_step(torch.tensor(value), step)

    for rows in (
        [row.values for row in journal_rows(tmp_path, tracker.get_run_id())],
        wandb_rows(offline_dirs(tmp_path)[0]),
    ):
        assert repr([row["loss/total"] for row in rows]) == repr(values)
    assert capsys.readouterr().err.count("the loss became nan at step 1") == 1


def test_steps_that_go_back_and_same_step_rows_are_all_kept(tmp_path: Path) -> None:
    """W&B drops late steps; the courier gives every row a step that rises and keeps the user's."""
    with make_tracker() as tracker:
        tracker.log_metrics({"a": 1}, step=10)
        tracker.log_metrics({"b": 2}, step=10)
        tracker.log_metrics({"a": 3}, step=10)
        tracker.log_metrics({"a": 4}, step=5)
        tracker.log_metrics({"a": 5}, step=20)

    rows = wandb_rows(offline_dirs(tmp_path)[0])
    assert [(row["_step"], row["step"], metrics(row)) for row in rows] == [
        (10, 10, {"a": 1, "b": 2}),
        (11, 10, {"a": 3}),
        (12, 5, {"a": 4}),
        (20, 20, {"a": 5}),
    ]
    assert tracker.stats().out_of_order == 1


def test_the_offline_line_is_said_once_and_wandb_sync_accepts_the_directory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], server: WandbServer
) -> None:
    """The printed advice works: W&B's own sync uploads every row, once, into the same run."""
    with make_tracker() as tracker:
        for step in range(30):
            tracker.log_training_step(step / 2, step, 4)
    assert tracker.is_offline()
    assert tracker.get_run_url() is None
    assert capsys.readouterr().err.count(OFFLINE_LINE) == 1

    (directory,) = offline_dirs(tmp_path)
    subprocess.run(
        [sys.executable, "-m", "wandb", "sync", str(directory)], check=True, capture_output=True
    )
    run = server.runs[str(tracker.get_run_id())]
    assert [row["loss/total"] for row in run.history] == [step / 2 for step in range(30)]
    assert [row["_step"] for row in run.history] == list(range(30))
    assert sorted(run.tags) == sorted(
        ["model:eo1", "dataset:lego", "objective:ar+fm", "experiment_group:baseline"]
    )
    assert run.state == "finished"


def test_offline_resume_keeps_one_run_and_both_parts(tmp_path: Path, server: WandbServer) -> None:
    """A run resumed offline in the same directory syncs into one run with every row."""
    with make_tracker() as first:
        for step in range(20):
            first.log_training_step(step, step)
    run_id = first.get_run_id()
    with make_tracker(resume_id=run_id, tags=None) as second:
        for step in range(15, 40):  # from an older checkpoint: the steps go back
            second.log_training_step(1000 + step, step)

    assert second.get_run_id() == run_id
    assert len(journal_rows(tmp_path, run_id)) == 45
    directories = offline_dirs(tmp_path)
    assert len(directories) == 2
    subprocess.run(
        [sys.executable, "-m", "wandb", "sync", *map(str, directories)],
        check=True,
        capture_output=True,
    )
    assert list(server.runs) == [run_id]
    run = server.runs[str(run_id)]
    assert [row["loss/total"] for row in run.history] == [
        *range(20),
        *(1000 + step for step in range(15, 40)),
    ]
    assert run.display_name.startswith("eo1_ar+fm_lego_")


def test_delivery_killed_midway_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """The supervisor starts it again; all rows stand once, in one offline directory."""
    with make_tracker() as tracker:
        for step in range(200):
            tracker.log_metrics({"a": step}, step=step)
        wait_until(lambda: tracker.stats().rows_delivered > 0)
        os.kill(delivery_pid(tracker), 9)
        for step in range(200, 400):
            tracker.log_metrics({"a": step}, step=step)

    (directory,) = offline_dirs(tmp_path)
    assert [row["a"] for row in wandb_rows(directory)] == list(range(400))


def test_wandb_core_killed_midway_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """wandb's own service may die; the courier replays into a new directory."""
    with make_tracker() as tracker:
        for step in range(200):
            tracker.log_metrics({"a": step}, step=step)
        wait_until(lambda: tracker.stats().rows_delivered == 200)
        courier = delivery_pid(tracker)
        (core,) = children(courier)
        os.kill(core, 9)
        for step in range(200, 400):
            tracker.log_metrics({"a": step}, step=step)

    (directory,) = offline_dirs(tmp_path)
    assert [row["a"] for row in wandb_rows(directory)] == list(range(400))


def test_a_killed_trainer_loses_at_most_the_last_flush_interval(tmp_path: Path) -> None:
    """SIGKILL: what was flushed is in the journal, and delivery drains it and leaves."""
    result = run_script(
        """
        import os
        from support.runs import delivery_pid, make_tracker
        tracker = make_tracker()
        for step in range(300):
            tracker.log_metrics({"a": step}, step=step)
        assert tracker.flush(30)
        print(tracker.get_run_id(), delivery_pid(tracker), flush=True)
        os.kill(os.getpid(), 9)
        """,
        check=False,
    )
    assert result.returncode == -9
    run_id, courier = result.stdout.split()
    wait_until(lambda: not _alive(int(courier)))

    assert [row.values["a"] for row in journal_rows(tmp_path, run_id)] == list(range(300))
    (directory,) = offline_dirs(tmp_path)
    assert [row["a"] for row in wandb_rows(directory)] == list(range(300))
    assert not (run_dir(tmp_path, run_id) / "segment-0002.jsonl").exists()


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_delivery_thread_delivers_the_same(tmp_path: Path) -> None:
    """Options(delivery="thread") runs the same courier inside the training process."""
    result = run_script(
        """
        import sys
        from support.runs import make_tracker
        from fasttrack import Options
        with make_tracker(options=Options(delivery="thread")) as tracker:
            for step in range(100):
                tracker.log_metrics({"a": step}, step=step)
        assert "wandb" in sys.modules
        print(tracker.get_run_id())
        """
    )

    assert result.stdout.strip()
    (directory,) = offline_dirs(tmp_path)
    assert [row["a"] for row in wandb_rows(directory)] == list(range(100))


def test_what_the_program_prints_is_in_the_run(tmp_path: Path) -> None:
    """Console output of the trainer becomes the run's console log, though wandb runs elsewhere."""
    with make_tracker():
        print("hello from the trainer")

    (directory,) = offline_dirs(tmp_path)
    assert "hello from the trainer" in (directory / "files" / "output.log").read_text()
