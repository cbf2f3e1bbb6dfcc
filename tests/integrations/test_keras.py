"""Keras on torch for real: what `fit` reports, how a run ends, and how it goes on."""

from __future__ import annotations

import json
import math
from importlib.util import find_spec
from pathlib import Path

import pytest
from support.journals import read_entries, read_headers, read_rows
from support.runs import run_script

from fasttrack.journal.entries import Finish

pytestmark = pytest.mark.skipif(find_spec("keras") is None, reason="Keras is not installed")

# Fits points of a plane in batches of 8, of which the last of an epoch is smaller; a recorder of
# the test's own writes down what Keras tells every callback.
_SCRIPT = """
import json, os, signal, sys
import torch
import keras
from torch.utils._python_dispatch import TorchDispatchMode
from support.trackers import journal_only
from fasttrack.integrations.keras import FasttrackCallback

how, epochs = sys.argv[1], int(sys.argv[2])
keras.utils.set_random_seed(0)
x = torch.randn(36, 2)
y = x @ torch.tensor([[2.0], [-1.0]]) + 0.5
if how == "raise":
    y[8:16] = float("nan")
model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
model.compile(keras.optimizers.Adam(0.05), loss="mse", metrics=["mae"])


class Recorder(keras.callbacks.Callback):
    batches, epochs = [], []

    def on_train_batch_end(self, batch, logs=None):
        self.batches.append(logs)
        if how == "kill" and len(self.batches) == 12:
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "raise" and len(self.batches) == 7:
            raise ValueError("no more data")

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(logs)


ours = FasttrackCallback("run_id", log_interval=1, options=journal_only(), config={"width": 1})
callbacks = [ours, keras.callbacks.BackupAndRestore("backup"), Recorder()]
model.fit(
    x, y, batch_size=8, epochs=epochs, callbacks=callbacks, shuffle=False, verbose=0,
    validation_data=(x[:8], y[:8]),
)


class Seen(TorchDispatchMode):
    operations = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.operations.append(str(function))
        return function(*args, **(kwargs or {}))


with Seen():  # what the callback takes the metrics by: nothing in it waits for a device
    assert isinstance(model.get_metrics_result()["loss"], torch.Tensor)
assert Seen.operations
assert not any("local_scalar" in name or "copy" in name for name in Seen.operations)
print(json.dumps([Recorder.batches, Recorder.epochs, os.path.exists("run_id")]))
"""


@pytest.fixture(autouse=True)
def _on_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "torch")


def fit(how: str, epochs: int, code: int = 0) -> str:
    """Run the script in a process of its own; return what it printed last."""
    result = run_script(_SCRIPT, how, str(epochs), check=False, warnings="default")
    assert result.returncode == code, result.stderr
    return result.stdout


def told(run: Path, group: str) -> list[tuple[int, dict[str, float]]]:
    """Return the rows with metrics of a group, which are Keras' own, under its names for them."""
    return [
        (
            row.step,
            {
                name[len(group) :]: value
                for name, value in row.values.items()
                if name.startswith(group)
            },
        )
        for row in read_rows(run)
        if any(name.startswith(group) for name in row.values)
    ]


def only_run(base: Path) -> Path:
    """Return the directory of the one run."""
    (found,) = (base / "wandb" / "fasttrack").glob("[!.]*")
    return found


def test_a_killed_fit_goes_on_with_its_run_and_has_all_that_keras_told(tmp_path: Path) -> None:
    """Killed two batches after a backup; what is trained again is in the run again."""
    fit("kill", 4, code=-9)
    killed = told(only_run(tmp_path), "batch/")
    batches, epochs, still_there = json.loads(fit("as it is", 4))

    run = only_run(tmp_path)
    assert [step for step, _ in killed][:10] == list(range(1, 11))
    assert told(run, "batch/")[len(killed) :] == list(zip(range(11, 21), batches, strict=True))
    assert [step for step, _ in told(run, "epoch/")] == [5, 10, 15, 20]
    for (_, ours), theirs in zip(told(run, "epoch/")[2:], epochs, strict=True):
        assert {name: ours[name] for name in theirs} == theirs
        assert ours["learning_rate"] == pytest.approx(0.05)
    assert not still_there
    headers = read_headers(run)
    assert [header.resumed for header in headers] == [False, True]
    assert headers[0].config["width"] == 1
    assert [ending.exit_code for ending in read_entries(run, Finish)] == [0]


def test_a_fit_that_raises_ends_its_run_as_failed_and_has_the_first_nan(tmp_path: Path) -> None:
    """When the program ends. Keras' loss is the epoch's mean so far: NaN from that batch on."""
    fit("raise", 4, code=1)

    run = only_run(tmp_path)
    assert [ending.exit_code for ending in read_entries(run, Finish)] == [1]
    losses = {step: values["loss"] for step, values in told(run, "batch/")}
    assert {step: math.isnan(loss) for step, loss in losses.items()} == {
        1: False,
        2: True,
        3: True,
        4: True,
        5: True,
        6: True,
    }
