"""Every snippet of docs/integrations.md runs as it stands there."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from support.journals import read_headers, read_rows
from support.snippets import ROOT, Pages, Snippet, missing_links, training_script
from support.tiny_trainer import arguments, make_model, runs_of, sequences

PAGE = ROOT / "docs" / "integrations.md"
pages = Pages(PAGE)


@pytest.fixture(autouse=True)
def _journal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTTRACK_BACKENDS", "none")
    monkeypatch.setenv("WANDB_CONSOLE", "off")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def only_run(base: Path) -> Path:
    """Return the directory of the one run under `base`."""
    (found,) = runs_of(base)
    return found


@pytest.mark.filterwarnings("ignore:'pin_memory' argument")  # the Trainer's default
@pages.runs('run_name="lego"', "callbacks=[callback]")
def test_a_trainer_reports_to_fasttrack(snippets: tuple[Snippet, ...], tmp_path: Path) -> None:
    """By its name, or by a callback."""
    names = {"model": make_model(), "dataset": sequences(16), "output_dir": str(tmp_path / "out")}
    named = snippets[0].run(dict(names))
    with_callback = snippets[1].run(
        {
            **names,
            "tags": training_script()["tags"],
            "Trainer": named["Trainer"],
            "arguments": arguments(tmp_path / "out", max_steps=2),
        }
    )
    with_callback["trainer"].train()
    with_callback["callback"]._end()
    ours = sys.modules["fasttrack.integrations.huggingface"].FasttrackCallback
    for callback in named["trainer"].callback_handler.callbacks:
        if isinstance(callback, ours):
            callback._end()

    headers = {read_headers(run)[0].project: read_headers(run)[0] for run in runs_of(tmp_path)}
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


def test_every_snippet_of_the_page_is_run() -> None:
    """As in docs/'s other pages."""
    assert pages.not_run() == []
    assert pages.unknown() == []
    assert missing_links(PAGE) == []
