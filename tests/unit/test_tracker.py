"""The tracker's own life: what it answers, says and leaves, on ranks that record and on others."""

from __future__ import annotations

import ast
import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from support.journals import read_entries, read_rows
from support.processes import children
from support.runs import make_tracker, offline_dirs, run_script, wait_until, wandb_rows
from support.trackers import HANG_GUARD_S, Trackers, journal_only

from fasttrack import ExperimentTracker, Options
from fasttrack.journal.entries import Artifact, Config, Finish
from fasttrack.journal.trouble import AskedAlert
from fasttrack.life import describe_delivered
from fasttrack.runs.flights import read_flights
from fasttrack.stats import Stats
from fasttrack.worker.delivery_report import BackendReport


def written_files(base: Path) -> list[Path]:
    """Return what a tracker has made under `base`."""
    return [path for path in base.rglob("*") if path.name != "home"]


def run_dir(tracker: ExperimentTracker) -> Path:
    """Return the directory of a tracker that records."""
    directory = tracker.get_run_dir()
    assert directory is not None
    return directory


# --- inert trackers -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "environment", "offline"),
    [
        ({"enabled": False}, {}, False),
        ({"mode": "disabled"}, {}, False),
        ({"mode": None}, {"WANDB_MODE": "disabled"}, False),
        ({}, {"RANK": "1", "WORLD_SIZE": "2"}, True),
        ({}, {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"}, True),
        ({"options": Options(log_rank=1)}, {"RANK": "0", "WORLD_SIZE": "2"}, True),
        ({"enabled": False, "tags": None, "config": None}, {}, False),
    ],
    ids=["enabled", "mode", "WANDB_MODE", "torchrun", "srun", "log_rank", "no tags"],
)
def test_inert_tracker_starts_nothing_and_answers_everything(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    arguments: dict[str, Any],
    environment: dict[str, str],
    offline: bool,
) -> None:
    """No thread, process, file, signal handler or output; bad calls included."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    threads, stdout, handler = threading.enumerate(), sys.stdout.write, signal.getsignal(15)

    before = children()

    with make_tracker(**arguments) as tracker:
        tracker.log_training_step(loss="nonsense", step=None)  # type: ignore[arg-type]
        tracker.log_training_step(1.0, 0, 8, None, None, extra=5)  # type: ignore[arg-type]
        tracker.log_metrics(None, "x")  # type: ignore[arg-type]
        answers = (
            tracker.get_run_id(),
            tracker.get_run_url(),
            tracker.get_run_dir(),
            tracker.get_run_name(),
            tracker.is_active(),
            tracker.flush(),
        )
        stats = tracker.stats()
        tracker.update_config(5)
        tracker.log_config(5)
        tracker.log_checkpoint("nowhere")
    tracker.finish(1)
    tracker.log_metrics({"a": 1}, 0)

    assert answers == (None, None, None, None, False, True)
    assert stats == Stats.of_nothing()
    assert tracker.is_offline() is offline
    assert threading.enumerate() == threads
    assert children() <= before
    assert (sys.stdout.write, signal.getsignal(15)) == (stdout, handler)
    assert written_files(tmp_path) == []
    assert capfd.readouterr() == ("", "")


def test_inert_tracker_keeps_the_run_id_it_was_given() -> None:
    """A disabled run that is checkpointed must not forget the run it belongs to."""
    assert make_tracker(enabled=False, resume_id="ab12").get_run_id() == "ab12"


def test_exception_leaves_the_block_of_an_inert_tracker() -> None:
    """Nothing is swallowed."""
    with pytest.raises(KeyError), make_tracker(enabled=False):
        raise KeyError("x")


def test_inert_tracker_loads_next_to_nothing() -> None:
    """The other ranks, hundreds of them, pay for nothing that they do not use."""
    result = run_script(
        """
        import os, sys

        os.environ.update(RANK="1", WORLD_SIZE="2")
        before = set(sys.modules)
        import fasttrack

        with fasttrack.ExperimentTracker(config={"lr": 0.1}) as tracker:
            tracker.log_training_step(1.0, 0)
            tracker.log_metrics({"a": 1})
            tracker.get_run_id(), tracker.get_run_name(), tracker.stats(), repr(tracker)
        loaded = {name for name in set(sys.modules) - before if name.startswith("fasttrack.")}
        heavy = {"torch", "numpy", "orjson", "yaml", "tenacity", "subprocess", "click", "rich"}
        print(sorted(heavy & set(sys.modules)))
        print(sorted(name.split(".")[1] for name in loaded - {"fasttrack.delivery"}))
        """,
        fresh=True,
    )

    heavy, ours = result.stdout.splitlines()
    assert heavy == "[]"
    assert set(ast.literal_eval(ours)) == {
        "alerts",
        "collective",
        "context",
        "copies",
        "delivery",
        "display",
        "errors",
        "exit_codes",
        "handler_errors",
        "media",
        "opaque",
        "options",
        "preemption",
        "quick_calls",
        "run_page",
        "settings",
        "stats",
        "timing_calls",
        "tracker",
        "validation",
    }


# --- asking ---------------------------------------------------------------------------------------


def test_run_name_is_what_the_run_was_named(make: Trackers) -> None:
    """Given, made here, or, in a resumed run, found in its journal."""
    first = make()
    first.finish()

    assert make(name="mine").get_run_name() == "mine"
    assert str(first.get_run_name()).startswith("eo1_ar+fm_lego_")
    assert make(resume_id=first.get_run_id(), tags=None).get_run_name() == first.get_run_name()
    assert make(resume_id="elsewhere", tags=None).get_run_name() is None


def test_update_config_adds_to_the_configuration_without_an_artifact(
    make: Trackers, capsys: pytest.CaptureFixture[str]
) -> None:
    """For what becomes known later; secrets are redacted, what has no plain form is said."""
    tracker = make()
    tracker.update_config({"parameters": 5, "data": {"version": "v2"}})
    tracker.update_config({"api_key": "s3cr3t", "act": sum})
    tracker.update_config([1])
    tracker.finish()

    configs = [entry.values for entry in read_entries(run_dir(tracker), Config)]
    assert configs == [
        {"parameters": 5, "data": {"version": "v2"}},
        {"api_key": "[redacted]", "act": str(sum)},
    ]
    assert read_entries(run_dir(tracker), Artifact) == []
    said = capsys.readouterr().err
    assert "update_config: written as text, having no plain form: act" in said
    assert "update_config: config must be a mapping" in said
    assert tracker.stats().failed_calls == 1


def test_repr_says_name_id_state_and_where(make: Trackers) -> None:
    """What somebody wants to know who types `tracker`."""
    tracker = make(name="mine")
    running = repr(tracker)
    tracker.finish()

    run_id, directory = tracker.get_run_id(), tracker.get_run_dir()
    assert running == f"<ExperimentTracker mine ({run_id}), running, offline: {directory}>"
    assert repr(tracker) == f"<ExperimentTracker mine ({run_id}), finished, offline: {directory}>"
    assert repr(make_tracker(enabled=False)) == (
        "<ExperimentTracker None (None), not recorded by this process>"
    )


def test_html_is_escaped_and_links_to_the_page(make: Trackers) -> None:
    """A run's name is anybody's text; a notebook would run a script in it."""
    tracker = make(name="<script>alert('x')</script>", mode="online")
    before = tracker._repr_html_()
    assert tracker._engine is not None
    page = 'https://wandb.ai/a/b/runs/c?x=1&y="2"'
    tracker._engine.delivery.report.backends["wandb"] = BackendReport(url=page)

    escaped = "https://wandb.ai/a/b/runs/c?x=1&amp;y=&quot;2&quot;"
    assert "<script>" not in before
    assert "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt;" in before
    assert "<a" not in before
    assert f'<a href="{escaped}" target="_blank" rel="noopener">{escaped}</a>' in (
        tracker._repr_html_()
    )


@pytest.mark.parametrize("interactive", [True, False])
def test_notebook_cell_that_is_run_twice_says_that_the_earlier_run_is_open(
    interactive: bool,
) -> None:
    """Once for each such run, with its name and id; a program may have as many as it likes."""
    result = run_script(
        f"""
        import sys

        from support.runs import make_tracker
        from support.trackers import journal_only

        if {interactive}:
            sys.ps1 = "In : "
        trackers = [make_tracker(name=f"run{{n}}", options=journal_only()) for n in range(3)]
        trackers[0].finish()
        trackers.append(make_tracker(name="run3", options=journal_only()))
        print(*[tracker.get_run_id() for tracker in trackers])
        """
    )

    ids = result.stdout.split()
    said = [line for line in result.stderr.splitlines() if "still open" in line]
    assert [line.split(" that ")[0] for line in said] == (
        [f"[ExperimentTracker] the run run{n} ({ids[n]})" for n in (0, 1, 2)] if interactive else []
    )
    assert all("call finish() on its tracker" in line for line in said)


# --- ending ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("report", "said"),
    [
        (BackendReport(offline=True, directory="/x/offline-run-1"), "rows kept: 3, in /x/offline-"),
        (BackendReport(url="https://w/r"), "rows delivered: 3. View run at: https://w/r"),
        (BackendReport(directory="/x/tensorboard/r"), "rows delivered: 3, in /x/tensorboard/r"),
        (
            BackendReport(directory="/x", look="mlflow server"),
            "rows delivered: 3; to look: mlflow s",
        ),
        (BackendReport(), "rows delivered: 3"),
    ],
)
def test_what_was_delivered_is_said_with_the_place(report: BackendReport, said: str) -> None:
    """A page, a folder to sync later, a folder of event files, a command that shows it."""
    assert describe_delivered(report, 3).startswith(said)


def test_run_that_keeps_its_journal_only_says_where_it_is(
    make: Trackers, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing was to be delivered, so nothing is missing."""
    tracker = make()
    tracker.log_metrics({"a": 1}, 0)
    tracker.finish()

    stats = tracker.stats()
    assert f"rows kept: 1, in {tracker.get_run_dir()}\n" in capsys.readouterr().err
    assert (stats.rows_written, stats.delivery_lag_rows) == (1, 0)


def test_run_that_keeps_its_journal_only_starts_no_process(make: Trackers) -> None:
    """There is nothing for it to do."""
    before = children()
    tracker = make()
    tracker.log_metrics({"a": 1}, 0)

    assert tracker.flush(HANG_GUARD_S)
    wait_until(lambda: children() <= before)  # git, asked for the commit, ends by itself


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")  # that is the case
def test_forked_child_has_an_inert_tracker_and_leaves_the_run_alone(make: Trackers) -> None:
    """As in a DataLoader's worker."""
    tracker = make()
    tracker.log_metrics({"a": 1}, 0)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        tracker.log_metrics({"a": 2}, 1)
        tracker.update_config({"lr": 1})
        tracker.finish()
        answers = (tracker.is_active(), tracker.get_run_id(), tracker.get_run_dir())
        os.write(writing, repr((*answers, tracker.stats().rows_written)).encode())
        os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    tracker.log_metrics({"a": 3}, 2)
    tracker.finish()

    with open(reading, encoding="utf-8") as told:
        assert told.read() == repr((False, tracker.get_run_id(), None, 0))
    assert tracker.stats().rows_written == 2
    (finish,) = read_entries(run_dir(tracker), Finish)
    assert finish.exit_code == 0


@pytest.mark.parametrize("exit_code", [None, "failed", 1.5j], ids=repr)
def test_exit_code_that_is_no_integer_does_not_raise_into_training(
    make: Trackers, exit_code: Any
) -> None:
    """The segment is closed whatever finish() is told."""
    tracker = make()

    tracker.finish(exit_code)

    (finish,) = read_entries(run_dir(tracker), Finish)
    assert finish.exit_code == 1


def test_each_mistake_is_said_once_and_counted_by_its_reason(
    make: Trackers, capsys: pytest.CaptureFixture[str]
) -> None:
    """After the first wrong step another kind of wrong step was dropped without a word."""
    tracker = make()
    for step in (None, None, "3", "3"):
        tracker.log_training_step(0.5, step)  # type: ignore[arg-type]
    for value in ("x", [1, 2]):
        tracker.log_metrics({"m": value}, 1)
    tracker.finish()

    *said, last = (line for line in capsys.readouterr().err.splitlines() if "; " in line)
    wrong_step = "log_training_step: step must be an integer, not"
    for cause in (f"{wrong_step} NoneType;", f"{wrong_step} str '3';", "m: a str 'x'", "m: a list"):
        assert sum(cause in line for line in said) == 1
    assert f"2 x {wrong_step} NoneType; 2 x {wrong_step} str '3'" in last
    assert "1 x m: a str 'x' is not one real number; 1 x m: a list is not" in last


# --- the whole way, with the real delivery process ------------------------------------------------


def test_run_full_of_bad_calls_is_delivered_with_all_its_good_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What reaches W&B is exactly what was good."""
    with make_tracker(options=Options(console=False)) as tracker:
        for step in range(5):
            bad: dict[Any, Any] = {"a": step, "b": "text", 3: 1.0, "step": 9}
            tracker.log_metrics(bad, step)
            tracker.log_metrics({"a": step}, "x")  # type: ignore[arg-type]
            tracker.log_metrics(None, step)  # type: ignore[arg-type]
    tracker.log_metrics({"a": 99}, 99)

    (directory,) = offline_dirs(tmp_path)
    stats = tracker.stats()
    said = capsys.readouterr().err
    assert [row["a"] for row in wandb_rows(directory)] == [0, 1, 2, 3, 4]
    assert (stats.rows_written, stats.rows_delivered) == (5, 5)
    assert (stats.refused, stats.failed_calls, stats.late_calls) == (15, 10, 1)
    assert f"rows kept: 5, in {directory}" in said


@pytest.mark.parametrize("step", [2**53 + 1, 10**30 + 1, -(2**53) - 1])
def test_step_that_no_row_can_have_costs_its_row_and_nothing_else(
    step: int, make: Trackers
) -> None:
    """Not the run's end, its configuration, an alert or the last steps, which tell the step."""
    odd: dict[Any, float] = {Path("no name"): 1.0, "n": 10**30}
    options = journal_only(watch_nonfinite=True, flight_recorder=5)
    tracker = make(log_interval=10, options=options)
    tracker.log_training_step(1.0, 0)
    for number in (10 * step, step, step):  # the first is logged
        tracker.log_training_step(float("nan"), number, extra=odd)
    tracker.log_config({"lr": 0.1})
    tracker.alert("it is odd")
    tracker.finish(3)

    run_dir = tracker.get_run_dir()
    assert run_dir is not None
    assert [row.step for row in read_rows(run_dir)] == [0]
    (finish,) = read_entries(run_dir, Finish)
    assert (finish.exit_code, finish.last_step) == (3, None)
    assert [entry.values for entry in read_entries(run_dir, Config)] == [{"lr": 0.1}]
    (alert,) = read_entries(run_dir, AskedAlert)
    assert (alert.title, alert.step) == ("it is odd", None)
    stats = tracker.stats()
    assert (stats.failed_calls, stats.worker_errors, stats.journal_errors) == (0, 0, 0)
    (dump,) = read_flights(run_dir)
    assert (dump.reason, dump.step) == ("exit_code", None)
    _, *lines = map(json.loads, dump.path.read_text().splitlines())
    assert [line["step"] for line in lines] == [0, step]
    assert lines[-1]["values"] == {"loss/total": "NaN", "n": 10**30}
