"""docs/sharded.md and `examples/fsdp2.py` run as they stand there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.journals import read_headers, read_rows
from support.runs import HANG_GUARD_S, make_tracker, program_environment
from support.snippets import ROOT, Pages, Snippet, missing_links, training_script
from support.trackers import journal_only

from fasttrack import ExperimentTracker, Options

PAGE = ROOT / "docs" / "sharded.md"
pages = Pages(PAGE)


def run_alone(snippet: Snippet, **names: object) -> dict[str, float]:
    """Run a snippet where there is one rank, behind a step; return the row that it logged."""
    script = training_script()
    loss = script["train_step"]()
    with make_tracker(options=journal_only()) as tracker:
        snippet.run({**script, "tracker": tracker, "loss": loss, "aux": torch.tensor(0.5), **names})
    directory = tracker.get_run_dir()
    assert directory is not None
    (row,) = read_rows(directory)
    assert tracker.stats().refused == 0
    return row.values


@pages.runs("tracker.reduce_grad_norm(model)")
def test_values_and_the_norm_are_logged(snippet: Snippet) -> None:
    """On one rank: the loss itself, and the norm of its gradients."""
    row = run_alone(snippet)

    model = training_script()["model"]
    loss = model(torch.ones(2, 4)).square().mean()
    loss.backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters()])
    assert row["loss/total"] == loss.item()
    assert row["loss/aux"] == 0.5
    assert row["train/grad_norm"] == pytest.approx(norm.item())


@pages.runs("step % 10 == 0")
def test_reducing_only_what_is_logged(snippet: Snippet) -> None:
    """At a step that is not logged the loss is this rank's, and stays there."""
    assert run_alone(snippet).keys() >= {"loss/total"}
    assert run_alone(snippet, step=1).keys() >= {"loss/total"}


@pages.runs("clip_grad_norm_(model")
def test_what_clip_grad_norm_returned_is_logged(snippet: Snippet) -> None:
    """The norm before clipping."""
    assert run_alone(snippet)["train/grad_norm"] > 1.0


@pages.runs('Options(ranks="all")')
def test_the_logging_calls_of_all_ranks_take_what_is_sharded(
    snippet: Snippet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alone a rank has all of it. What several do, and what becomes of it, four real ones show."""
    monkeypatch.setenv("FASTTRACK_BACKENDS", "none")
    script = training_script()

    names = {**script, "ExperimentTracker": ExperimentTracker, "Options": Options}
    snippet.run(names)
    tracker = names["tracker"]
    tracker.finish()

    rows = {row.step: row.values for row in read_rows(tracker.get_run_dir())}
    assert [step for step, row in rows.items() if "train/grad_norm" in row] == [0, 10, 20]


@pages.runs("pipeline_group")
def test_a_pipelines_loss_is_logged(snippet: Snippet) -> None:
    """The mean over the micro-batches."""
    losses = [torch.tensor(1.0), torch.tensor(2.0)]
    stage = torch.nn.Linear(2, 1)

    row = run_alone(snippet, losses=losses, stage=stage, pipeline_group=None)

    assert (row["loss/total"], row["train/grad_norm"]) == (1.5, 0.0)


def test_every_snippet_of_the_sharded_page_is_run() -> None:
    """As in docs/'s other pages."""
    assert pages.not_run() == []
    assert pages.unknown() == []
    assert missing_links(PAGE) == []


def test_the_fsdp2_example_records_what_all_ranks_know(tmp_path: Path) -> None:
    """One run of two ranks: every row has its loss and its whole norm, and it learns to read."""
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    own = {"WANDB_DIR": str(tmp_path), "FASTTRACK_BACKENDS": "none", "HOME": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, *launcher, ROOT / "examples" / "fsdp2.py"],
        cwd=tmp_path,
        env=program_environment() | own,
        capture_output=True,
        text=True,
        timeout=HANG_GUARD_S,
    )
    assert result.returncode == 0, result.stdout + result.stderr

    (directory,) = (tmp_path / "wandb" / "fasttrack").glob("[!.]*")
    (header,) = read_headers(directory)
    per_epoch = 1437 // 2 // 32
    rows = read_rows(directory, "loss/total")
    assert header.world_size == 2
    assert [row.step for row in rows] == list(range(0, 4 * per_epoch, 5))
    assert all(row.values["train/grad_norm"] > 0 for row in rows)
    assert rows[-1].values["loss/total"] < 0.5 < rows[0].values["loss/total"]
    accuracies = [row.values["eval/accuracy"] for row in read_rows(directory, "eval/accuracy")]
    assert len(accuracies) == 4
    printed = dict(re.findall(r"rank (\d) of 2: accuracy (\d\.\d+)", result.stdout))
    assert printed == dict.fromkeys("01", f"{accuracies[-1]:.4f}")
    assert accuracies[-1] > 0.85
