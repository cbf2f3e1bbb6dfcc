"""Every snippet of docs/integrations.md runs as it stands there."""

from __future__ import annotations

import functools
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import torch
from support.journals import read_headers, read_rows
from support.late import Late
from support.runs import run_script
from support.snippets import ROOT, Pages, Snippet, missing_links, training_script

from fasttrack.testing import memory_tracker

if TYPE_CHECKING:
    from support import tiny_trainer as tiny
else:
    tiny = Late("support.tiny_trainer")

PAGE = ROOT / "docs" / "integrations.md"
pages = Pages(PAGE)


@pytest.fixture(autouse=True)
def _journal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTTRACK_BACKENDS", "none")
    monkeypatch.setenv("WANDB_CONSOLE", "off")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def only_run(base: Path) -> Path:
    """Return the directory of the one run under `base`."""
    (found,) = tiny.runs_of(base)
    return found


@pytest.mark.filterwarnings("ignore:'pin_memory' argument")  # the Trainer's default
@pages.runs('run_name="lego"', "callbacks=[callback]")
def test_a_trainer_reports_to_fasttrack(snippets: tuple[Snippet, ...], tmp_path: Path) -> None:
    """By its name, or by a callback."""
    names = {
        "model": tiny.make_model(),
        "dataset": tiny.sequences(16),
        "output_dir": str(tmp_path / "out"),
    }
    named = snippets[0].run(dict(names))
    with_callback = snippets[1].run(
        {
            **names,
            "tags": training_script()["tags"],
            "Trainer": named["Trainer"],
            "arguments": tiny.arguments(tmp_path / "out", max_steps=2),
        }
    )
    with_callback["trainer"].train()
    with_callback["callback"]._end()
    ours = sys.modules["fasttrack.integrations.huggingface"].FasttrackCallback
    for callback in named["trainer"].callback_handler.callbacks:
        if isinstance(callback, ours):
            callback._end()

    headers = {read_headers(run)[0].project: read_headers(run)[0] for run in tiny.runs_of(tmp_path)}
    assert headers["huggingface"].name == "lego"
    assert headers["vla"].config["dataset"] == "lego"


@pages.runs('log_with="fasttrack"')
def test_an_accelerator_logs_with_fasttrack(snippet: Snippet, tmp_path: Path) -> None:
    """Each step's tensor."""
    names = training_script()
    snippet.run(names)

    rows = read_rows(only_run(tmp_path), "loss")
    assert [row.step for row in rows] == list(range(25))
    assert isinstance(names["loss"], torch.Tensor)
    assert rows[-1].values["loss"] == names["loss"].item()


@pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning")
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # Lightning's, with torch 2.13
@pages.runs("trainer.test(module", "FasttrackCallback(name=", "Fabric(loggers=")
def test_lightning_logs_with_fasttrack(snippets: tuple[Snippet, ...], tmp_path: Path) -> None:
    """By a logger, by a callback, or by Fabric."""
    from lightning.pytorch import Trainer
    from support.tiny_lightning import TinyModule, batches

    quiet = functools.partial(
        Trainer, accelerator="cpu", enable_progress_bar=False, enable_model_summary=False
    )
    names = {**training_script(), "Trainer": quiet, "module": TinyModule(), "loader": batches()}
    snippets[0].run(names)
    names["logger"].finish()
    snippets[1].run(names)
    names["trainer"].loggers[-1].finish()
    snippets[2].run(names)
    names["fabric"].logger.finish()

    with_test, with_callback, with_fabric = sorted(
        tiny.runs_of(tmp_path), key=lambda run: read_headers(run)[0].time_s
    )
    assert len(read_rows(with_test, "test/loss")) == 1
    assert [row.step for row in read_rows(with_test, "loss/total")] == [0, 2, 4, 6, 8, 10]
    assert read_headers(with_callback)[0].name == "lego"
    assert len(read_rows(with_callback, "train/loss_step")) == 6
    assert [row.step for row in read_rows(with_fabric, "train/loss")] == list(range(25))


@pytest.mark.deepspeed
@pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is not installed")
@pytest.mark.filterwarnings("ignore")  # DeepSpeed's import
@pages.runs("import log_monitor")
def test_deepspeeds_monitor_is_logged(snippet: Snippet) -> None:
    """test_deepspeed_monitor.py does it with a real engine."""
    engine = type("Engine", (), {"global_steps": 3, "global_samples": 24})()
    engine.monitor = SimpleNamespace(enabled=False)
    with memory_tracker() as tracker:
        snippet.run({"engine": engine, "tracker": tracker, "perplexity": torch.tensor(7.5)})

    assert [(row.step, row.values) for row in tracker.rows] == [
        (3, {"Train/perplexity": 7.5, "train/samples": 24})
    ]


@pytest.mark.skipif(find_spec("keras") is None, reason="Keras is not installed")
@pages.runs("import keras")
def test_keras_reports_its_epochs(
    snippet: Snippet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a process of its own: Keras chooses its backend when it is imported."""
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    setup = """\
import torch, keras
x = torch.randn(8, 2)
y = x.sum(1)
model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
model.compile("sgd", loss="mse")
"""
    run_script(setup + snippet.source(), warnings="default")

    rows = read_rows(only_run(tmp_path), "epoch/loss")
    assert [(row.step, row.values["epoch/epoch"]) for row in rows] == [(1, 0), (2, 1), (3, 2)]


@pages.runs("import fasttrack.wandb as wandb")
def test_a_script_that_uses_wandb_records_what_it_did(
    snippet: Snippet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls of one step are one row."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    snippet.run({})

    rows = read_rows(only_run(tmp_path))
    assert [row.step for row in rows] == list(range(10))
    assert [len(row.values) for row in rows] == [1, 1, 1, 1, 2] * 2
    assert rows[4].values == {"train/loss": 1 / 5, "val.accuracy": 0.4}


def test_every_snippet_of_the_page_is_run() -> None:
    """As in docs/'s other pages."""
    assert pages.not_run() == []
    assert pages.unknown() == []
    assert missing_links(PAGE) == []
