"""DeepSpeed's own monitor for real: its events in the run, beside its other monitors' files."""

from __future__ import annotations

import csv
import json
import math
from importlib.util import find_spec
from pathlib import Path
from subprocess import CompletedProcess
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.journals import read_entries, read_headers, read_rows
from support.runs import run_script
from support.slurm_cluster import free_ports

from fasttrack import ExperimentTracker
from fasttrack.journal.entries import Finish
from fasttrack.testing import memory_tracker

pytestmark = [
    pytest.mark.deepspeed,
    pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is not installed"),
]

# Trains in fp16 with a loss scale that is too large at first, saves after four steps, and is killed
# there; the second time it goes on from there, to the seventh step, and raises. Before that it
# trains with a pipeline engine, of one stage, and tells what arrived.
_SCRIPT = """
import json, os, signal, sys
import deepspeed, deepspeed.ops
import torch
from deepspeed.accelerator import get_accelerator
from deepspeed.pipe import PipelineModule
from support.runs import make_tracker
from support.trackers import journal_only
from fasttrack.integrations.deepspeed import log_monitor
from fasttrack.testing import memory_tracker


def settings(job_name, **more):
    return {
        "train_micro_batch_size_per_gpu": 4,
        "optimizer": {"type": "AdamW", "params": {"lr": 0.01, "torch_adam": True}},
        "csv_monitor": {"enabled": True, "output_path": "csv", "job_name": job_name},
        **more,
    }


def points():
    while True:
        x = torch.randn(4, 8)
        yield x, x.sum(1, keepdim=True)


def train_a_pipeline():
    layers = [torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1)]
    model = PipelineModule(layers, num_stages=1, loss_fn=torch.nn.functional.mse_loss)
    engine, *_ = deepspeed.initialize(
        model=model, model_parameters=list(model.parameters()), config=settings("pipeline")
    )
    with memory_tracker() as tracker:
        log_monitor(engine, tracker)
        for _ in range(3):
            engine.train_batch(points())
        engine.eval_batch(points())
    print(json.dumps([row.values for row in tracker.rows]))


how = sys.argv[1]
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # would be compiled
get_accelerator().is_fp16_supported = lambda: True  # not every CPU has instructions for it
deepspeed.init_distributed(dist_backend="gloo")
torch.manual_seed(0)
if how == "resumed":
    train_a_pipeline()
model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
engine, optimizer, _, _ = deepspeed.initialize(
    model=model,
    model_parameters=model.parameters(),
    config=settings(
        how,
        scheduler={
            "type": "WarmupLR", "params": {"warmup_max_lr": 0.01, "warmup_num_steps": 9}
        },
        fp16={"enabled": True, "initial_scale_power": 18, "hysteresis": 1},
        zero_optimization={"stage": 1},
        wall_clock_breakdown=True,
    ),
)
path, client_state = engine.load_checkpoint("checkpoints")
resume_id = client_state["wandb_run_id"] if path is not None else None
with make_tracker(resume_id=resume_id, options=journal_only()) as tracker:
    log_monitor(engine, tracker)
    assert engine.monitor.csv_monitor.enabled
    while engine.global_steps < 7:
        torch.manual_seed(engine.global_steps)
        loss = engine(torch.randn(4, 8).half()).float().square().mean()
        engine.backward(loss)
        engine.step()
        told = loss.detach() * (float("nan") if engine.global_steps == 3 else 1)
        engine.monitor.write_events([("Eval/loss", told, engine.global_steps)])
        tracker.log_training_step(loss, engine.global_steps, 4, optimizer, engine)
        if engine.global_steps == 4 and how == "killed":
            tracker.flush()
            engine.save_checkpoint(
                "checkpoints", client_state={"wandb_run_id": tracker.get_run_id()}
            )
            os.kill(os.getpid(), signal.SIGKILL)
    raise ValueError("no more data")
"""


def train(how: str, monkeypatch: pytest.MonkeyPatch) -> CompletedProcess[str]:
    """Run the script as the one rank of a world."""
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    for name, value in {**alone, "MASTER_PORT": str(free_ports(1)[0])}.items():
        monkeypatch.setenv(name, value)
    return run_script(_SCRIPT, how, check=False, warnings="default")


def told_to_csv(directory: Path) -> dict[str, list[tuple[int, str]]]:
    """Return what DeepSpeed's own csv monitor was told: by event, (x, value)."""
    found = {}
    for path in directory.glob("*.csv"):
        _, *lines = csv.reader(path.read_text().splitlines())
        found[path.stem] = [(int(x), value) for x, value in lines]
    return found


def told_to_us(rows: list[dict[str, float]]) -> dict[str, list[tuple[int, float]]]:
    """Return the same of a run's rows."""
    found: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        for name, value in row.items():
            if name.startswith(("Train/", "Eval/")) and not name.endswith("/x"):
                x = row.get(f"{name}/x", row.get("train/samples"))
                assert x is not None
                found.setdefault(name.replace("/", "_"), []).append((int(x), value))
    return found


def test_events_are_in_the_run_as_in_deepspeeds_own_files_through_kill_and_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after a save, and resumed: one run, nothing lost, nothing twice; then it raises."""
    killed = train("killed", monkeypatch)
    assert killed.returncode == -9, killed.stderr
    (run,) = (tmp_path / "wandb" / "fasttrack").glob("[!.]*")
    before = read_rows(run)
    resumed = train("resumed", monkeypatch)
    assert resumed.returncode == 1, resumed.stderr
    assert "no more data" in resumed.stderr

    rows = read_rows(run)
    assert len(read_headers(run)) == 2
    assert [ending.exit_code for ending in read_entries(run, Finish)] == [1]
    for how, part in (("killed", before), ("resumed", rows[len(before) :])):
        theirs, ours = told_to_csv(tmp_path / "csv" / how), told_to_us([row.values for row in part])
        assert theirs.keys() == ours.keys()
        assert {"Train_Samples_lr", "Train_Samples_loss_scale"} < theirs.keys()
        for name, events in theirs.items():
            if name != "Eval_loss":  # a tensor, which csv shows in four digits
                assert ours[name] == [(x, float(value)) for x, value in events], name
    assert [row.step for row in rows if "Train/Samples/lr" in row.values] == [1, 2, 3, 4, 5, 6, 7]
    assert [row.values["train/samples"] for row in rows if "Train/Samples/lr" in row.values] == [
        4 * step for step in range(1, 8)
    ]
    losses = {row.step: row.values["loss/total"] for row in rows if "loss/total" in row.values}
    told = {row.step: row.values["Eval/loss"] for row in rows if "Eval/loss" in row.values}
    assert math.isnan(told.pop(3))
    assert told == {step: loss for step, loss in losses.items() if step != 3}

    (pipeline,) = [line for line in resumed.stdout.splitlines() if line.startswith('[{"Train')]
    ours = told_to_us(json.loads(pipeline))
    theirs = told_to_csv(tmp_path / "csv" / "pipeline")
    assert {"Train_Samples_train_loss", "Train_Samples_eval_loss"} < theirs.keys() == ours.keys()
    for name, events in theirs.items():
        assert ours[name] == [(x, float(value)) for x, value in events], name


def log_monitor(engine: Any, tracker: ExperimentTracker) -> None:
    """Do what the adapter does, and import DeepSpeed only now."""
    from fasttrack.integrations import deepspeed

    deepspeed.log_monitor(engine, tracker)


@pytest.fixture
def engine() -> Any:
    """An engine with a step and 32 samples behind it, and a list of what others were told."""
    made = type("Engine", (), {})()
    made.global_steps, made.global_samples, made.written = 1, 32, []
    made.monitor = SimpleNamespace(
        enabled=True, monitor_config=None, tb_monitor="theirs", write_events=made.written.extend
    )
    return made


def test_an_x_that_is_not_samples_is_kept_beside_its_value(engine: Any) -> None:
    """Also of a name that is told twice at once; a tensor is no number yet."""
    with memory_tracker() as tracker:
        log_monitor(engine, tracker)
        engine.monitor.write_events(
            [("a", torch.tensor(0.5), 32), ("b", 1, 7), ("b", 2, torch.tensor(8)), ("c", 3, None)]
        )

    assert [(row.step, row.values) for row in tracker.rows] == [
        (1, {"a": 0.5, "train/samples": 32, "b": 1, "b/x": 7}),
        (1, {"b": 2, "b/x": 8, "c": 3}),
    ]


def test_an_event_that_is_none_breaks_nothing_of_ours(
    engine: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is said once, and the others get it."""
    with memory_tracker() as tracker:
        log_monitor(engine, tracker)
        engine.monitor.write_events([("a", 1)])
        engine.monitor.write_events([("a", 1)])
        engine.monitor.write_events([("a", 2, 32)])

    assert engine.written == [("a", 1), ("a", 1), ("a", 2, 32)]
    assert capsys.readouterr().err.count("events of DeepSpeed's monitor are lost") == 1
    assert [row.values["a"] for row in tracker.rows] == [2]


def test_another_tracker_takes_the_place_of_the_first(engine: Any) -> None:
    """The other monitors stay one, and are still to be asked."""
    for value in (1, 2):
        with memory_tracker() as tracker:
            log_monitor(engine, tracker)
            engine.monitor.write_events([("a", value, 32)])
        assert [row.values["a"] for row in tracker.rows] == [value]

    engine.monitor.write_events([("a", 3, 32)])  # the run has ended
    assert [value for _, value, _ in engine.written] == [1, 2, 3]
    assert engine.monitor.tb_monitor == "theirs"


def test_what_is_no_engine_is_refused(engine: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """At once; an engine without a monitor is said."""
    del engine.monitor
    with memory_tracker() as tracker:
        log_monitor(engine, tracker)
        with pytest.raises(TypeError, match="takes DeepSpeed's engine, not a Linear"):
            log_monitor(torch.nn.Linear(1, 1), tracker)

    assert "has no monitor" in capsys.readouterr().err
