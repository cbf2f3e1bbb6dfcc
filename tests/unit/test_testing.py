"""`fasttrack.testing`: what users' own tests are written with."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from fasttrack import ExperimentTracker, Options
from fasttrack.delivery.backends import memory
from fasttrack.errors import ConfigurationError
from fasttrack.testing import memory_tracker


def train(tracker: ExperimentTracker) -> None:
    """Train for ten steps, as a user's function does."""
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(10):
        loss = model(torch.ones(4, 2)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        tracker.log_training_step(loss, step, 4, optimizer, model)


def test_every_row_is_there_when_the_block_is_left() -> None:
    """With the names and numbers that a real run would have."""
    with memory_tracker() as tracker:
        train(tracker)

    losses = [row.values["loss/total"] for row in tracker.rows]
    assert [row.step for row in tracker.rows] == list(range(10))
    assert losses[-1] < losses[0]
    assert {"train/lr", "train/grad_norm", "perf/steps_per_sec"} <= tracker.rows[-1].values.keys()
    assert tracker.exit_code == 0


def test_rows_can_be_looked_at_while_the_run_goes_on() -> None:
    """As many as were logged by then."""
    with memory_tracker() as tracker:
        tracker.log_metrics({"a": 1.5}, 3)
        early = tracker.rows
        tracker.log_metrics({"a": 2.5}, 4)

    assert [(row.step, row.values) for row in early] == [(3, {"a": 1.5})]
    assert len(tracker.rows) == 2


def test_configuration_and_artifacts_are_kept(tmp_path: Path) -> None:
    """What the constructor got, what came later, and the files."""
    (tmp_path / "model.pt").write_bytes(b"weights")
    with memory_tracker(config={"lr": 0.1, "api_key": "x" * 20}) as tracker:
        tracker.update_config({"warmup": 10})
        tracker.log_checkpoint(tmp_path / "model.pt", aliases=["best"], force=True)

    assert tracker.config == {"lr": 0.1, "api_key": "[redacted]", "warmup": 10}
    (artifact,) = tracker.artifacts
    assert (artifact.type, artifact.aliases) == ("model", ("best",))
    assert artifact.files == {"model.pt": b"weights"}


def test_an_exception_in_the_block_is_a_failed_run_and_goes_on_its_way() -> None:
    """As with any tracker."""
    with pytest.raises(ZeroDivisionError), memory_tracker() as tracker:
        1 / 0  # noqa: B018 - the user's bug

    assert tracker.exit_code == 1


def test_arguments_are_those_of_a_tracker() -> None:
    """Another interval, tags, options; a wrong one is refused as ever."""
    with memory_tracker(log_interval=5, options=Options(grad_norm="off")) as tracker:
        train(tracker)

    assert [row.step for row in tracker.rows] == [0, 5]
    assert "train/grad_norm" not in tracker.rows[0].values
    with pytest.raises(ConfigurationError, match="log_interval"):
        memory_tracker(log_interval=0)


def test_a_disabled_tracker_answers_and_holds_nothing() -> None:
    """As on ranks that do not record."""
    with memory_tracker(enabled=False) as tracker:
        train(tracker)

    assert (tracker.rows, tracker.config, tracker.artifacts) == ([], {}, [])
    assert tracker.exit_code is None


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    """No directory, no thread, nothing in the module, nothing in the working directory."""
    before = set(threading.enumerate())
    with memory_tracker() as tracker:
        tracker.log_metrics({"a": 1}, 0)
        directory = tracker.get_run_dir()
        assert directory is not None
        assert directory.is_dir()

    assert not directory.exists()
    assert not memory._destinations
    assert set(threading.enumerate()) <= before
    assert {path.name for path in tmp_path.iterdir()} <= {"home"}


def test_memory_in_another_process_is_refused() -> None:
    """Its rows would be gone with that process, and called delivered."""
    with pytest.raises(ConfigurationError, match=r"fasttrack\.testing"):
        ExperimentTracker(project="x", options=Options(backends=("memory",)))


def test_a_forked_child_leaves_the_directory_to_its_parent() -> None:
    """Also one that ends as a program does, with all that is to be done at its end."""
    code = (
        "import os, sys\n"
        "from fasttrack.testing import memory_tracker\n"
        "with memory_tracker() as tracker:\n"
        "    child = os.fork()\n"
        "    if not child:\n"
        "        sys.exit(0)\n"
        "    os.waitpid(child, 0)\n"
        "    assert tracker.get_run_dir().exists()\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", code]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
