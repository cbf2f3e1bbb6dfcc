"""Loud before the run, quiet after it: what the constructor refuses, and what training survives."""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from support.runs import TAGS, journal_rows, make_tracker, offline_dirs, run_dir, wandb_rows

import fasttrack.tracker
from fasttrack import ConfigurationError, DirectoryError, ExperimentTracker, FasttrackError, Options
from fasttrack.journal.reader import read_header
from fasttrack.journal.run_directory import segments
from fasttrack.worker.supervisor import DeliveryState

QUIET = Options(console=False, finish_timeout_s=10.0)
HANG_GUARD_S = 30.0


class StandInDelivery:
    """Takes the place of the delivery process: these tests are about what comes before it."""

    def __init__(self, segment: Path, warn: Callable[[str, str], None]) -> None:
        """Be done at once."""
        self.state = DeliveryState(delivered=True, offline=True, directory=str(segment.parent))

    def poll(self) -> None:
        """Nothing is reported."""

    def wait(self, timeout_s: float, upload_timeout_s: float) -> bool:
        """It is over."""
        return True

    def close(self) -> None:
        """Nothing is open."""


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., ExperimentTracker]]:
    """Return what makes trackers that deliver nowhere; they are finished afterwards."""
    made: list[ExperimentTracker] = []

    def build(**arguments: Any) -> ExperimentTracker:
        made.append(make_tracker(**{"options": QUIET, **arguments}))
        return made[-1]

    monkeypatch.setattr(fasttrack.tracker, "DeliveryProcess", StandInDelivery)
    yield build
    for tracker in made:
        tracker.finish()


def written_files(base: Path) -> list[Path]:
    """Return what a tracker has made under `base`."""
    return [path for path in base.rglob("*") if path.name != "home"]


def header(tracker: ExperimentTracker, base: Path) -> dict[str, Any]:
    """Return the header of the tracker's newest segment."""
    return read_header(segments(run_dir(base, tracker.get_run_id()))[-1])


def values(tracker: ExperimentTracker, base: Path) -> list[dict[str, Any]]:
    """Return the values of each row that the tracker has written."""
    assert tracker.flush(HANG_GUARD_S)
    return [entry["values"] for entry in journal_rows(base, tracker.get_run_id())]


# --- what the constructor refuses -----------------------------------------------------------------


class Config:
    """A configuration that is no mapping."""

    def __init__(self) -> None:
        """Have an attribute."""
        self.lr = 0.1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"options": {"console": False}}, r"options must be fasttrack\.Options, not \{"),
        ({"options": Options}, r"options must be fasttrack\.Options, not <class"),
        ({"mode": "onlin"}, "mode must be one of online, offline, disabled, not 'onlin'"),
        ({"project": "a/b"}, "project 'a/b' holds /"),
        ({"project": ""}, "project must be a non-empty string, not ''"),
        ({"project": 5}, "project must be a non-empty string, not 5"),
        ({"log_interval": 0}, "log_interval must be an integer of at least 1, not 0"),
        ({"log_interval": -10}, "log_interval .* not -10"),
        ({"log_interval": 2.5}, r"log_interval .* not 2\.5"),
        ({"log_interval": None}, "log_interval .* not None"),
        ({"log_interval": True}, "log_interval .* not True"),
        ({"gpu_stats_interval": 0}, "gpu_stats_interval .* not 0"),
        ({"gpu_stats_interval": -1}, "gpu_stats_interval .* not -1"),
        ({"gpu_stats_interval": "50"}, "gpu_stats_interval .* not '50'"),
        ({"name": 5}, "name must be a string, not 5"),
        ({"entity": ["team"]}, "entity must be a string"),
        ({"group": 1}, "group must be a string, not 1"),
        ({"notes": b"x"}, "notes must be a string, not b'x'"),
        ({"config": [("lr", 0.1)]}, "config must be a mapping such as a dict, .* not list$"),
        ({"config": "lr=0.1"}, "config must be a mapping such as a dict, .* not str$"),
        ({"config": Config()}, "config must be a mapping .* not Config$"),
        ({"tags": ["model:eo1"]}, "tags must be a mapping such as a dict, not list"),
        ({"tags": "eo1"}, "tags must be a mapping such as a dict, not str"),
        ({"tags": {**TAGS, 1: "x"}}, "tags must map strings .* not 1 to 'x'"),
        ({"tags": {**TAGS, "note": None}}, "tags must map strings .* not 'note' to None"),
        ({"tags": {**TAGS, "note": ""}}, "tags must map strings .* not 'note' to ''"),
        ({"tags": {**TAGS, "note": ["x"]}}, r"tags must map strings .* not 'note' to \['x'\]"),
        ({"tags": {**TAGS, "note": "x" * 60}}, "tag 'note:x{60}' is longer than W&B's 64"),
        ({"tags": None}, "tags lacks model, dataset, objective, experiment_group"),
        ({"tags": {"model": "eo1"}}, "tags lacks dataset, objective, experiment_group; pass them"),
        ({"required_tags": ("seed", "model", "site")}, "tags lacks seed, site;"),
        ({"resume_id": "ab12", "tags": {"model": "m"}}, "tags lacks dataset"),
        *[
            ({"resume_id": bad}, "resume_id .* is no run id .* pass what get_run_id")
            for bad in (
                "",
                ".",
                "..",
                "../x",
                "a/b",
                "/tmp/x",
                "a\\b",
                "a b",
                "a\n",
                "a\0",
                "-x",
                5,
            )
        ],
        ({"resume_id": "x" * 129}, "resume_id .* is no run id"),
    ],
)
def test_bad_argument_is_refused_by_name_before_anything_is_made(
    tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    """The message names the argument and the mend; no file, thread or process is left."""
    threads = threading.enumerate()

    with pytest.raises(ConfigurationError, match=message):
        make_tracker(**arguments)

    assert written_files(tmp_path) == []
    assert threading.enumerate() == threads


def test_missing_tags_are_named_together_with_their_mend() -> None:
    """One error for all of them, with a line to paste."""
    with pytest.raises(ConfigurationError) as caught:
        make_tracker(tags={"objective": "ar"})

    assert str(caught.value) == (
        "tags lacks model, dataset, experiment_group; pass them, e.g. "
        "tags={'model': ..., 'dataset': ..., 'experiment_group': ...}, or other required_tags"
    )


@pytest.mark.parametrize("arguments", [{"enabled": False}, {"mode": "disabled"}])
def test_wrong_types_are_refused_by_a_disabled_tracker_too(arguments: dict[str, Any]) -> None:
    """A typo must not wait for the day on which tracking is switched on."""
    for bad in ({"log_interval": 0}, {"config": 5}, {"tags": 5}, {"options": 5}, {"project": ""}):
        with pytest.raises(ConfigurationError):
            make_tracker(**arguments, **bad)


@pytest.mark.parametrize("arguments", [{"tags": None}, {"log_interval": 0}, {"resume_id": "a/b"}])
def test_every_rank_refuses_what_the_main_one_refuses(
    monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any]
) -> None:
    """All ranks stop at once, instead of waiting in a collective for one that died."""
    monkeypatch.setenv("RANK", "3")

    with pytest.raises(ConfigurationError):
        make_tracker(**arguments)


@pytest.mark.parametrize("blocked", ["", "wandb", "wandb/fasttrack"])
def test_file_in_the_way_of_the_run_directory_is_a_directory_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blocked: str
) -> None:
    """The error names the directory, the reason and the variable that moves it."""
    base = tmp_path / "base"
    in_the_way = base / blocked
    in_the_way.parent.mkdir(parents=True, exist_ok=True)
    in_the_way.write_text("a file")
    monkeypatch.setenv("WANDB_DIR", str(base))
    threads = threading.enumerate()

    with pytest.raises(DirectoryError, match=f"cannot write .*{base}.*set WANDB_DIR") as caught:
        make_tracker()

    assert isinstance(caught.value, OSError)
    assert isinstance(caught.value.__cause__, OSError)
    assert threading.enumerate() == threads


def test_interpreter_that_cannot_be_started_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Python is embedded, `sys.executable` may be anything; the thread needs none."""
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    threads = threading.enumerate()

    with pytest.raises(FasttrackError, match=r"'/nowhere/python'.*Options\(delivery='thread'\)"):
        make_tracker()

    assert threading.enumerate() == threads


def test_required_tags_must_not_be_a_string() -> None:
    """`required_tags="model"` is missing a comma, not the tags m, o, d, e and l."""
    with pytest.raises(ConfigurationError, match="required_tags must"):
        make_tracker(required_tags="model")


@pytest.mark.parametrize(
    "arguments",
    [
        {"notes": "caf\udce9"},
        {"config": {"path": "caf\udce9"}},
        {"name": "caf\udce9"},
        {"tags": {**TAGS, "data": "caf\udce9"}},
    ],
    ids=str,
)
def test_text_that_is_not_unicode_starts_a_run_all_the_same(
    make: Callable[..., ExperimentTracker], arguments: dict[str, Any]
) -> None:
    """Names of files that are not UTF-8 come as lone surrogates (PEP 383)."""
    assert make(**arguments).is_active()


def test_command_line_that_is_not_unicode_starts_a_run_all_the_same(
    make: Callable[..., ExperimentTracker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user has not even passed it to us."""
    monkeypatch.setattr(sys, "argv", ["train.py", "--data", "caf\udce9"])

    assert make().is_active()


def test_deleted_working_directory_is_no_matter_where_wandb_dir_is_set(
    make: Callable[..., ExperimentTracker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cluster cleans scratch directories under running jobs."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()

    assert make().is_active()


@pytest.mark.parametrize("option", ["grad_hold_limit_gb", "flush_interval_s", "finish_timeout_s"])
def test_infinite_option_is_refused_or_works(
    make: Callable[..., ExperimentTracker], option: str
) -> None:
    """`finish_timeout_s=inf`, "wait as long as it takes", raises out of finish() today."""
    try:
        options = Options(**{"console": False, "finish_timeout_s": 1.0, option: math.inf})
    except ConfigurationError:
        return
    tracker = make(options=options)
    tracker.log_metrics({"a": 1}, 0)

    assert tracker.flush(1.0)
    tracker.finish()


# --- what the constructor takes -------------------------------------------------------------------


def test_arguments_reach_the_journal_header(
    make: Callable[..., ExperimentTracker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The header is all that delivery knows of the run."""
    monkeypatch.setenv("WANDB_ENTITY", "variable")
    monkeypatch.setattr(sys, "argv", ["train.py", "--hf_token=s3cr3t"])

    tracker = make(
        project="p",
        entity="argument",
        name="my run",
        notes="ü",
        config={"lr": 0.1, "api_key": "s3cr3t", "nan": math.nan},
        tags={**TAGS, "seed": 3},
    )

    written = header(tracker, tmp_path)
    expected = {
        "project": "p",
        "entity": "argument",
        "name": "my run",
        "notes": "ü",
        "config": {"lr": 0.1, "api_key": "[redacted]", "nan": "nan"},
        "tags": [*(f"{key}:{value}" for key, value in TAGS.items()), "seed:3"],
        "group": "baseline",
        "mode": "offline",
        "resumed": False,
        "run_id": tracker.get_run_id(),
        "argv": ["train.py", "--hf_token=[redacted]"],
        "pid": os.getpid(),
        "attempt": 1,
    }
    assert {key: written[key] for key in expected} == expected
    assert "s3cr3t" not in segments(run_dir(tmp_path, tracker.get_run_id()))[0].read_text()


def test_api_key_of_the_environment_reaches_no_file(
    make: Callable[..., ExperimentTracker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Environment variables are not recorded."""
    monkeypatch.setenv("WANDB_API_KEY", "s3cr3t" * 8)

    make().finish()

    files = [path for path in written_files(tmp_path) if path.is_file()]
    assert files
    assert [path for path in files if b"s3cr3t" in path.read_bytes()] == []


def test_group_argument_beats_the_experiment_group(
    make: Callable[..., ExperimentTracker], tmp_path: Path
) -> None:
    """The tag is only the default."""
    assert header(make(group="mine"), tmp_path)["group"] == "mine"


def test_other_required_tags_may_be_asked_for(
    make: Callable[..., ExperimentTracker], tmp_path: Path
) -> None:
    """A project has its own rules; none at all is one of them."""
    few = make(required_tags=("site",), tags={"site": "gilbreth"})
    none = make(required_tags=(), tags=None)

    assert header(few, tmp_path)["tags"] == ["site:gilbreth"]
    assert header(none, tmp_path)["tags"] is None
    assert header(none, tmp_path)["name"] is None


def test_resume_without_tags_goes_on_with_the_same_run(
    make: Callable[..., ExperimentTracker], tmp_path: Path
) -> None:
    """As the guide shows: only `resume_id` from the checkpoint."""
    first = make()
    first.finish()

    second = make(resume_id=first.get_run_id(), tags=None)

    written = header(second, tmp_path)
    assert second.get_run_id() == first.get_run_id()
    assert (written["attempt"], written["resumed"], written["tags"]) == (2, True, None)


def test_run_id_may_be_of_the_users_own_making(make: Callable[..., ExperimentTracker]) -> None:
    """Letters, digits, `_`, `-` and `.`, up to 128."""
    for run_id in ("Job_123-a.b", "0", "x" * 128):
        assert make(resume_id=run_id, tags=None).get_run_id() == run_id


def test_numbers_are_taken_for_tag_values(
    make: Callable[..., ExperimentTracker], tmp_path: Path
) -> None:
    """`"seed": 3` need not be quoted; 64 characters are not too many."""
    longest = "x" * (64 - len("note:"))

    tracker = make(tags={**TAGS, "seed": 3, "lr": 0.5, "note": longest})

    assert header(tracker, tmp_path)["tags"][-3:] == ["seed:3", "lr:0.5", f"note:{longest}"]


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

    def start(*_: Any, **__: Any) -> None:
        raise AssertionError("an inert tracker started something")

    monkeypatch.setattr(fasttrack.tracker, "DeliveryProcess", start)
    monkeypatch.setattr(fasttrack.tracker, "Worker", start)
    monkeypatch.setattr(fasttrack.tracker, "make_run_name", start)

    with make_tracker(**arguments) as tracker:
        tracker.log_training_step(loss="nonsense", step=None)  # type: ignore[arg-type]
        tracker.log_training_step(1.0, 0, 8, None, None, extra=5)  # type: ignore[arg-type]
        tracker.log_metrics(None, "x")  # type: ignore[arg-type]
        answers = (
            tracker.get_run_id(),
            tracker.get_run_url(),
            tracker.is_active(),
            tracker.flush(),
        )
        stats = tracker.stats()
        tracker.preempt()
        tracker.become_inert()
    tracker.finish(1)
    tracker.log_metrics({"a": 1}, 0)

    assert answers == (None, None, False, True)
    assert {getattr(stats, name) for name in stats.__slots__} == {0}
    assert tracker.is_offline() is offline
    assert threading.enumerate() == threads
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


# --- after construction: counted, said once, training goes on -------------------------------------


@pytest.mark.parametrize(
    "step",
    ["1", 1.5, None, True, math.nan, math.inf, [1], torch.tensor(1.5), torch.ones(2)],
    ids=str,
)
def test_step_that_is_no_integer_is_counted_and_said_once_per_method(
    make: Callable[..., ExperimentTracker],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    step: Any,
) -> None:
    """The call is given up, the next one is not."""
    tracker = make()

    for _ in range(3):
        tracker.log_metrics({"a": 1}, step)
        tracker.log_training_step(1.0, step)
    tracker.log_metrics({"a": 2}, 7)

    said = capsys.readouterr().err
    assert values(tracker, tmp_path) == [{"a": 2}]
    assert tracker.stats().failed_calls == 6
    assert said.count("log_metrics: step must be an integer, not ") == 1
    assert said.count("log_training_step: step must be an integer, not ") == 1


@pytest.mark.parametrize("step", [np.int64(5), np.uint8(5), torch.tensor(5), 5.0], ids=repr)
def test_step_of_another_integer_type_is_taken(
    make: Callable[..., ExperimentTracker], tmp_path: Path, step: Any
) -> None:
    """Loop counters come from NumPy and from tensors, too."""
    tracker = make()

    tracker.log_metrics({"a": 1}, step)

    assert tracker.flush(HANG_GUARD_S)
    (row,) = journal_rows(tmp_path, tracker.get_run_id())
    assert (row["step"], type(row["step"])) == (5, int)


def test_engine_that_cannot_tell_its_norm_costs_the_norm_only(
    make: Callable[..., ExperimentTracker], tmp_path: Path
) -> None:
    """The rest of the row is logged."""

    class Engine:
        def get_global_grad_norm(self) -> float:
            return 1 / 0

    tracker = make()
    tracker.log_training_step(0.5, 0, model=Engine())

    assert tracker.flush(HANG_GUARD_S)
    (row,) = journal_rows(tmp_path, tracker.get_run_id())
    assert row["values"] == {"loss/total": 0.5}
    assert tracker.stats().refused == 1


@pytest.mark.parametrize(
    "step",
    [
        2**70,
        -(2**70),
        2**63,
        2**63 - 1,
    ],
    ids=hex,
)
def test_step_that_nothing_can_hold_costs_its_call_only(
    make: Callable[..., ExperimentTracker], tmp_path: Path, step: int
) -> None:
    """JSON ends at 64 bits, W&B's `_step` at 63, and the row after it needs one more."""
    tracker = make(options=Options(console=False, flush_interval_s=5.0))

    for at in (1, step, 2):
        tracker.log_metrics({"a": 1.0}, at)

    written, stats = values(tracker, tmp_path), tracker.stats()
    assert written == [{"a": 1.0}, {"a": 1.0}]
    assert stats.failed_calls + stats.refused == 1
    assert stats.worker_errors == 0


@pytest.mark.parametrize(
    "bad",
    [
        "0.5",
        None,
        b"1",
        1j,
        [1.0],
        {"a": 1},
        object(),
        torch.zeros(3),
        torch.zeros(1000, 1000),
        torch.zeros(0),
        torch.tensor(1j),
        np.zeros(2),
        np.array(["x"]),
        np.datetime64("2026-01-01"),
        2**70,
    ],
    ids=lambda bad: f"{type(bad).__name__}-{getattr(bad, 'shape', '')}",
)
def test_value_that_is_not_one_number_is_refused_alone(
    make: Callable[..., ExperimentTracker],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    bad: Any,
) -> None:
    """Its neighbours are kept; it is counted each time and said once, by name."""
    tracker = make()

    for step in range(3):
        tracker.log_metrics({"bad": bad, "good": step}, step)
    tracker.log_training_step(0.5, 3, extra={"bad": bad, "good": 3})

    rows = values(tracker, tmp_path)
    said = capsys.readouterr().err
    assert [row["good"] for row in rows] == [0, 1, 2, 3]
    assert not any("bad" in row for row in rows)
    assert rows[3]["loss/total"] == 0.5
    assert tracker.stats().refused == 4
    assert said.count("not logged") == 1
    assert "bad" in said


def test_huge_tensor_is_told_what_to_pass_and_not_held(
    make: Callable[..., ExperimentTracker], capsys: pytest.CaptureFixture[str]
) -> None:
    """A whole weight given for a metric is a mistake with a mend."""
    make().log_metrics({"w": torch.zeros(512, 512)}, 0)

    assert "w: a tensor of shape (512, 512) is not one number; pass a reduction such as" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize("name", [1, None, ("a", "b"), b"a", "caf\udce9"], ids=repr)
@pytest.mark.parametrize("value", [1.0, torch.tensor(1.0)], ids=["float", "tensor"])
def test_metric_name_that_is_no_string_is_refused_alone(
    make: Callable[..., ExperimentTracker],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: Any,
    value: Any,
) -> None:
    """JSON has string keys only; the other metrics of the call stay."""
    tracker = make()

    for step in range(2):
        tracker.log_metrics({name: value, "good": value}, step)

    assert values(tracker, tmp_path) == [{"good": 1.0}, {"good": 1.0}]
    assert tracker.stats().refused == 2
    assert capsys.readouterr().err.count("not logged") == 1


@pytest.mark.parametrize("name", ["step", "_step", "_runtime", "_timestamp", "_wandb"])
def test_name_that_wandb_keeps_for_itself_is_refused_alone(
    make: Callable[..., ExperimentTracker],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    """W&B would take it for its own and misplace the whole row."""
    tracker = make()

    tracker.log_metrics({name: 1, "good": 2}, 0)
    tracker.log_metrics({name: 1}, 1)

    assert values(tracker, tmp_path) == [{"good": 2}]
    assert tracker.stats().refused == 2
    assert capsys.readouterr().err.count(f"{name}: W&B keeps this name for itself") == 1


def test_non_finite_values_are_the_truth(
    make: Callable[..., ExperimentTracker], tmp_path: Path
) -> None:
    """A diverged run must look diverged."""
    tracker = make()

    tracker.log_metrics({"a": math.inf, "b": torch.tensor(-math.inf), "c": math.nan}, 0)

    (row,) = values(tracker, tmp_path)
    assert (row["a"], row["b"], math.isnan(row["c"])) == (math.inf, -math.inf, True)


@pytest.mark.parametrize("metrics", [None, 5, "a", [("a", 1)], {"a"}], ids=repr)
def test_metrics_that_are_no_mapping_are_counted_and_said_once(
    make: Callable[..., ExperimentTracker],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    metrics: Any,
) -> None:
    """The call is ignored, the next one is not."""
    tracker = make()

    tracker.log_metrics(metrics, 0)
    tracker.log_metrics(metrics, 1)
    tracker.log_metrics({"a": 1}, 2)

    assert values(tracker, tmp_path) == [{"a": 1}]
    assert tracker.stats().failed_calls == 2
    assert capsys.readouterr().err.count("the call was ignored") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        {"optimizer": object()},
        {"optimizer": SimpleNamespace(param_groups=[{}])},
        {"optimizer": SimpleNamespace(param_groups=None)},
        {"scaler": object()},
        {"extra": 5},
    ],
    ids=["optimizer", "group", "groups", "scaler", "extra"],
)
def test_broken_object_costs_its_call_only(
    make: Callable[..., ExperimentTracker],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: dict[str, Any],
) -> None:
    """Whatever a user's object raises stays out of training."""
    tracker = make()

    tracker.log_training_step(1.0, 0, **arguments)
    tracker.log_training_step(1.0, 1, **arguments)
    tracker.log_training_step(2.0, 2)

    assert [row["loss/total"] for row in values(tracker, tmp_path)] == [2.0]
    assert tracker.stats().failed_calls == 2
    assert capsys.readouterr().err.count("log_training_step:") == 1


def test_model_that_is_no_module_costs_the_norm_only(
    make: Callable[..., ExperimentTracker], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The loss is logged all the same."""
    tracker = make()

    for step in range(2):
        tracker.log_training_step(1.0, step, model=object())  # type: ignore[arg-type]

    assert [row["loss/total"] for row in values(tracker, tmp_path)] == [1.0, 1.0]
    assert capsys.readouterr().err.count("model must be a torch.nn.Module, not object") == 1


def test_calls_after_finish_are_counted_and_said_once(
    make: Callable[..., ExperimentTracker], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They come too late, and raise nothing."""
    tracker = make()
    tracker.log_metrics({"a": 1}, 0)
    tracker.finish()
    for step in range(3):
        tracker.log_metrics({"a": 2}, step)
        tracker.log_training_step(2.0, step)

    tracker.finish(exit_code=1)

    assert tracker.stats().late_calls == 6
    assert capsys.readouterr().err.count("a log call came after finish()") == 1
    assert len(journal_rows(tmp_path, tracker.get_run_id())) == 1
    assert (tracker.is_active(), tracker.flush()) == (False, True)


@pytest.mark.parametrize("exit_code", [None, "failed", 1.5j], ids=repr)
def test_exit_code_that_is_no_integer_does_not_raise_into_training(
    make: Callable[..., ExperimentTracker], tmp_path: Path, exit_code: Any
) -> None:
    """The segment is closed whatever finish() is told."""
    tracker = make()

    tracker.finish(exit_code)

    (path,) = segments(run_dir(tmp_path, tracker.get_run_id()))
    assert b'"kind":"finish"' in path.read_bytes()


# --- the whole way, with the real delivery process ------------------------------------------------


def test_run_full_of_bad_calls_is_delivered_with_all_its_good_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What reaches W&B is exactly what was good."""
    with make_tracker(options=Options(console=False)) as tracker:
        for step in range(5):
            tracker.log_metrics({"a": step, "b": "text", 3: 1.0, "step": 9}, step)
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
