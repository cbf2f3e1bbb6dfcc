"""Lightning for real: what its Trainer reports, how a run ends, and how it goes on; and Fabric."""

from __future__ import annotations

import json
import math
import os
import runpy
import signal
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from support.journals import read_entries, read_headers, read_rows
from support.late import Late
from support.runs import run_script
from support.snippets import ROOT
from support.trackers import journal_only

from fasttrack import ConfigurationError
from fasttrack.journal.entries import Finish
from fasttrack.journal.run_directory import segments
from fasttrack.testing import memory_tracker

if TYPE_CHECKING:
    from support import tiny_lightning as tiny

    from fasttrack.integrations import lightning
else:
    tiny, lightning = Late("support.tiny_lightning"), Late("fasttrack.integrations.lightning")
pytorch = Late("lightning.pytorch")

pytestmark = [
    pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),  # Lightning's, with torch 2.13
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]


@pytest.fixture(autouse=True)
def _journal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTTRACK_BACKENDS", "none")
    monkeypatch.setenv("WANDB_CONSOLE", "off")


def make_logger(**arguments: Any) -> lightning.FasttrackLogger:
    """Return a logger whose tracker keeps its journal only."""
    return lightning.FasttrackLogger(**{"options": journal_only(), **arguments})


def runs_of(base: Path) -> list[Path]:
    """Return the directories of the runs under `base`."""
    return sorted(path for path in (base / "wandb" / "fasttrack").iterdir() if path.name[0] != ".")


def only_run(base: Path) -> Path:
    """Return the directory of the one run under `base`."""
    (found,) = runs_of(base)
    return found


def exit_codes(run: Path) -> list[int]:
    """Return those of a run's attempts that have ended."""
    return [ending.exit_code for ending in read_entries(run, Finish)]


def steps_of(run: Path, key: str) -> list[int]:
    """Return the steps of the rows that hold a metric."""
    return [row.step for row in read_rows(run, key)]


@pytest.mark.parametrize("given", ["logger", "callback", "both"])
def test_all_that_the_trainer_reports_is_in_one_run_with_its_values(
    tmp_path: Path, given: str
) -> None:
    """Also of a validation and a test after training, each of which Lightning finalizes."""
    logger = make_logger(name="a run", project="points", config={"lr": "small"})
    loggers = [] if given == "callback" else [logger]
    changes = {} if given == "logger" else {"callbacks": [lightning.FasttrackCallback(logger)]}
    trainer = tiny.make_trainer(tmp_path, *loggers, **changes)
    module = tiny.TinyModule(lr=0.2)
    trainer.fit(module, tiny.batches(), tiny.batches())
    trainer.validate(module, tiny.batches())
    trainer.test(module, tiny.batches())
    logger.finish()

    run = only_run(tmp_path)
    assert tiny.recorded(run) == tiny.reported(tmp_path)
    assert len(tiny.recorded(run)) == 6 + 2 + 2 + 1 + 1
    assert "test/loss" in tiny.recorded(run)[-1][1]
    assert (len(segments(run)), exit_codes(run)) == (1, [0])
    assert steps_of(run, "loss/total") == [0, 2, 4, 6, 8, 10]
    (header,) = read_headers(run)
    assert (header.name, header.project, header.config["lr"]) == ("a run", "points", "small")
    assert "hunter2" not in segments(run)[0].read_text()


@pytest.mark.parametrize("accumulated", [1, 4])
def test_each_logged_step_has_its_own_loss_and_throughput(tmp_path: Path, accumulated: int) -> None:
    """Several batches' add up, as Lightning scales them; an epoch's last step may have fewer."""
    logger = make_logger(tokens_fn=lambda batch: 7 * len(batch[0]))
    trainer = tiny.make_trainer(
        tmp_path, logger, log_every_n_steps=1, accumulate_grad_batches=accumulated
    )
    module = tiny.TinyModule()
    trainer.fit(module, tiny.batches())
    logger.finish()

    run = only_run(tmp_path)
    of_step: dict[int, float] = {}
    for step, loss in module.losses:
        of_step[step] = of_step.get(step, 0.0) + loss / accumulated
    losses = {row.step: row.values["loss/total"] for row in read_rows(run, "loss/total")}
    assert losses == pytest.approx(of_step, rel=1e-6)
    assert len(losses) == (12 if accumulated == 1 else 4)
    last = read_rows(run, "perf/samples_per_sec")[-1].values
    samples = tiny.BATCH if accumulated == 1 else 2 * tiny.BATCH
    assert last["perf/samples_per_sec"] == pytest.approx(samples * last["perf/steps_per_sec"])
    assert last["perf/tokens_per_sec"] == pytest.approx(7 * last["perf/samples_per_sec"])


def test_function_that_cannot_count_a_batch_stops_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is said once; the steps go on without tokens."""
    logger = make_logger(tokens_fn=lambda batch: batch["input_ids"].numel())
    trainer = tiny.make_trainer(tmp_path, logger, log_every_n_steps=1)
    trainer.fit(tiny.TinyModule(), tiny.batches())
    logger.finish()

    assert len(read_rows(only_run(tmp_path), "loss/total")) == 12
    assert read_rows(only_run(tmp_path), "perf/tokens_per_sec") == []
    assert capsys.readouterr().err.count("tokens are not counted any more: tokens_fn raised") == 1


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
    """With the reason. A test of the same trainer goes on with the run."""
    logger = make_logger()
    trainer = tiny.make_trainer(tmp_path, logger)
    module = tiny.TinyModule()
    module.at_step, module.instead = 5, error
    with pytest.raises(SystemExit if isinstance(error, KeyboardInterrupt) else type(error)):
        trainer.fit(module, tiny.batches())
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    run, first = only_run(tmp_path), logger.run.tracker
    ended = exit_codes(run)
    trainer.test(module, tiny.batches())
    logger.finish()

    assert ended == [exit_code]
    assert first is not None
    assert first.stats().late_calls == 0
    said = capsys.readouterr().err
    assert f"training ended by {type(error).__name__}" in said
    assert "tiny_lightning.py:" in said
    assert exit_codes(run) == [exit_code, 0]
    assert tiny.recorded(run) == tiny.reported(tmp_path)
    assert steps_of(run, "test/loss") == [5]


def test_a_sigterm_ends_the_run_as_preempted(tmp_path: Path) -> None:
    """Lightning stops training at the end of the step, by an exception that exits with 0."""
    logger = make_logger()
    trainer = tiny.make_trainer(tmp_path, logger)
    module = tiny.TinyModule()
    module.at_step, module.instead = 5, lambda: os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(SystemExit) as stopped:
        trainer.fit(module, tiny.batches())

    assert stopped.value.code is None
    run = only_run(tmp_path)
    (ending,) = read_entries(run, Finish)
    assert (ending.exit_code, ending.preempting) == (143, True)
    assert tiny.recorded(run) == tiny.reported(tmp_path)


@pytest.mark.parametrize("accumulated", [1, 2])
def test_the_first_loss_that_is_no_number_is_told_by_its_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], accumulated: int
) -> None:
    """Exact, though only every fourth step is logged."""
    logger = make_logger()
    trainer = tiny.make_trainer(
        tmp_path, logger, log_every_n_steps=4, accumulate_grad_batches=accumulated
    )
    module = tiny.TinyModule()
    module.at_step, module.instead = 2, math.nan
    trainer.fit(module, tiny.batches())
    logger.finish()

    run = only_run(tmp_path)
    assert tiny.same(tiny.recorded(run), tiny.reported(tmp_path))
    (first,) = read_rows(run, "train/first_nonfinite_step")
    assert (first.step, first.values["train/first_nonfinite_step"]) == (2, 2)
    assert math.isnan(first.values["train/nonfinite_loss"])
    (count,) = read_rows(run, "train/nonfinite_steps")
    assert count.values["train/nonfinite_steps"] == 12 / accumulated - 2
    assert capsys.readouterr().err.count("the loss is nan at step 2") == 1


_KILLED = """
import os, signal, sys, warnings
warnings.simplefilter("ignore")
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from support.tiny_lightning import TinyModule, batches, make_trainer
from fasttrack.integrations import lightning_package
from fasttrack.integrations.lightning import FasttrackCallback

class Killer(Callback):
    def on_train_batch_start(self, trainer, *args):
        if trainer.global_step == 8:
            os.kill(os.getpid(), signal.SIGKILL)

saves = ModelCheckpoint(sys.argv[1], save_last=True, every_n_train_steps=4)
trainer = make_trainer(
    sys.argv[1], callbacks=[Killer(), saves, FasttrackCallback()], enable_checkpointing=True
)
module = TinyModule()
module.at_step, module.instead = 6, float("inf")
trainer.fit(module, batches())
"""


def test_a_killed_run_goes_on_from_its_checkpoint_by_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """SIGKILL in the step after the save: one run, no row lost, none twice; with a logger alone."""
    killed = run_script(_KILLED, str(tmp_path), check=False, warnings="default")
    assert killed.returncode == -9, killed.stderr
    assert "the loss is inf at step 6" in killed.stderr
    logger = make_logger()
    saves = pytorch.callbacks.ModelCheckpoint(tmp_path, save_last=True, every_n_train_steps=4)
    trainer = tiny.make_trainer(tmp_path, logger, callbacks=[saves], enable_checkpointing=True)
    trainer.fit(tiny.TinyModule(), tiny.batches(), ckpt_path=str(tmp_path / "last.ckpt"))
    logger.finish()

    run = only_run(tmp_path)
    assert len(segments(run)) == 2
    assert exit_codes(run) == [0]
    assert tiny.same(tiny.recorded(run), tiny.reported(tmp_path))
    assert steps_of(run, "train/loss_step") == [1, 3, 5, 7, 9, 11]
    assert steps_of(run, "train/first_nonfinite_step") == [6]
    assert "the first that is no finite number" not in capsys.readouterr().err


def test_a_job_that_lightning_has_slurm_requeue_goes_on_with_its_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It saves on SIGUSR1, and finds that checkpoint when it is started again: not a line."""
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "scontrol").write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\n')
    (tools / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    for name, value in {
        "JOB_ID": 17,
        "JOB_NAME": "a",
        "NTASKS": 1,
        "PROCID": 0,
        "LOCALID": 0,
    }.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))

    def end_of_the_job() -> None:
        os.kill(os.getpid(), signal.SIGUSR1)
        raise SystemExit(3)

    for last in (False, True):
        logger = make_logger()
        module = tiny.TinyModule()
        module.at_step, module.instead = (None if last else 8), end_of_the_job
        trainer = tiny.make_trainer(tmp_path, logger)
        if last:
            trainer.fit(module, tiny.batches())
            logger.finish()
        else:
            with pytest.raises(SystemExit):
                trainer.fit(module, tiny.batches())

    run = only_run(tmp_path)
    assert (tmp_path / "asked").read_text() == "requeue 17\n"
    assert (len(segments(run)), exit_codes(run)) == (2, [3, 0])
    assert tiny.recorded(run) == tiny.reported(tmp_path)
    assert steps_of(run, "train/loss_step") == [1, 3, 5, 7, 9, 11]


def test_a_checkpoint_of_a_trainer_without_fasttrack_is_gone_on_from(tmp_path: Path) -> None:
    """In a run of its own; and a Trainer without it goes on from one of ours."""
    make = {
        "enable_checkpointing": True,
        "callbacks": [pytorch.callbacks.ModelCheckpoint(tmp_path, save_last=True)],
    }
    tiny.make_trainer(tmp_path, max_epochs=1, **make).fit(tiny.TinyModule(), tiny.batches())
    logger = make_logger()
    trainer = tiny.make_trainer(tmp_path, logger, **make)
    trainer.fit(tiny.TinyModule(), tiny.batches(), ckpt_path=str(tmp_path / "last.ckpt"))
    logger.finish()
    kept = torch.load(tmp_path / "last.ckpt", weights_only=True)["fasttrack"]
    tiny.make_trainer(tmp_path, max_epochs=3, **make).fit(
        tiny.TinyModule(), tiny.batches(), ckpt_path=str(tmp_path / "last.ckpt")
    )

    run = only_run(tmp_path)
    assert steps_of(run, "train/loss_step") == [7, 9, 11]
    assert kept == {"run_id": run.name, "first_nonfinite_step": None}


@pytest.mark.parametrize("policy", ["0", "1"])
def test_checkpoints_are_uploaded_where_the_policy_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    """Each save is a version, its copy `last.ckpt` none; a tracker of the user's own stays open."""
    monkeypatch.setenv("WANDB_LOG_MODEL", policy)
    saves = pytorch.callbacks.ModelCheckpoint(tmp_path, monitor="val/loss", save_last=True)
    with memory_tracker() as tracker:
        trainer = tiny.make_trainer(
            tmp_path,
            lightning.FasttrackLogger(tracker),
            callbacks=[saves],
            enable_checkpointing=True,
        )
        trainer.fit(tiny.TinyModule(), tiny.batches(), tiny.batches())
        assert tracker.is_active()

    aliases = [sorted(artifact.aliases) for artifact in tracker.artifacts]
    wanted = [["best", "latest", "step6"], ["best", "latest", "step12"]] if policy == "1" else []
    assert aliases == [sorted(one) for one in wanted]


def test_checkpoints_that_are_written_later_are_not_uploaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half of one might be; said once."""
    monkeypatch.setenv("WANDB_LOG_MODEL", "1")
    # All stay: Lightning removes one while its own thread is still about to finish it.
    saves = pytorch.callbacks.ModelCheckpoint(tmp_path / "saved", save_top_k=-1)
    with memory_tracker() as tracker:
        trainer = tiny.make_trainer(
            tmp_path,
            lightning.FasttrackLogger(tracker),
            callbacks=[saves],
            enable_checkpointing=True,
            plugins=[pytorch.plugins.io.AsyncCheckpointIO()],
        )
        trainer.fit(tiny.TinyModule(), tiny.batches())

    assert tracker.artifacts == []
    assert capsys.readouterr().err.count("asynchronously are not uploaded") == 1


def test_another_loggers_run_ends_the_one_before_which_goes_on_when_it_is_used(
    tmp_path: Path,
) -> None:
    """Folds of a cross-validation: one worker and one delivery process at a time."""
    first, second = make_logger(name="1"), make_logger(name="2")
    trainer = tiny.make_trainer(tmp_path / "1", first, max_epochs=1)
    trainer.fit(tiny.TinyModule(), tiny.batches())
    tiny.make_trainer(tmp_path / "2", second, max_epochs=1).fit(tiny.TinyModule(), tiny.batches())
    by_name = {read_headers(run)[0].name: run for run in runs_of(tmp_path)}
    ended = exit_codes(by_name["1"])
    trainer.test(tiny.TinyModule(), tiny.batches())
    first.finish()
    second.finish()

    assert ended == [0]
    assert len(segments(by_name["1"])) == 2
    assert tiny.recorded(by_name["1"]) == tiny.reported(tmp_path / "1")
    assert tiny.recorded(by_name["2"]) == tiny.reported(tmp_path / "2")


_ON_DEVICE = """
import json, sys, warnings
warnings.simplefilter("ignore")
import torch
from support import toy_streams as toy
kept = toy.install()
from lightning.pytorch.callbacks import Callback
from support.tiny_lightning import TinyModule, batches, make_trainer
from fasttrack import Options
from fasttrack.integrations import lightning_package
from fasttrack.integrations.lightning import FasttrackCallback

empty = torch.empty
torch.empty = lambda *args, pin_memory=False, **more: empty(*args, **more)

class OnDevice(Callback):  # what a step returns on an accelerator
    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        outputs["loss"] = outputs["loss"].to("toy")
        toy.Queue.standing = True  # from here on, whoever waits gets an exception

    def on_train_end(self, *args):
        toy.Queue.run()

class Off(Callback):  # the rest of the step is the host's
    def on_train_batch_end(self, *args):
        toy.Queue.run()

ours = FasttrackCallback(options=Options(backends=("none",), console=False))
trainer = make_trainer(sys.argv[1], callbacks=[OnDevice(), ours, Off()], log_every_n_steps=1)
module = TinyModule()
module.at_step, module.instead = 5, float("nan")
trainer.fit(module, batches())
ours.logger.finish()
print(json.dumps([loss for _, loss in module.losses]))
"""


def test_a_loss_on_a_device_is_not_waited_for(tmp_path: Path) -> None:
    """Whoever waits while the simulated device stands gets an exception; the values are right."""
    result = run_script(_ON_DEVICE, str(tmp_path), warnings="default")

    run = only_run(tmp_path)
    told = json.loads(result.stdout.splitlines()[-1])
    losses = [row.values["loss/total"] for row in read_rows(run, "loss/total")]
    assert losses == pytest.approx(told, nan_ok=True)
    assert steps_of(run, "train/first_nonfinite_step") == [5]


_RANKS = """
import sys, warnings
warnings.simplefilter("ignore")
import pytorch_lightning
from support.tiny_lightning import TinyModule, batches, make_trainer
from fasttrack.integrations import lightning_package
from fasttrack.integrations.lightning import FasttrackCallback
assert "lightning.pytorch" not in sys.modules

callbacks = FasttrackCallback()  # no list: it is one of this package's own
trainer = make_trainer(sys.argv[1], callbacks=callbacks, devices=2, strategy="ddp", max_epochs=1)
trainer.fit(TinyModule(), batches())
assert trainer.world_size == 2
callbacks.logger.finish()
"""


def test_only_the_first_of_several_ranks_records_in_the_other_package_too(
    tmp_path: Path,
) -> None:
    """Two for real, over gloo, by `pytorch_lightning`; samples are counted over both."""
    script = tmp_path / "script.py"
    script.write_text(_RANKS)
    run_script(
        "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0])",
        str(script),
        str(tmp_path),
        warnings="default",
    )

    run = only_run(tmp_path)
    assert len(segments(run)) == 1
    assert tiny.recorded(run) == tiny.reported(tmp_path)
    assert steps_of(run, "loss/total") == [0, 2]
    last = read_rows(run, "perf/steps_per_sec")[-1].values
    assert last["perf/samples_per_sec"] == pytest.approx(
        2 * tiny.BATCH * last["perf/steps_per_sec"]
    )


def test_what_fabric_logs_is_in_the_run(tmp_path: Path) -> None:
    """Without a step each call is one more; a tensor may be given to the logger as it is."""
    logger = make_logger()
    fabric = Late("lightning.fabric").Fabric(accelerator="cpu", devices=1, loggers=logger)
    fabric.launch()
    model = torch.nn.Linear(4, 2)
    model, optimizer = fabric.setup(model, torch.optim.SGD(model.parameters(), lr=0.1))
    told = []
    for points, nearer in tiny.batches():
        loss = torch.nn.functional.cross_entropy(model(points), nearer)
        fabric.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        fabric.log_dict({"loss": loss})
        told.append(loss.item())
    logger.log_metrics({"loss": loss}, 20)
    fabric.log("more", 1.5)
    logger.finish()
    fabric.log("more", 2.5)
    logger.finalize("success")
    logger.finish()

    run = only_run(tmp_path)
    losses = [(row.step, row.values["loss"]) for row in read_rows(run, "loss")]
    assert losses == [*enumerate(told), (20, told[-1])]
    assert steps_of(run, "more") == [21, 22]
    assert exit_codes(run) == [0, 0]


def test_a_trial_of_the_code_records_nothing(tmp_path: Path) -> None:
    """`fast_dev_run` has no loggers."""
    logger = make_logger()
    for given in ({"callbacks": [lightning.FasttrackCallback(logger)]}, {"logger": [logger]}):
        trainer = tiny.make_trainer(tmp_path, fast_dev_run=True, **given)
        trainer.fit(tiny.TinyModule(), tiny.batches())

    assert logger.run.tracker is None
    assert not (tmp_path / "wandb").exists()


def test_checkpoints_of_runs_have_folders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the Trainer is not told: by the time, or by the Slurm job, which may be requeued."""
    logger = make_logger(project="points")
    trainer = tiny.make_trainer(tmp_path, logger, enable_checkpointing=True, max_epochs=1)
    trainer.fit(tiny.TinyModule(), tiny.batches())
    logger.finish()
    monkeypatch.setenv("SLURM_JOB_ID", "17")

    wanted = tmp_path / "points" / str(logger.version) / "checkpoints"
    assert Path(trainer.checkpoint_callback.dirpath).resolve() == wanted.resolve()
    assert make_logger().version == 17


def test_the_environment_can_ask_for_the_callback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the entry point of the package; beside a script's own it stands back."""
    table = (ROOT / "pyproject.toml").read_text()
    wanted = 'fasttrack = "fasttrack.integrations.lightning_factory:callbacks"'
    groups = ("lightning.pytorch.callbacks_factory", "pytorch_lightning.callbacks_factory")
    assert all(f'[project.entry-points."{group}"]\n{wanted}' in table for group in groups)
    point = EntryPoint("fasttrack", wanted.split('"')[1], groups[0])
    monkeypatch.setattr("lightning.fabric.utilities.registry.entry_points", lambda group: [point])
    unasked = tiny.make_trainer(tmp_path)
    monkeypatch.setenv("FASTTRACK_LIGHTNING", "1")
    for script in ((), (lightning.FasttrackCallback(name="the script's"),)):
        trainer = tiny.make_trainer(tmp_path, max_epochs=1, callbacks=[*script])
        trainer.fit(tiny.TinyModule(), tiny.batches())
        ours = [one for one in trainer.callbacks if isinstance(one, lightning.FasttrackCallback)]
        ours[0].logger.finish()
        assert len(ours) == 1 + len(script)

    assert not any(isinstance(one, lightning.FasttrackCallback) for one in unasked.callbacks)
    assert len(runs_of(tmp_path)) == 2
    for run in runs_of(tmp_path):
        assert steps_of(run, "loss/total") == [0, 2, 4]
        assert len(tiny.recorded(run)) == 4
    monkeypatch.setenv("FASTTRACK_LIGHTNING", "0")
    assert Late("fasttrack.integrations.lightning_factory").callbacks() == []


def test_wrong_arguments_are_refused_when_the_logger_is_made() -> None:
    """Not after an hour of loading."""
    with pytest.raises(ConfigurationError, match="mode"):
        lightning.FasttrackLogger(mode="of course")
    with pytest.raises(ConfigurationError, match="tokens_fn must be a function of a batch, not"):
        lightning.FasttrackCallback(tokens_fn=128)
    with pytest.raises(TypeError, match="projekt"):
        lightning.FasttrackCallback(projekt="digits")


def test_hyperparameters_that_cannot_be_read_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    """Training goes on."""

    class Odd:
        def to_dict(self) -> dict[str, Any]:
            raise ValueError("no")

    make_logger().log_hyperparams(Odd())  # type: ignore[arg-type]

    assert "hyperparameters are not in the run's configuration: no" in capsys.readouterr().err


def test_a_version_that_lacks_a_hook_is_used_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line says what is missing."""
    logger = make_logger()
    trainer = tiny.make_trainer(tmp_path, logger, max_epochs=1)
    monkeypatch.setattr("fasttrack.integrations.lightning.hasattr", lambda *_: False, raising=False)
    trainer.fit(tiny.TinyModule(), tiny.batches())
    logger.finish()

    assert "does not say which batches are a step" in capsys.readouterr().err
    assert steps_of(only_run(tmp_path), "loss/total") == [2, 4, 6]


def test_a_missing_framework_is_named_with_what_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The extra's name."""
    for name in ("lightning.pytorch", "pytorch_lightning"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"pip install 'fasttrack\[lightning\]'"):
        runpy.run_path(str(ROOT / "fasttrack" / "integrations" / "lightning_package.py"))
