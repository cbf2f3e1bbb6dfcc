"""Every snippet of the README runs as it stands there, and what the README names is there."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
import torch
from support.runs import make_tracker, metrics, offline_dirs, wandb_rows
from support.snippets import ROOT, RUN, Pages, Snippet, missing_links, training_script
from support.wandb_server import WandbServer

import fasttrack
from fasttrack import ExperimentTracker, settings

pytestmark = pytest.mark.server

README = ROOT / "README.md"
TEXT = README.read_text(encoding="utf-8")
PACKAGE = Path(fasttrack.__file__).parent
COMMANDS = "-m venv"  # the two that CI runs
MOST_LINES = 240
NOT_IN_THE_TREE = {"__init__.py", "__main__.py", "__pycache__", "py.typed"}

pages = Pages(README)


@pytest.mark.parametrize("mode", ["online", "offline", "disabled"])
@pages.runs("num_steps")
def test_the_quick_start_tracks_in_every_mode(
    server: WandbServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
    snippet: Snippet,
) -> None:
    """As written; every tenth step is a row, and the run is named after its project."""
    monkeypatch.setenv("WANDB_MODE", mode)
    names = snippet.run(training_script())

    tracker: ExperimentTracker = names["tracker"]
    if mode == "online":
        run = server.runs[str(tracker.get_run_id())]
        rows = run.history
        assert run.display_name == tracker.get_run_name()
        assert re.match(r"digits_\d{8}_\d{6}", run.display_name)
    elif mode == "offline":
        assert tracker._engine is not None
        tracker._engine._life.settle()  # a script's end
        (directory,) = offline_dirs(tmp_path)
        rows = wandb_rows(directory)
    else:
        assert not (tmp_path / "wandb").exists()
        return
    assert [row["step"] for row in rows] == [0, 10, 20]
    assert {"loss/total", "train/lr", "train/grad_norm", "perf/samples_per_sec"} <= set(rows[-1])


@pages.runs("scaler=scaler")
def test_the_calls_of_a_training_script_log_what_the_table_says(
    server: WandbServer, snippet: Snippet
) -> None:
    """Every key of the table that a CPU has, the configuration, and the artifacts."""
    names = training_script()
    evaluated: list[int] = []
    tracker = make_tracker(mode="online")
    names |= {
        "tracker": tracker,
        "loss": names["train_step"](),
        "scaler": torch.amp.GradScaler("cpu", init_scale=8.0),
        "ar": 0.25,
        "fm": 0.5,
        "norm": 2.0,
        "accuracy": 0.9,
        "images": torch.rand(2, 3, 8, 8),
        "evaluate": lambda: evaluated.append(names["step"]),
        "checkpoint": {},
    }
    torch.save({}, "checkpoint.pt")
    snippet.run(names)
    stopping = snippet.run({**names, "step": 10})["stop"]
    tracker.finish()

    run = server.runs[str(tracker.get_run_id())]
    table = set(re.findall(r"`((?:loss|train|perf)/[\w/]+)`", TEXT.split("| argument |")[0]))
    table |= {"perf/step_time_ms/p99", "perf/step_time_ms/max"}
    last = metrics(run.history[-1])
    assert table <= set(last)
    assert (last["train/amp_scale"], last["train/grad_norm"]) == (8.0, 2.0)
    assert (last["eval/accuracy"], last["val.loss"]) == (0.97, 0.14)
    assert [row["step"] for row in run.history] == [0, 10]
    assert run.config.items() >= {"lr": 0.1, "parameters": 11_000}.items()
    assert {artifact.type for artifact in server.artifacts} == {"config"}
    assert names["checkpoint"] == {"wandb_run_id": run.id}
    assert len(evaluated) == 2
    assert stopping is False


@pages.runs("fasttrack report")
def test_a_run_is_looked_at_without_an_account(tmp_path: Path, snippet: Snippet) -> None:
    """In a browser; and in the terminal, live, by the command that is printed."""
    with make_tracker() as tracker:
        tracker.log_metrics({"eval/loss": 0.5}, step=3)
    reported, shown = snippet.run_commands().values()

    assert reported.strip() == "report.html"
    assert "<html" in (tmp_path / "report.html").read_text(encoding="utf-8")[:200]
    assert "wandb leet" in shown


def test_the_two_commands_are_those_that_ci_runs() -> None:
    """They install into a fresh environment, which is more than a test should do."""
    commands = [each.text.strip() for each in pages.snippets if COMMANDS in each.text]
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")

    assert len(commands) == 2
    assert all(command in script for command in commands)


def test_every_snippet_is_run_by_a_test() -> None:
    """Above, or by CI itself; a block that only shows something says that it is text."""
    by_ci = {str(each) for each in pages.snippets if COMMANDS in each.text}

    assert set(pages.not_run()) == by_ci
    assert pages.unknown() == []


def test_a_snippet_that_no_test_runs_is_noticed(tmp_path: Path) -> None:
    """The test of the test, on a page of its own."""
    fresh = Pages(README)
    runnable = [str(each) for each in fresh.snippets if each.language in RUN]
    assert fresh.not_run() == runnable

    fresh.runs("num_steps")

    assert len(fresh.not_run()) == len(runnable) - 1
    with pytest.raises(AssertionError, match="stands in 0 snippets"):
        fresh.runs("no such snippet")
    broken = tmp_path / "page.md"
    broken.write_text("```python\nprint()\n", encoding="utf-8")
    with pytest.raises(AssertionError, match="not closed"):
        Pages(broken)


def test_everything_that_the_readme_names_is_there() -> None:
    """Files and links within the repository, headings included."""
    assert missing_links(README) == []


def test_every_page_is_linked_from_the_readme() -> None:
    """What nobody finds might as well not be there."""
    there = {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")}

    assert set(re.findall(r"\]\((docs/[\w-]+\.md)\)", TEXT)) == there


def test_the_readme_is_read_in_one_go() -> None:
    """Chapters are pages of their own."""
    assert len(TEXT.splitlines()) <= MOST_LINES


def test_the_tree_shows_what_the_package_has() -> None:
    """Each folder and module at the top once, none that is gone."""
    (tree,) = [each.text for each in pages.snippets if each.text.startswith("fasttrack/\n")]
    top = {path.name for path in PACKAGE.iterdir()} - NOT_IN_THE_TREE
    lines = [line for line in tree.splitlines()[1:] if not line.startswith("    ")]
    shown = [name.rstrip("/") for line in lines for name in re.findall(r"[\w/]+\.py|^  \w+/", line)]

    assert sorted(name.strip() for name in shown) == sorted(top)


def test_the_table_of_arguments_is_complete() -> None:
    """Every argument of the constructor, and every variable that the settings are read from."""
    table = TEXT.split("| argument |")[1].split("\n\n")[0]
    arguments = set(inspect.signature(ExperimentTracker.__init__).parameters) - {"self"}
    variables = set(re.findall(r'"((?:WANDB|FASTTRACK)_[A-Z_]+)"', inspect.getsource(settings)))

    assert [name for name in sorted(arguments) if not re.search(rf"`{name}[`=]", table)] == []
    assert len(variables) >= 5
    assert [name for name in sorted(variables) if f"`{name}`" not in table] == []
