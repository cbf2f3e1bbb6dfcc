"""One run from a real tracker to TensorBoard's event files, alone and beside W&B."""

from __future__ import annotations

import itertools
import os
import signal
import struct
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from support.interrupts import interrupt
from support.runs import (
    HANG_GUARD_S,
    deliver,
    delivery_pid,
    make_tracker,
    offline_dirs,
    run_dir,
    script_environment,
    wait_until,
    wandb_rows,
)
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fasttrack import Options
from fasttrack.journal.cursor import load_cursor
from fasttrack.journal.reader import read_segment
from fasttrack.journal.rows import Row
from fasttrack.journal.run_directory import cursor_path, segments

ALONE = Options(backends=("tensorboard",))
SIZES = {"scalars": 0, "tensors": 0}

Points = list[tuple[int, float, float]]


def _shown(base: Path, run_id: str | None) -> dict[str, Points]:
    """Return what TensorBoard's own reader has of a run's metrics: (step, time, value)."""
    found = EventAccumulator(str(base / "tensorboard" / str(run_id)), size_guidance=SIZES).Reload()
    return {
        tag: [(e.step, e.wall_time, e.value) for e in found.Scalars(tag)]
        for tag in found.Tags()["scalars"]
    }


def _recorded(base: Path, run_id: str | None) -> dict[str, Points]:
    """Return what the run's journal has of its metrics, its numbers rounded to 32 bits."""
    points: dict[str, Points] = {}
    for path in segments(run_dir(base, run_id)):
        for row in read_segment(path):
            if isinstance(row, Row):
                for name, value in row.values.items():
                    (rounded,) = struct.unpack("f", struct.pack("f", value))
                    points.setdefault(name, []).append((row.step, row.time_s, rounded))
    return points


def _event_files(base: Path, run_id: str | None) -> list[Path]:
    return sorted((base / "tensorboard" / str(run_id)).iterdir())


def test_run_is_in_tensorboard_as_the_journal_has_it(tmp_path: Path) -> None:
    """Steps that go back included; there is no link, and nothing of W&B."""
    with make_tracker(options=ALONE) as tracker:
        for step in (*range(50), *range(20, 40)):
            tracker.log_training_step(step / 7, step, 4, extra={"extra/x": step})
        tracker.log_metrics({"val/loss": 0.1}, step=10)
        tracker.log_config({"late": True})
    run_id = tracker.get_run_id()

    assert tracker.stats().rows_delivered == tracker.stats().rows_written == 71
    assert tracker.get_run_url() is None
    shown = _shown(tmp_path, run_id)
    assert [step for step, *_ in shown["loss/total"]] == [*range(50), *range(20, 40)]
    assert shown == _recorded(tmp_path, run_id)
    assert [path.name for path in (tmp_path / "wandb").iterdir()] == ["fasttrack"]
    assert len(_event_files(tmp_path, run_id)) == 1


def test_one_run_goes_to_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has every row once, and a proof of its own; the environment may ask for it."""
    monkeypatch.setenv("FASTTRACK_BACKENDS", "wandb,tensorboard")
    with make_tracker() as tracker:
        for step in range(30):
            tracker.log_metrics({"a": step, "b": step / 3}, step)
    run_id = tracker.get_run_id()

    recorded = _recorded(tmp_path, run_id)
    assert len(recorded["a"]) == 30
    assert _shown(tmp_path, run_id) == recorded
    (directory,) = offline_dirs(tmp_path)
    assert [row["a"] for row in wandb_rows(directory)] == list(range(30))
    ledgers = load_cursor(cursor_path(run_dir(tmp_path, run_id))).backends
    assert ledgers["wandb"].segments["segment-0001.jsonl"].offline_proof is not None
    proof = f"30 rows read back from tensorboard/{run_id}"
    assert ledgers["tensorboard"].segments["segment-0001.jsonl"].proof == proof


def test_machine_without_wandb_delivers_to_tensorboard(tmp_path: Path) -> None:
    """Neither the trainer nor the delivery process needs it."""
    broken = tmp_path / "site" / "wandb"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text('raise ImportError("no wandb here")')
    source = """
        import pytest
        from fasttrack import Options
        from support.runs import make_tracker
        with pytest.raises(ImportError):
            import wandb
        with make_tracker(options=Options(backends=("tensorboard",))) as tracker:
            for step in range(20):
                tracker.log_metrics({"a": step}, step)
        print(tracker.get_run_id(), tracker.stats().rows_delivered)
    """
    environment = script_environment()
    environment["PYTHONPATH"] = f"{broken.parent}{os.pathsep}{environment['PYTHONPATH']}"
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(source)],
        capture_output=True,
        text=True,
        timeout=HANG_GUARD_S,
        env=environment,
    )

    assert result.returncode == 0, result.stderr
    run_id, delivered = result.stdout.split()[-2:]
    assert delivered == "20"
    assert [value for *_, value in _shown(tmp_path, run_id)["a"]] == list(range(20))


def test_killed_delivery_process_is_replaced_and_no_row_is_there_twice(tmp_path: Path) -> None:
    """The files say which rows they hold; the next process goes on behind those."""
    with make_tracker(options=ALONE) as tracker:
        run_id = tracker.get_run_id()
        for step in range(300):
            tracker.log_metrics({"a": step}, step)
        wait_until(lambda: len(_shown_if_there(tmp_path, run_id)) == 300)
        os.kill(delivery_pid(tracker), signal.SIGKILL)
        for step in range(300, 600):
            tracker.log_metrics({"a": step}, step)

    assert tracker.stats().rows_delivered == 600
    assert [step for step, *_ in _shown(tmp_path, run_id)["a"]] == list(range(600))
    assert len(_event_files(tmp_path, run_id)) == 2


def _shown_if_there(base: Path, run_id: str | None) -> Points:
    there = (base / "tensorboard" / str(run_id)).is_dir()
    return _shown(base, run_id).get("a", []) if there else []


def test_resumed_run_goes_on_in_the_same_folder(tmp_path: Path) -> None:
    """From a checkpoint, some steps are logged again; a delivery by hand then adds nothing."""
    with make_tracker(options=ALONE) as first:
        for step in range(20):
            first.log_metrics({"a": step}, step)
    run_id = first.get_run_id()
    with make_tracker(options=ALONE, resume_id=run_id, tags=None) as second:
        for step in range(15, 30):
            second.log_metrics({"a": step + 0.5}, step)
    once = _shown(tmp_path, run_id)
    cursor_path(run_dir(tmp_path, run_id)).unlink()
    done = deliver(run_dir(tmp_path, run_id), fresh=True)

    assert once == _recorded(tmp_path, run_id)
    assert [step for step, *_ in once["a"]] == [*range(20), *range(15, 30)]
    assert (done["backend"], done["delivered"]) == ("tensorboard", True)
    assert _shown(tmp_path, run_id) == once


def test_delivery_in_a_thread_delivers_too(tmp_path: Path) -> None:
    """For notebooks."""
    options = Options(backends=("tensorboard",), delivery="thread")
    with make_tracker(options=options) as tracker:
        for step in range(10):
            tracker.log_metrics({"a": step}, step)

    assert _shown(tmp_path, tracker.get_run_id()) == _recorded(tmp_path, tracker.get_run_id())
    assert tracker.stats().rows_delivered == 10


def test_delivery_in_a_thread_is_alive_whatever_a_handler_raises_while_that_is_asked() -> None:
    """It was taken for ended then, and its rows for not delivered."""
    options = Options(backends=("tensorboard",), delivery="thread")
    with make_tracker(options=options) as tracker:
        assert tracker._engine is not None
        delivery = tracker._engine.delivery
        for place in itertools.count(1):
            interrupted = interrupt(lambda: delivery.alive, place)
            assert delivery.alive
            if not interrupted:
                break
    assert place > 3
    assert tracker.stats().rows_delivered == tracker.stats().rows_written
