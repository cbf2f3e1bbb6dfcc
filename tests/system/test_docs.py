"""Every snippet of the pages in docs/ runs as it stands there, and does what the page says.

Most need no delivery, and record into the journal alone: that takes milliseconds.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from support.journals import read_entries, read_headers, read_rows
from support.runs import HANG_GUARD_S, OFFLINE_LINE, TAGS, make_tracker, run_script
from support.snippets import ROOT, Pages, Snippet, missing_links, training_script
from support.wandb_server import WandbServer

from fasttrack import ConfigurationError, ExperimentTracker, Options
from fasttrack.alerts.settings import resolve_alerts
from fasttrack.journal.entries import Artifact, Config
from fasttrack.journal.run_directory import artifacts_directory
from fasttrack.journal.trouble import AskedAlert

# test_integrations_page.py, test_media_page.py, test_all_ranks.py, test_sharded_page.py
_ELSEWHERE = {"integrations.md", "media.md", "ranks.md", "sharded.md"}
DOCS = sorted(page for page in (ROOT / "docs").glob("*.md") if page.name not in _ELSEWHERE)
JOURNAL_ONLY = Options(backends=("none",))

pages = Pages(*DOCS)


def journal_tracker(**arguments: object) -> ExperimentTracker:
    """Return a tracker that logs every step, into the journal alone."""
    return make_tracker(**{"options": JOURNAL_ONLY, **arguments})


def record(run_id: str, losses: list[float]) -> None:
    """Record a run of that id whose last row has an accuracy, too."""
    with journal_tracker(resume_id=run_id) as tracker:
        for step, loss in enumerate(losses):
            tracker.log_training_step(loss, step)
        tracker.log_metrics({"eval/accuracy": 1 - losses[-1]}, len(losses))


def directory_of(tracker: ExperimentTracker) -> Path:
    """Return where the run's journal is."""
    directory = tracker.get_run_dir()
    assert directory is not None
    return directory


@pytest.fixture
def journal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """For trackers that a snippet makes."""
    monkeypatch.setenv("FASTTRACK_BACKENDS", "none")


# --- docs/logging.md ------------------------------------------------------------------------------


@pages.runs("goes back, and is kept")
def test_a_metric_without_a_step_is_logged_at_the_last_one(snippet: Snippet) -> None:
    """And one whose step lies behind is kept."""
    with journal_tracker(log_interval=10) as tracker:
        snippet.run({**training_script(), "tracker": tracker})

    rows = read_rows(directory_of(tracker))
    assert [row.step for row in rows if "loss/total" in row.values] == list(range(0, 100, 10))
    accuracies = [(row.step, row.values["eval/accuracy"]) for row in rows[-2:]]
    assert accuracies == [(99, 0.97), (50, 0.91)]


@pages.runs("log_training_step(None")
def test_a_callback_without_a_loss_logs_the_rest(snippet: Snippet) -> None:
    """Learning rate, gradient norm and throughput."""
    names = training_script()
    names["train_step"]()
    with journal_tracker() as tracker:
        snippet.run({**names, "tracker": tracker})
        snippet.run({**names, "tracker": tracker, "step": 1})

    values = read_rows(directory_of(tracker))[-1].values
    assert "loss/total" not in values
    assert {"train/lr", "train/grad_norm", "perf/samples_per_sec"} <= set(values)
    assert tracker.stats().refused == 0


@pages.runs("scaler.scale(loss).backward()")
def test_under_a_scaler_both_places_log_the_same_norm(snippet: Snippet) -> None:
    """The true one, as the page says."""
    model = torch.nn.Linear(4, 1)
    loss = model(torch.ones(8, 4)).square().mean()
    true = torch.nn.utils.get_total_norm(
        torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
    )
    with journal_tracker(log_interval=1) as tracker:
        names = {"tracker": tracker, "model": model, "loss": loss, "step": 0, "batch_size": 8}
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cpu")
        snippet.run({**names, "optimizer": optimizer, "scaler": scaler})

    norms = [row.values["train/grad_norm"] for row in read_rows(directory_of(tracker))]
    assert norms == pytest.approx([true.item()] * 2, rel=1e-4)


@pages.runs("top1")
def test_nested_metrics_get_the_names_that_the_comment_says(snippet: Snippet) -> None:
    """As W&B shows them."""
    with journal_tracker() as tracker:
        snippet.run({"tracker": tracker, "step": 0})

    (row,) = read_rows(directory_of(tracker))
    said = snippet.text.split("# ")[1].strip().split(", ")
    assert row.values == dict(zip(said, (0.14, 0.91), strict=True))


@pages.runs("tracker.pause()")
def test_a_marked_evaluation_is_a_pause(snippet: Snippet) -> None:
    """Its time stands in the next row."""
    with journal_tracker() as tracker:
        tracker.log_training_step(0.5, 0)
        snippet.run({"tracker": tracker, "evaluate": lambda: 0.75})
        tracker.log_training_step(0.5, 1)

    _, evaluated, last = (row.values for row in read_rows(directory_of(tracker)))
    assert evaluated == {"eval/accuracy": 0.75}
    assert last["perf/pause_s"] > 0


@pages.runs("overhead_budget")
def test_a_budget_is_an_option(journal_only: None, snippet: Snippet) -> None:
    """It is taken, and the run ends well."""
    tracker = snippet.run({})["tracker"]
    tracker.finish()

    assert tracker.stats().effective_interval == 10


@pages.runs("set_seeds")
def test_the_utilities_work_without_a_tracker(snippet: Snippet) -> None:
    """All names of the snippet, called."""
    names = training_script()
    names["train_step"]()
    names |= {"scaler": torch.amp.GradScaler("cpu", init_scale=8.0)}
    snippet.run(names)

    assert names["get_metadata"]()["seeds"]["set_seeds"]["seed"] == 0


# --- docs/throughput.md ---------------------------------------------------------------------------


@pages.runs("tokens=input_ids.numel()")
def test_tokens_are_in_every_row_but_the_first(snippet: Snippet) -> None:
    """128 of each sample."""
    with journal_tracker(log_interval=10) as tracker:
        snippet.run({**training_script(), "tracker": tracker, "torch": torch})

    first, *rows = [row.values for row in read_rows(directory_of(tracker))]
    assert "perf/tokens_per_sec" not in first
    ratios = [row["perf/tokens_per_sec"] / row["perf/samples_per_sec"] for row in rows]
    assert ratios == [pytest.approx(128)] * 9


@pages.runs("flops_per_token(6_738_415_616")
def test_what_a_token_takes_is_an_option(journal_only: None, snippet: Snippet) -> None:
    """Of Llama 2 7B: attention over 4,096 tokens is a sixth of it."""
    names = snippet.run({})
    names["tracker"].finish()

    assert names["each"] == 6 * 6_738_415_616 + 12 * 32 * 4096 * 4096


@pages.runs("tracker.data(loader)")
def test_the_wait_for_data_is_a_phase(snippet: Snippet) -> None:
    """And so is what the loop marks by itself."""
    loader = torch.ones(32, 4).split(4)
    with journal_tracker() as tracker:
        snippet.run({"tracker": tracker, "loader": loader, "model": torch.nn.Linear(4, 1)})

    rows = [row.values for row in read_rows(directory_of(tracker))]
    assert len(rows) == 8
    for row in rows[1:]:
        assert 0 < row["perf/phase_pct/data"] + row["perf/phase_pct/forward"] < 100


# --- docs/configuration.md ------------------------------------------------------------------------


@pytest.mark.server
@pages.runs("update_config")
def test_the_configuration_grows(server: WandbServer, snippet: Snippet) -> None:
    """The run's config has all of it; one artifact, with what `log_config` was given."""
    tracker = snippet.run({"ExperimentTracker": ExperimentTracker})["tracker"]

    run = server.runs[str(tracker.get_run_id())]
    assert run.config["optimizer"] == {"name": "adamw", "lr": 3e-3}
    assert (run.config["parameters"], run.config["batch_size"]) == (11_000, 32)
    assert [artifact.type for artifact in server.artifacts] == ["config"]
    added = read_entries(directory_of(tracker), Config)[-1]
    assert added.values == {"parameters": 11_000, "batch_size": 32}


@pages.runs("get_run_name")
def test_tags_name_the_run(
    journal_only: None, snippet: Snippet, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the form of the comment; the commit is missing outside a repository."""
    names = snippet.run({"ExperimentTracker": ExperimentTracker})

    said = snippet.text.rsplit("# ", 1)[1].strip()
    pattern = r"eo1_ar\+fm_lego_\d{8}_\d{6}"
    assert re.fullmatch(rf"{pattern}_[0-9a-f]{{6}}", said)
    assert re.fullmatch(rf"{pattern}(_[0-9a-f]+)?", capsys.readouterr().out.strip())
    (header,) = read_headers(directory_of(names["tracker"]))
    assert header.group == "baseline"
    assert header.tags == tuple(f"{name}:{value}" for name, value in TAGS.items())


@pages.runs("required_tags=()")
def test_required_tags_can_be_loosened(journal_only: None, snippet: Snippet) -> None:
    """Without it these tags are too few."""
    with pytest.raises(ConfigurationError, match="tags lacks dataset, objective"):
        ExperimentTracker(tags={"model": "cnn"})

    snippet.run({"ExperimentTracker": ExperimentTracker})["tracker"].finish()


@pages.runs("FASTTRACK_REQUIRED_TAGS")
def test_a_teams_rule_holds_where_no_tags_are_given(
    journal_only: None, snippet: Snippet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names what is missing, and who asks for it."""
    for name, value in snippet.exports():
        monkeypatch.setenv(name, value)

    with pytest.raises(ConfigurationError, match=r"model, dataset.*FASTTRACK_REQUIRED_TAGS"):
        ExperimentTracker(project="digits")
    ExperimentTracker(tags={"model": "cnn", "dataset": "digits"}).finish()


# --- docs/alerts.md -------------------------------------------------------------------------------


@pytest.mark.server
@pages.runs('"train/grad_norm > 100 for 10"')
def test_a_run_has_the_alerts_of_the_page(server: WandbServer, snippet: Snippet) -> None:
    """Its header says so."""
    tracker = snippet.run({"ExperimentTracker": ExperimentTracker, "Options": Options})["tracker"]
    tracker.finish()

    (header,) = read_headers(directory_of(tracker))
    assert header.alerts["rules"] == [
        "eval/accuracy < 0.5 after 100",
        "train/grad_norm > 100 for 10",
    ]
    assert (header.alerts["stall"], header.alerts["to"]) == (600.0, ["stderr", "wandb"])


@pages.runs("FASTTRACK_ALERTS_TO")
def test_the_variables_set_alerts(snippet: Snippet, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the page says."""
    for name, value in snippet.exports():
        monkeypatch.setenv(name, value)
    settings = resolve_alerts(None, ("wandb",), 0.2)

    assert [rule.text for rule in settings.rules] == ["eval/accuracy < 0.5 after 1000"]
    assert (settings.stall, settings.to) == (600.0, ("stderr", "webhook"))
    assert settings.webhook == "https://hooks.slack.com/services/..."


def test_the_file_sets_alerts() -> None:
    """As it stands on the page."""
    page = (ROOT / "docs" / "alerts.md").read_text()
    Path("fasttrack.toml").write_text(page.split("```toml\n")[1].split("```")[0])
    settings = resolve_alerts(None, ("wandb",), 0.2)

    assert (settings.spike, settings.to) == (False, ("wandb", "command"))
    assert settings.command == ("notify-send", "training")


@pages.runs('tracker.alert("accuracy is there"')
def test_an_alert_of_ones_own_is_in_the_journal(snippet: Snippet) -> None:
    """With what it says."""
    with ExperimentTracker(project="digits", options=Options(backends=("none",))) as tracker:
        snippet.run({"tracker": tracker, "accuracy": 0.95, "step": 7})

    (asked,) = read_entries(directory_of(tracker), AskedAlert)
    assert (asked.level, asked.title) == ("INFO", "accuracy is there")
    assert asked.text == "0.950 at step 7"


# --- docs/backends.md -----------------------------------------------------------------------------


@pytest.mark.server
@pytest.mark.skipif(find_spec("tensorboard") is None, reason="TensorBoard is not installed")
@pages.runs('("wandb", "tensorboard")')
def test_one_run_goes_to_two_backends(
    server: WandbServer, tmp_path: Path, snippet: Snippet
) -> None:
    """The same row, on the server and in the folder that the page names."""
    tracker = snippet.run({})["tracker"]

    run_id = str(tracker.get_run_id())
    assert [row["eval/loss"] for row in server.runs[run_id].history] == [0.12]
    assert len(list((tmp_path / "tensorboard" / run_id).glob("events.out.tfevents.*"))) == 1


@pytest.mark.skipif(find_spec("tensorboard") is None, reason="TensorBoard is not installed")
@pages.runs("FASTTRACK_BACKENDS")
def test_the_variable_names_the_backends(snippet: Snippet, monkeypatch: pytest.MonkeyPatch) -> None:
    """The header of the run says that it took it."""
    for name, value in snippet.exports():
        monkeypatch.setenv(name, value)
    with make_tracker() as tracker:
        pass

    (header,) = read_headers(directory_of(tracker))
    assert header.backends == ("wandb", "tensorboard")


@pages.runs('("none",)')
def test_the_journal_alone_is_read_with_json(tmp_path: Path, snippet: Snippet) -> None:
    """Two of twenty steps are logged; nothing but the journal is there."""
    names = snippet.run(training_script())

    assert len(names["losses"]) == 2
    assert names["losses"][1] < names["losses"][0]
    assert [path.name for path in (tmp_path / "wandb").iterdir()] == ["fasttrack"]


# --- docs/checkpoints.md --------------------------------------------------------------------------


@pages.runs("WANDB_LOG_MODEL")
def test_the_variable_uploads_every_checkpoint(
    snippet: Snippet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is not forced is kept for the upload; by default none is (`test_artifacts`)."""
    Path("model.pt").write_bytes(b"weights")
    for name, value in snippet.exports():
        monkeypatch.setenv(name, value)
    with make_tracker() as tracker:
        tracker.log_checkpoint("model.pt")

    (artifact,) = read_entries(directory_of(tracker), Artifact)
    assert (artifact.type, artifact.files) == ("model", 1)
    assert artifacts_directory(directory_of(tracker)).is_dir()


@pytest.mark.server
@pages.runs("force=True")
def test_force_uploads_one_checkpoint(server: WandbServer, snippet: Snippet) -> None:
    """Whatever WANDB_LOG_MODEL says."""
    torch.save({"weights": torch.zeros(100)}, "model_final.pt")
    with make_tracker(mode="online") as tracker:
        snippet.run({"tracker": tracker})

    (artifact,) = server.artifacts
    assert (artifact.type, artifact.state) == ("model", "COMMITTED")
    assert "final" in artifact.aliases


# --- docs/resume.md, docs/deepspeed.md ------------------------------------------------------------


@pytest.mark.server
@pages.runs("torch.save(", "torch.load(")
def test_resume_goes_on_in_the_same_run(server: WandbServer, snippets: tuple[Snippet, ...]) -> None:
    """One run, both attempts' rows."""
    save, load = snippets
    names = training_script()
    with make_tracker(mode="online") as first:
        first.log_metrics({"a": 1}, step=0)
        save.run({**names, "tracker": first})
    with load.run(names)["tracker"] as second:
        second.log_metrics({"a": 2}, step=1)

    (only,) = server.runs.values()
    assert [row["a"] for row in only.history] == [1, 2]


@pages.runs('resume_id="auto"', "if tracker.should_stop()")
def test_requeued_job_goes_on_after_it_has_left_in_time(
    journal_only: None, snippets: tuple[Snippet, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first start is asked to stop in its third step; the second finds its run."""
    auto, loop = snippets
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    first = auto.run(training_script())["tracker"]
    assert not first.should_stop()
    saved: list[int] = []

    def train_step() -> None:
        saved.append(0)
        if len(saved) == 3:
            first.request_stop()

    names = {"first_step": 0, "steps": 10, "save_checkpoint": saved.clear, "sys": sys}
    with pytest.raises(SystemExit) as left:
        loop.run({**names, "tracker": first, "train_step": train_step})
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    with auto.run(training_script())["tracker"] as second:
        pass

    assert (left.value.code, saved) == (143, [])
    assert second.get_run_id() == first.get_run_id()
    assert [header.resumed for header in read_headers(directory_of(first))] == [False, True]


@pytest.mark.server
@pytest.mark.deepspeed
@pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is not installed")
@pages.runs("load_checkpoint")
def test_resume_with_deepspeed_goes_on_in_the_same_run(
    server: WandbServer, snippet: Snippet
) -> None:
    """The snippet twice, on a real engine: without a checkpoint, then with its own.

    In a process of its own, because DeepSpeed's import, which takes most of the time, warns.
    """
    setup = """\
    import os
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1")
    import deepspeed, deepspeed.ops, socket, torch
    from fasttrack import ExperimentTracker, Options
    with socket.create_server(("127.0.0.1", 0)) as listener:
        os.environ["MASTER_PORT"] = str(listener.getsockname()[1])
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend="gloo")
    config, ckpt_dir = {"lr": 0.1}, "checkpoints"
    optimizer = {"type": "AdamW", "params": {"lr": 0.01, "torch_adam": True}}
    settings = {"train_batch_size": 1, "optimizer": optimizer, "zero_optimization": {"stage": 1}}
    def attempt():
        model = torch.nn.Linear(4, 1)
        engine, *_ = deepspeed.initialize(
            model=model, model_parameters=model.parameters(), config=settings
        )
    """
    ending = """\
        tracker.log_metrics({"a": 1}, step=0)
        tracker.finish()
        return resume_id, run_id
    print(attempt(), attempt())
    torch.distributed.destroy_process_group()
    """
    body = textwrap.indent(snippet.source(), " " * 8)
    result = run_script(setup.rstrip(" ") + body + ending, warnings="default", fresh=True)

    (run_id,) = server.runs
    assert f"(None, '{run_id}') ('{run_id}', '{run_id}')" in result.stdout
    assert [row["a"] for row in server.runs[run_id].history] == [1, 1]


# --- docs/nodes.md --------------------------------------------------------------------------------


@pages.runs('Options(nodes="all")')
@pytest.mark.usefixtures("journal_only")
def test_the_hardware_of_this_node_is_in_the_run(snippet: Snippet) -> None:
    """Under the names that the page lists; `show` tells them."""
    names = {"config": {}, "ExperimentTracker": ExperimentTracker, "Options": Options}
    tracker = snippet.run(names)["tracker"]
    tracker.log_metrics({"a": 1}, step=7)
    directory = directory_of(tracker)
    tracker.finish()

    (node,) = directory.glob("node-*-0001.jsonl")
    name = node.name.removeprefix("node-").removesuffix("-0001.jsonl")
    told = {metric: row.step for row in read_rows(directory) for metric in row.values}
    assert told.items() >= {f"host/{name}/memory_used_gb": 7, "nodes/missing": 7}.items()
    listed = (ROOT / "docs" / "nodes.md").read_text()
    assert all(
        metric.replace(name, "<node>").split("/")[-1] in listed for metric in told.keys() - {"a"}
    )


# --- docs/clusters.md -----------------------------------------------------------------------------


@pytest.mark.server
@pages.runs("fasttrack sync --all")
def test_sync_delivers_what_was_kept_offline(server: WandbServer, snippet: Snippet) -> None:
    """And does nothing when called again."""
    with make_tracker() as tracker:
        tracker.log_metrics({"a": 1}, step=0)
    (first,), (second,) = (snippet.run_commands().values() for _ in range(2))

    assert len(server.runs[str(tracker.get_run_id())].history) == 1
    assert "already delivered" not in first
    assert "already delivered" in second


@pytest.mark.server
@pages.runs("fasttrack sync --watch")
def test_a_watch_goes_on_until_it_is_ended(server: WandbServer, snippet: Snippet) -> None:
    """In a shell of a login node; there is nothing to deliver yet."""
    program, *arguments = shlex.split(snippet.source())
    assert program == "fasttrack"
    command = [sys.executable, "-m", program, *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as watch:
        assert watch.stderr is not None
        first = watch.stderr.readline()
        watch.terminate()
        _, last = watch.communicate(timeout=HANG_GUARD_S)

    assert "watching the runs under " in first
    assert "8 at a time" in first
    assert (watch.returncode, last.count("\n")) == (0, 1)


@pages.runs("WANDB_MODE=offline")
def test_the_modes_do_what_is_said(snippet: Snippet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline from the start, or not at all; both lines, one after another."""
    found = []
    for name, value in snippet.exports():
        monkeypatch.setenv(name, value)
        with ExperimentTracker(project="digits") as tracker:
            found.append((tracker.is_active(), tracker.is_offline()))

    assert found == [(True, True), (False, False)]


def test_the_message_that_a_run_is_offline_is_the_one_shown() -> None:
    """Word for word."""
    shown = [each.text.strip() for each in pages.snippets if each.page.name == "clusters.md"]

    assert OFFLINE_LINE in shown


@pages.runs("verify latest --repair", "verify --json")
def test_a_run_is_compared_with_what_lies_there(snippets: tuple[Snippet, ...]) -> None:
    """Offline, with its file; nothing is missing, so nothing is sent."""
    with make_tracker() as tracker:
        tracker.log_metrics({"a": 1}, step=0)
    repair, as_json = (snippet.run_commands() for snippet in snippets)

    assert "all 1 rows are there" in repair["fasttrack verify latest --repair"]
    assert json.loads(as_json["fasttrack verify --json latest"])["whole"] is True


# --- docs/command-line.md -------------------------------------------------------------------------


@pages.runs("fasttrack runs\n")
def test_the_commands_look_at_the_newest_run(tmp_path: Path, snippet: Snippet) -> None:
    """All of the block, one after another. `doctor` imports torch in a process: 3 s and more."""
    record("a1b2c3d4", [step / 4 for step in range(20)])
    output = snippet.run_commands()

    assert "a1b2c3d4" in output["fasttrack runs"]
    assert "loss/total" in output["fasttrack show latest"]
    assert output["fasttrack tail -n 5 latest"].count("loss/total") >= 1
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "report.html").read_bytes().startswith(b"<!doctype html>")
    assert (tmp_path / "rows.csv").read_text().count("\n") == 22


@pages.runs("--metric")
def test_several_runs_are_ranked_drawn_and_exported_together(
    tmp_path: Path, snippet: Snippet
) -> None:
    """The runs that the block names; the better one stands first."""
    first, second = re.findall(r"plot (\w+) (\w+)", snippet.text)[0]
    record(first, [0.5, 0.4])
    record(second, [0.5, 0.1])
    ranked, *_ = snippet.run_commands().values()

    assert 0 <= ranked.index(second) < ranked.index(first)
    assert (tmp_path / "both.png").read_bytes().startswith(b"\x89PNG")
    table = (tmp_path / "both.csv").read_text()
    assert (table.count("\n"), table.count(first), table.count(second)) == (7, 3, 3)


# --- docs/report.md -------------------------------------------------------------------------------


@pages.runs("both.html")
def test_runs_become_pages(tmp_path: Path, snippet: Snippet) -> None:
    """One of the newest, and one of both; what a browser shows of them is tested elsewhere."""
    for run_id in re.findall(r"report (\w+) (\w+) -m", snippet.text)[0]:
        record(run_id, [0.5, 0.4])
    snippet.run_commands()

    for name in ("report.html", "both.html"):
        assert (tmp_path / name).read_bytes().startswith(b"<!doctype html>")


# --- docs/goodput.md ------------------------------------------------------------------------------


@pages.runs("goodput = open_run(")
def test_goodput_is_told_of_all_attempts(
    snippet: Snippet, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that went back by three steps."""
    for steps in (range(10), range(7, 15)):
        with journal_tracker(resume_id="a1b2c3d4") as tracker:
            for step in steps:
                tracker.log_training_step(0.5, step)
    goodput = snippet.run({})["goodput"]

    assert (goodput.kept_steps, goodput.lost_steps, goodput.restarts) == (15, 3, 1)
    assert capsys.readouterr().out.splitlines()[-2:] == ["1 0 9 3", "2 7 14 0"]


# --- docs/reading-runs.md -------------------------------------------------------------------------


@pages.runs("fasttrack.open_run")
def test_runs_are_read_as_data(snippet: Snippet) -> None:
    """All that the block asks for is there, in each form."""
    with journal_tracker(config={"lr": 0.1}) as tracker:
        for step in range(60):
            tracker.log_training_step(step / 4, step)
        tracker.log_metrics({"eval/accuracy": 0.5}, 60)
    names = snippet.run({})

    run, rows = names["run"], read_rows(directory_of(tracker))
    assert run.id == tracker.get_run_id()
    assert run.config == {"lr": 0.1}
    assert run.summary["eval/accuracy"] == 0.5
    assert names["frame"]["loss/total"].dropna().tolist() == [step / 4 for step in range(60)]
    assert names["curve"].columns[4:] == ["loss/total", "eval/accuracy"]
    assert [row.values for row in names["newest"]] == [row.values for row in rows[-50:]]


@pages.runs("fasttrack compare 3fk2a1bc 9x0w7d2e\nfasttrack compare")
def test_two_runs_are_compared(snippet: Snippet) -> None:
    """A line for each metric, and the same as JSON."""
    for run_id in ("3fk2a1bc", "9x0w7d2e"):
        record(run_id, [0.5, 0.4])
    lines, told = snippet.run_commands().values()

    assert "eval/accuracy" in lines
    assert [one["name"] for one in json.loads(told)["metrics"]] == ["loss/total"]


# --- docs/audit.md --------------------------------------------------------------------------------


@pages.runs("tracker.audit()")
def test_the_audit_watches_some_steps(snippet: Snippet, capsys: pytest.CaptureFixture[str]) -> None:
    """A loop on the CPU waits for no device."""
    with journal_tracker() as tracker:
        snippet.run({**training_script(), "tracker": tracker})

    assert "[ExperimentTracker] audit: " in capsys.readouterr().err


@pages.runs("fasttrack audit")
def test_the_audit_runs_a_script_with_its_arguments(snippet: Snippet) -> None:
    """As python would."""
    Path("train.py").write_text("import sys; print(sys.argv)", encoding="utf-8")

    assert snippet.run_in_shell() == "['train.py', '--epochs', '1']\n"


# --- docs/notebooks.md ----------------------------------------------------------------------------


@pages.runs("\ntracker\n", "range(30)", "waits for delivery")
def test_the_cells_of_a_notebook_make_one_run(
    journal_only: None,
    snippets: tuple[Snippet, ...],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first one shows the run; run again, it says that the earlier one is still open."""
    monkeypatch.setattr(sys, "ps1", "In : ", raising=False)  # as where somebody types, so Jupyter
    names = training_script()
    make, log, finish = snippets
    earlier = make.run(names)["tracker"]
    assert earlier.get_run_id() in repr(earlier)
    assert earlier.get_run_name() in repr(earlier)
    capsys.readouterr()

    log.run(make.run(names))
    finish.run(names)

    said = capsys.readouterr().err
    assert "still open" in said
    assert earlier.get_run_id() in said
    assert len(read_rows(directory_of(names["tracker"]))) == 3
    assert earlier.is_active()
    earlier.finish()


# --- docs/testing.md ------------------------------------------------------------------------------


@pages.runs("memory_tracker")
def test_a_users_own_test_looks_at_what_was_logged(tmp_path: Path, snippet: Snippet) -> None:
    """The page's test passes for a loop that learns, and fails for one that does not."""
    names = training_script()

    def train(tracker: ExperimentTracker) -> None:
        for step in range(21):
            tracker.log_training_step(names["train_step"](), step)

    def stand_still(tracker: ExperimentTracker) -> None:
        for step in range(21):
            tracker.log_training_step(1.0, step)

    test = "test_training_logs_a_falling_loss"
    snippet.run({"train": train})[test]()
    with pytest.raises(AssertionError):
        snippet.run({"train": stand_still})[test]()
    assert not (tmp_path / "wandb").exists()


# --- all pages ------------------------------------------------------------------------------------


def test_every_snippet_is_run_by_a_test() -> None:
    """A new one needs a test above; a block that only shows something says that it is text."""
    assert pages.not_run() == []
    assert pages.unknown() == []


def test_every_test_and_script_that_the_traps_name_is_there() -> None:
    """What is relied on is tested, and what is claimed can be run."""
    page = (ROOT / "docs" / "traps.md").read_text(encoding="utf-8")
    tests = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page)
    scripts = re.findall(r"`(findings/\w+\.sh)`", page)

    assert page.count("tests/") == len(tests) + 1  # one is the words "tests/..."
    assert page.count("findings/") == len(scripts) + 1
    assert [script for script in scripts if not (ROOT / script).is_file()] == []
    assert [
        f"{path}::{name}"
        for path, name in tests
        if not (ROOT / path).is_file() or f"def {name}(" not in (ROOT / path).read_text("utf-8")
    ] == []


@pytest.mark.parametrize("page", DOCS, ids=lambda path: path.name)
def test_everything_that_a_page_names_is_there(page: Path) -> None:
    """Files and links within the repository, headings included."""
    assert missing_links(page) == []


# --- docs/flight-recorder.md ----------------------------------------------------------------------


@pages.runs("Options(flight_recorder=200)", "import read_flights")
def test_the_flight_recorder_is_read_as_the_page_says(
    snippets: tuple[Snippet, ...], journal_only: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Memory runs out at step 300: the file has the 200 before."""
    recorded, read = snippets
    names = training_script()
    losses: Iterator[torch.Tensor] = iter([names["train_step"]() for _ in range(300)])

    def train_step() -> torch.Tensor:
        for loss in losses:
            return loss
        raise torch.OutOfMemoryError("CUDA out of memory")

    names["train_step"] = train_step
    with pytest.raises(torch.OutOfMemoryError):
        recorded.run(names)
    read.run(names)

    assert "out_of_memory 299 OutOfMemoryError: CUDA out of memory\n" in capsys.readouterr().out
    assert [step["step"] for step in names["steps"]] == list(range(100, 300))
    assert set(names["steps"][-1]) == {
        *("step", "time", "logged", "step_time_ms", "batch_size", "values")
    }


@pages.runs("Options(layer_norms_every=100)")
def test_layers_are_logged_as_the_page_says(snippet: Snippet, journal_only: None) -> None:
    """A model of one layer is called so."""
    names = snippet.run(training_script())

    rows = [row for row in read_rows(directory_of(names["tracker"])) if len(row.values) == 2]
    assert [row.step for row in rows] == [0, 100, 200]
    assert list(rows[0].values) == ["layers/grad_norm/model", "layers/param_norm/model"]
