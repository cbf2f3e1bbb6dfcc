"""Accelerate for real: what reaches the run, how it ends, and how it goes on."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from support.journals import read_entries, read_headers, read_rows
from support.runs import run_script

from fasttrack import ConfigurationError, ExperimentTracker
from fasttrack.integrations.accelerate import FasttrackTracker
from fasttrack.journal.entries import Finish
from fasttrack.journal.run_directory import segments


@pytest.fixture(autouse=True)
def _journal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTTRACK_BACKENDS", "none")
    monkeypatch.setenv("WANDB_CONSOLE", "off")


def only_run(base: Path) -> Path:
    """Return the directory of the one run under `base`."""
    (found,) = (path for path in (base / "wandb" / "fasttrack").iterdir() if path.name[0] != ".")
    return found


class Training:
    """A line fitted to points, step by step, through an accelerator."""

    def __init__(self, log_with: Any = "fasttrack", **init_kwargs: Any) -> None:
        torch.manual_seed(0)
        self.accelerator = Accelerator(cpu=True, log_with=log_with)
        model = torch.nn.Linear(2, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.x = torch.randn(64, 2)
        self.y = self.x @ torch.tensor([[2.0], [-1.0]]) + 0.5
        self.told: list[tuple[int, float]] = []
        self.accelerator.init_trackers(
            "digits", {"lr": 0.05}, init_kwargs={"fasttrack": init_kwargs} if init_kwargs else None
        )

    def train(self, first: int, last: int) -> None:
        """Do the steps from `first` to `last`, and log the loss as the tensor that it is."""
        for step in range(first, last):
            loss = torch.nn.functional.mse_loss(self.model(self.x), self.y)
            self.accelerator.backward(loss)
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.accelerator.log({"loss": loss, "lr": 0.05}, step=step)
            self.told.append((step, loss.item()))

    @property
    def tracker(self) -> FasttrackTracker:
        """The accelerator's tracker of ours."""
        found = self.accelerator.get_tracker("fasttrack")
        assert isinstance(found, FasttrackTracker)
        return found


def rows_of(run: Path) -> list[tuple[int, float]]:
    """Return the losses of a run by step, in order."""
    return [(row.step, row.values["loss"]) for row in read_rows(run)]


def test_what_is_logged_is_in_the_run_with_its_values(tmp_path: Path) -> None:
    """And the configuration, without secrets; `end_training` ends the run."""
    training = Training(name="a run", config={"api_key": "hunter2"})
    training.train(0, 10)
    unwrapped = training.accelerator.get_tracker("fasttrack", unwrap=True)
    training.accelerator.end_training()

    run = only_run(tmp_path)
    assert isinstance(unwrapped, ExperimentTracker)
    assert rows_of(run) == training.told
    (header,) = read_headers(run)
    assert (header.name, header.project, header.config["lr"]) == ("a run", "digits", 0.05)
    assert "hunter2" not in segments(run)[0].read_text()
    assert read_entries(run, Finish)[-1].exit_code == 0


def test_a_loss_that_is_no_number_is_logged_as_it_is(tmp_path: Path) -> None:
    """At its step; accelerate changes nothing in it."""
    training = Training()
    for step, loss in enumerate((0.5, math.nan, -math.inf)):
        training.accelerator.log({"loss": torch.tensor(loss)}, step=step)
    training.accelerator.end_training()

    assert str(rows_of(only_run(tmp_path))) == "[(0, 0.5), (1, nan), (2, -inf)]"


def test_an_object_may_be_passed_and_configured_later(tmp_path: Path) -> None:
    """As accelerate's own trackers can be."""
    training = Training(FasttrackTracker("vla", config={"width": 3}))
    training.train(0, 1)
    training.tracker.store_init_configuration({"late": True})
    training.accelerator.end_training()

    (header,) = read_headers(only_run(tmp_path))
    assert (header.project, header.config) == ("vla", {"width": 3, "lr": 0.05})
    assert '"late":true' in segments(only_run(tmp_path))[0].read_text()


def test_a_checkpoint_goes_on_with_its_run_by_itself(tmp_path: Path) -> None:
    """`save_state` has the rows on disk, `load_state` comes before the first log."""
    first = Training()
    first.train(0, 5)
    first.accelerator.save_state(str(tmp_path / "checkpoint"))
    written = rows_of(only_run(tmp_path))
    first.accelerator.end_training()
    second = Training()
    second.accelerator.load_state(str(tmp_path / "checkpoint"))
    second.train(5, 10)
    second.accelerator.end_training()

    assert written == first.told
    run = only_run(tmp_path)
    assert len(segments(run)) == 2
    assert rows_of(run) == first.told + second.told


def test_a_checkpoint_that_comes_late_goes_on_all_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was logged before it stays in its own run, which is said."""
    first = Training()
    first.train(0, 2)
    first.accelerator.save_state(str(tmp_path / "checkpoint"))
    first_id = first.tracker.tracker.get_run_id()
    first.accelerator.end_training()
    second = Training()
    second.train(0, 1)
    second.accelerator.load_state(str(tmp_path / "checkpoint"))
    second.train(2, 3)
    second.accelerator.end_training()

    run = tmp_path / "wandb" / "fasttrack" / str(first_id)
    assert rows_of(run) == first.told + second.told[1:]
    assert "load_state came after the run had begun" in capsys.readouterr().err


def test_a_checkpoint_of_others_is_loaded_and_begins_a_run(tmp_path: Path) -> None:
    """It has no run."""
    plain = Training(None)
    plain.accelerator.save_state(str(tmp_path / "checkpoint"))
    training = Training()
    training.accelerator.load_state(str(tmp_path / "checkpoint"))
    training.train(0, 1)
    training.accelerator.end_training()

    assert rows_of(only_run(tmp_path)) == training.told


_SCRIPT = """
import os, signal, sys
sys.path.insert(0, os.path.join(os.environ["PYTHONPATH"], "integrations"))
from test_accelerate import Training

training = Training()
training.train(0, 5)
training.accelerator.save_state(sys.argv[1])
if sys.argv[2] == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
training.train(5, 7)
raise ValueError("no more data")
"""


@pytest.mark.parametrize(("how", "code"), [("kill", -9), ("raise", 1)])
def test_a_script_that_dies_leaves_a_run_that_goes_on(tmp_path: Path, how: str, code: int) -> None:
    """Killed after a save nothing is lost, nothing twice; an exception is a failure."""
    ended = run_script(_SCRIPT, str(tmp_path / "checkpoint"), how, check=False)
    assert ended.returncode == code, ended.stderr
    endings = read_entries(only_run(tmp_path), Finish)
    training = Training()
    training.accelerator.load_state(str(tmp_path / "checkpoint"))
    training.train(5, 10)
    training.accelerator.end_training()

    steps = [row.step for row in read_rows(only_run(tmp_path))]
    again = [5, 6] if how == "raise" else []  # trained twice, and in the run twice
    assert steps == [0, 1, 2, 3, 4, *again, 5, 6, 7, 8, 9]
    assert [ending.exit_code for ending in endings] == ([1] if how == "raise" else [])


_ON_DEVICE = """
import json, torch
from support import toy_streams as toy
kept = toy.install()
from accelerate import Accelerator
from support.journals import read_rows
import fasttrack.integrations.accelerate

accelerator = Accelerator(cpu=True, log_with="fasttrack")
accelerator.init_trackers("digits")
tracker = accelerator.get_tracker("fasttrack", unwrap=True)
loss = torch.ones(()).to("toy")
toy.Queue.standing = True  # from here on, whoever waits gets an exception
for step in range(20):
    loss.fill_(step + 0.5)
    accelerator.log({"loss": loss}, step=step)
    loss.zero_()
waited = toy.Queue.done
toy.Queue.run()
accelerator.end_training()
rows = [(row.step, row.values["loss"]) for row in read_rows(tracker.get_run_dir())]
print(json.dumps([waited, rows]))
"""


def test_tensors_on_a_device_arrive_as_they_are_and_nobody_waits() -> None:
    """On a simulated accelerator whose work is done only when all is logged."""
    result = run_script(_ON_DEVICE, warnings="default")

    waited, rows = json.loads(result.stdout)
    assert waited == 0
    assert rows == [[step, step + 0.5] for step in range(20)]


def test_wrong_arguments_are_refused_when_the_trackers_are_made() -> None:
    """Not at the first log."""
    with pytest.raises(ConfigurationError, match="mode"):
        Training(mode="of course")
    with pytest.raises(TypeError, match="projekt"):
        Training(projekt="digits")
