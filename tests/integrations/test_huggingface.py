"""Hugging Face's Trainer for real: what it reports, how it ends, and how it goes on."""

from __future__ import annotations

import importlib
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.journals import read_entries, read_headers, read_rows
from support.late import Late
from support.ranks import run_ranks
from support.runs import run_script
from support.trackers import journal_only

from fasttrack import ConfigurationError
from fasttrack.journal.entries import Finish
from fasttrack.journal.run_directory import segments
from fasttrack.testing import memory_tracker

if TYPE_CHECKING:
    from support import tiny_trainer as tiny

    from fasttrack.integrations import huggingface
else:
    tiny, huggingface = Late("support.tiny_trainer"), Late("fasttrack.integrations.huggingface")


@pytest.fixture(autouse=True)
def _journal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTTRACK_BACKENDS", "none")
    monkeypatch.setenv("WANDB_CONSOLE", "off")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    importlib.import_module("fasttrack.integrations.huggingface")  # makes `report_to`'s name known


def callback(**arguments: Any) -> huggingface.FasttrackCallback:
    """Return a callback whose tracker keeps its journal only."""
    return huggingface.FasttrackCallback(**{"options": journal_only(), **arguments})


def callback_of(trainer: Any) -> huggingface.FasttrackCallback:
    """Return the trainer's callback."""
    (found,) = (
        c
        for c in trainer.callback_handler.callbacks
        if isinstance(c, huggingface.FasttrackCallback)
    )
    return found


def end(trainer: Any) -> None:
    """End the trainer's run, as the program's end does."""
    callback_of(trainer)._end()


def only_run(base: Path) -> Path:
    """Return the directory of the one run under `base`."""
    (found,) = tiny.runs_of(base)
    return found


def test_all_that_the_trainer_reports_is_in_the_run_with_its_values(tmp_path: Path) -> None:
    """Losses, evaluations, tokens, and the summary; also of an evaluation after training."""
    trainer = tiny.make_trainer(
        tmp_path / "out",
        report_to="fasttrack",
        eval_strategy="steps",
        eval_steps=4,
        include_num_input_tokens_seen="all",
    )
    trainer.train()
    trainer.evaluate()
    trainer.predict(trainer.eval_dataset)
    end(trainer)

    run = only_run(tmp_path)
    history = tiny.reported(trainer.state.log_history)
    assert len(history) == 6 + 3 + 1 + 1
    assert tiny.recorded(run) == history
    assert read_entries(run, Finish)[-1].exit_code == 0
    assert any("test/loss" in row.values for row in read_rows(run))
    assert {"train/num_input_tokens_seen", "train/train_tokens_per_second"} <= history[0][1].keys()


def test_each_logged_step_has_its_own_loss_and_throughput(tmp_path: Path) -> None:
    """Where every step is logged, the Trainer's average is the step's loss."""
    trainer = tiny.make_trainer(tmp_path / "out", callback(), logging_steps=1)
    trainer.train()
    end(trainer)

    run = only_run(tmp_path)
    losses = {row.step: row.values["loss/total"] for row in read_rows(run, "loss/total")}
    assert losses == {e["step"]: e["loss"] for e in trainer.state.log_history if "loss" in e}
    last = read_rows(run, "perf/steps_per_sec")[-1].values
    assert last["perf/samples_per_sec"] == pytest.approx(tiny.BATCH * last["perf/steps_per_sec"])


def test_accumulated_batches_are_one_step_and_their_losses_add_up(tmp_path: Path) -> None:
    """What the Trainer reports is their sum, too; it has scaled them."""
    trainer = tiny.make_trainer(
        tmp_path / "out", callback(), logging_steps=1, max_steps=4, gradient_accumulation_steps=3
    )
    trainer.train()
    end(trainer)

    run = only_run(tmp_path)
    losses = {row.step: row.values["loss/total"] for row in read_rows(run, "loss/total")}
    told = {e["step"]: e["loss"] for e in trainer.state.log_history if "loss" in e}
    assert losses == pytest.approx(told, rel=1e-6)
    last = read_rows(run, "perf/steps_per_sec")[-1].values
    assert last["perf/samples_per_sec"] == pytest.approx(
        3 * tiny.BATCH * last["perf/steps_per_sec"]
    )


def test_tokens_are_those_that_the_trainer_counts(tmp_path: Path) -> None:
    """Of all micro-batches of a step; of a training that goes on, only those that it trains on."""
    changes: dict[str, Any] = {
        "logging_steps": 1,
        "gradient_accumulation_steps": 3,
        "include_num_input_tokens_seen": "all",
    }
    options = journal_only(flops_per_token=1000, peak_flops=1e9)
    trainer = tiny.make_trainer(tmp_path / "out", callback(options=options), max_steps=6, **changes)
    trainer.train()
    end(trainer)
    again = tiny.make_trainer(tmp_path / "out", callback(options=options), max_steps=9, **changes)
    again.train(resume_from_checkpoint=True)
    end(again)

    rows = read_rows(only_run(tmp_path), "perf/tokens_per_sec")
    assert [row.step for row in rows] == [2, 3, 4, 5, 6, 8, 9]  # the first of each is not timed
    for values in (row.values for row in rows):
        tokens = values["perf/tokens_per_sec"] / values["perf/steps_per_sec"]
        assert tokens == pytest.approx(3 * tiny.BATCH * tiny.LENGTH)
        assert values["perf/mfu"] == pytest.approx(values["perf/tokens_per_sec"] * 1000 / 1e9 * 100)


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [(ValueError("no more data"), 1), (KeyboardInterrupt(), 130), (SystemExit(3), 3)],
    ids=["exception", "interrupt", "exit"],
)
def test_training_that_raises_has_ended_its_run_as_failed_when_it_has_raised(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    exit_code: int,
) -> None:
    """The Trainer calls no event for it. The reason stands in the run's console log."""
    trainer = tiny.make_trainer(tmp_path / "out", report_to="fasttrack")
    trainer.at_step, trainer.instead = 5, error
    with pytest.raises(type(error)) as raised:
        trainer.train()
    run = only_run(tmp_path)
    (ending,) = read_entries(run, Finish)

    assert raised.value is error
    assert ending.exit_code == exit_code
    assert [row.step for row in recorded_losses(run)] == [2, 4]
    said = capsys.readouterr().err
    assert f"training ended by {type(error).__name__}" in said
    assert "tiny_trainer.py:" in said


def recorded_losses(run: Path) -> list[Any]:
    """Return the rows with the Trainer's own loss."""
    return read_rows(run, "train/loss")


def test_a_run_that_failed_goes_on_when_its_trainer_does(tmp_path: Path) -> None:
    """Ctrl-C in a notebook, then an evaluation: one run, two attempts."""
    trainer = tiny.make_trainer(tmp_path / "out", callback())
    trainer.at_step, trainer.instead = 5, KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    metrics = trainer.evaluate()
    end(trainer)

    run = only_run(tmp_path)
    assert [ending.exit_code for ending in read_entries(run, Finish)] == [130, 0]
    assert read_rows(run, "eval/loss")[-1].values["eval/loss"] == metrics["eval_loss"]


@pytest.mark.parametrize("filtered", [True, False], ids=["filtered", "as it is"])
@pytest.mark.parametrize("accumulated", [1, 2])
def test_the_first_loss_that_is_no_number_is_told_by_its_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], filtered: bool, accumulated: int
) -> None:
    """Of the filtered ones the Trainer reports zeros; its own words are kept, and the truth."""
    trainer = tiny.make_trainer(
        tmp_path / "out",
        callback(),
        logging_steps=4,
        logging_nan_inf_filter=filtered,
        gradient_accumulation_steps=accumulated,
        max_steps=12,
    )
    trainer.at_step, trainer.instead = 6, math.nan
    trainer.train()
    end(trainer)

    run = only_run(tmp_path)
    assert str(tiny.recorded(run)) == str(tiny.reported(trainer.state.log_history))
    if filtered:
        assert [entry["loss"] for entry in trainer.state.log_history[:3]][-1] == 0.0
    (first,) = read_rows(run, "train/first_nonfinite_step")
    assert (first.step, first.values["train/first_nonfinite_step"]) == (6, 6)
    assert math.isnan(first.values["train/nonfinite_loss"])
    (count,) = read_rows(run, "train/nonfinite_steps")
    assert count.values["train/nonfinite_steps"] == 7  # all weights are NaN from then on
    assert capsys.readouterr().err.count("the loss is nan at step 6") == 1


_KILLED = """
import os, signal, sys
from transformers import TrainerCallback
from support.tiny_trainer import make_trainer

class Killer(TrainerCallback):
    def on_save(self, args, state, control, **kwargs):
        os.kill(os.getpid(), signal.SIGKILL)

import fasttrack.integrations.huggingface
make_trainer(
    sys.argv[1], Killer(), report_to="fasttrack", eval_strategy="steps", eval_steps=3
).train()
"""


def test_a_killed_run_goes_on_from_its_checkpoint_by_itself(tmp_path: Path) -> None:
    """SIGKILL right after the save: one run, no row lost, none twice."""
    killed = run_script(_KILLED, str(tmp_path / "out"), check=False)
    assert killed.returncode == -9, killed.stderr
    trainer = tiny.make_trainer(
        tmp_path / "out", report_to="fasttrack", eval_strategy="steps", eval_steps=3
    )
    trainer.train(resume_from_checkpoint=True)
    end(trainer)

    run = only_run(tmp_path)
    assert len(segments(run)) == 2
    assert tiny.recorded(run) == tiny.reported(trainer.state.log_history)
    assert [row.step for row in recorded_losses(run)] == [2, 4, 6, 8, 10, 12]


def test_a_run_goes_on_also_where_the_trainer_makes_its_callbacks_anew(tmp_path: Path) -> None:
    """What the user has given the callback is not in the checkpoint, and holds all the same."""
    make = {"restore_callback_states_from_checkpoint": True, "max_steps": 6}
    first = tiny.make_trainer(tmp_path / "out", callback(name="first"), **make)
    first.train()
    end(first)
    given = callback(name="second")
    second = tiny.make_trainer(tmp_path / "out", given, **{**make, "max_steps": 12})
    second.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-6"))
    end(second)

    assert callback_of(second) is not given
    run = only_run(tmp_path)
    assert [header.name for header in read_headers(run)] == ["first", "second"]
    assert [row.step for row in recorded_losses(run)] == [2, 4, 6, 8, 10, 12]


def test_a_checkpoint_of_a_trainer_without_the_callback_is_gone_on_from(tmp_path: Path) -> None:
    """Trainer itself fails when it saves then: it looks the callback up in the old state."""
    tiny.make_trainer(tmp_path / "out", max_steps=6).train()
    trainer = tiny.make_trainer(tmp_path / "out", callback())
    trainer.train(resume_from_checkpoint=True)
    end(trainer)

    saved = json.loads((tmp_path / "out" / "checkpoint-12" / "trainer_state.json").read_text())
    kept = saved["stateful_callbacks"]["FasttrackCallback"]["attributes"]
    assert kept["run_id"] == only_run(tmp_path).name
    assert [row.step for row in recorded_losses(only_run(tmp_path))] == [8, 10, 12]


def test_a_first_number_that_is_none_is_told_once_over_all_attempts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The checkpoint knows of it."""
    first = tiny.make_trainer(tmp_path / "out", callback(), max_steps=6)
    first.at_step, first.instead = 3, math.inf
    first.train()
    end(first)
    second = tiny.make_trainer(tmp_path / "out", callback())
    second.train(resume_from_checkpoint=True)
    end(second)

    run = only_run(tmp_path)
    assert [row.step for row in read_rows(run, "train/first_nonfinite_step")] == [3]
    assert capsys.readouterr().err.count("the first that is no finite number") == 1


@pytest.mark.parametrize("policy", ["0", "1"])
def test_checkpoints_are_uploaded_where_the_policy_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    """Each save is a version; a tracker of the user's own stays open."""
    monkeypatch.setenv("WANDB_LOG_MODEL", policy)
    with memory_tracker() as tracker:
        trainer = tiny.make_trainer(
            tmp_path / "out",
            huggingface.FasttrackCallback(tracker),
            eval_strategy="steps",
            eval_steps=6,
            load_best_model_at_end=True,
        )
        trainer.train()
        assert tracker.is_active()

    aliases = [sorted(artifact.aliases) for artifact in tracker.artifacts]
    wanted = [["best", "latest", "step6"], ["best", "latest", "step12"]] if policy == "1" else []
    assert aliases == [sorted(one) for one in wanted]


def test_the_configuration_is_the_trainers_and_the_models_without_secrets(tmp_path: Path) -> None:
    """As `log_config` redacts; what the user adds wins."""
    given = callback(
        name="a run", project="digits", config={"api_key": "hunter2", "n_embd": "small"}
    )
    trainer = tiny.make_trainer(tmp_path / "out", given, max_steps=1, hub_token="hf_" + "a1B2" * 9)
    trainer.train()
    end(trainer)

    (header,) = read_headers(only_run(tmp_path))
    config = header.config
    assert (header.name, header.project) == ("a run", "digits")
    assert (config["learning_rate"], config["n_layer"], config["n_embd"]) == (1e-2, 1, "small")
    assert config["model/num_parameters"] == sum(p.numel() for p in trainer.model.parameters())
    assert config["eos_token_id"] == 0
    written = segments(only_run(tmp_path))[0].read_text()
    assert "hunter2" not in written
    assert "a1B2" not in written


def test_project_and_name_are_the_trainers_where_none_are_given(tmp_path: Path) -> None:
    """And steps are logged as often as the Trainer does."""
    trainer = tiny.make_trainer(
        tmp_path / "out", report_to="fasttrack", run_name="lego", project="vla", logging_steps=3
    )
    trainer.train()
    end(trainer)

    (header,) = read_headers(only_run(tmp_path))
    assert (header.name, header.project) == ("lego", "vla")
    assert [row.step for row in read_rows(only_run(tmp_path), "loss/total")] == [3, 6, 9, 12]


def test_another_trainers_run_ends_the_one_before_which_goes_on_when_it_is_used(
    tmp_path: Path,
) -> None:
    """Folds of a cross-validation: one worker and one delivery process at a time."""
    first = tiny.make_trainer(tmp_path / "1", callback(name="1"), max_steps=2)
    first.train()
    second = tiny.make_trainer(tmp_path / "2", callback(name="2"), max_steps=2)
    second.train()
    by_name = {read_headers(run)[0].name: run for run in tiny.runs_of(tmp_path)}
    ended = read_entries(by_name["1"], Finish)
    first.evaluate()
    end(first)
    end(second)

    assert [ending.exit_code for ending in ended] == [0]
    assert len(segments(by_name["1"])) == 2
    assert len(read_rows(by_name["1"], "eval/loss")) == 1
    assert read_rows(by_name["2"], "eval/loss") == []


def test_wrong_arguments_are_refused_when_the_callback_is_made() -> None:
    """Not after an hour of loading."""
    with pytest.raises(ConfigurationError, match="mode"):
        huggingface.FasttrackCallback(mode="of course")
    with pytest.raises(TypeError, match="projekt"):
        huggingface.FasttrackCallback(projekt="digits")


_RANKS = """
import os, sys
from support.tiny_trainer import make_trainer
import torch.distributed as dist
import fasttrack.integrations.huggingface

trainer = make_trainer(sys.argv[1], report_to="fasttrack", max_steps=4)
trainer.train()
assert trainer.args.world_size == 2
dist.destroy_process_group()
"""


def test_only_the_first_of_several_ranks_records(tmp_path: Path) -> None:
    """Two for real, over gloo; samples are counted over both."""
    run_ranks(2, _RANKS, tmp_path / "out", directory=tmp_path)

    run = only_run(tmp_path)
    assert len(segments(run)) == 1
    assert [row.step for row in recorded_losses(run)] == [2, 4]
    last = read_rows(run, "perf/steps_per_sec")[-1].values
    assert last["perf/samples_per_sec"] == pytest.approx(
        2 * tiny.BATCH * last["perf/steps_per_sec"]
    )


def test_importing_the_package_imports_no_framework() -> None:
    """The adapter is imported by name."""
    run_script(
        "import sys, fasttrack; fasttrack.ExperimentTracker\n"
        "assert not {'transformers', 'accelerate'} & set(sys.modules)"
    )
    assert "transformers" in sys.modules


def test_each_trial_of_a_search_is_a_run(tmp_path: Path) -> None:
    """Under the trial's name, in the group of the search."""
    trainer = tiny.make_trainer(tmp_path / "out", callback(), max_steps=2, run_name="search")
    trainer.hp_name = lambda trial: f"lr {trial['learning_rate']}"
    for rate in (0.1, 0.2):
        trainer.train(trial={"learning_rate": rate})
    end(trainer)

    found = {read_headers(run)[0].name: run for run in tiny.runs_of(tmp_path)}
    assert sorted(map(str, found)) == ["lr 0.1", "lr 0.2"]
    for run in found.values():
        assert read_headers(run)[0].group == "search"
        assert [row.step for row in recorded_losses(run)] == [2]
        assert [ending.exit_code for ending in read_entries(run, Finish)] == [0]


def test_a_version_that_lacks_a_hook_is_used_without_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line says what is missing, and what to do instead."""
    name = "transformers.integrations.integration_utils.INTEGRATION_TO_CALLBACK"
    monkeypatch.delattr(name)
    huggingface._make_known()

    assert "pass callbacks=[FasttrackCallback()]" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("module", "package"),
    [
        ("huggingface", "transformers"),
        ("accelerate", "accelerate"),
        ("deepspeed", "deepspeed"),
        ("keras", "keras"),
        ("torchtitan", "torchtitan"),
    ],
)
def test_a_missing_framework_is_named_with_what_installs_it(
    monkeypatch: pytest.MonkeyPatch, module: str, package: str
) -> None:
    """The extra's name."""
    for name in [name for name in sys.modules if name.startswith(f"{package}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"fasttrack.integrations.{module}", raising=False)
    with pytest.raises(ImportError, match=rf"pip install 'fasttrack\[{module}\]'"):
        importlib.import_module(f"fasttrack.integrations.{module}")


def test_a_disabled_attempt_leaves_the_run_alone_and_hands_its_id_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one goes on with it."""
    first = tiny.make_trainer(tmp_path / "out", callback(), max_steps=6, save_steps=3)
    first.train()
    end(first)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    second = tiny.make_trainer(tmp_path / "out", callback(), max_steps=9, save_steps=3)
    second.train(resume_from_checkpoint=True)
    end(second)
    monkeypatch.delenv("WANDB_MODE")
    third = tiny.make_trainer(tmp_path / "out", callback(), max_steps=12, save_steps=3)
    third.train(resume_from_checkpoint=True)
    end(third)

    assert [row.step for row in recorded_losses(only_run(tmp_path))] == [2, 4, 6, 10, 12]
