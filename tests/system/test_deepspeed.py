"""DeepSpeed for real, on 1 and 2 ranks: what is logged, resumed and consolidated."""

from __future__ import annotations

import json
import math
import re
import runpy
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from support.ranks import AS_A_PROGRAM, run_ranks
from support.runs import HANG_GUARD_S, journal_entries, journal_rows, program_environment

from fasttrack.journal.entries import Artifact, Header

pytestmark = [
    pytest.mark.deepspeed,
    pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is not installed"),
    pytest.mark.skipif(find_spec("sklearn") is None, reason="the digits come with scikit-learn"),
]

_EXAMPLE = Path(__file__).parents[2] / "examples" / "deepspeed_train.py"
_STEPS_PER_EPOCH = 22  # 1437 digits over 2 ranks in batches of 32
_STEPS_PER_EPOCH_ALONE = 44
_PHASE = 100  # steps between the first rows of two phases

# Every configuration one after another, in one process group and one run. Each step's true norm is
# that of the mean loss over both ranks' batches, computed apart from DeepSpeed.
_CONFIGURATIONS = """
import json, sys
from pathlib import Path

import deepspeed, deepspeed.ops
import torch
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator

from support.runs import make_tracker

deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # would be compiled
get_accelerator().is_fp16_supported = lambda: True  # not every CPU has instructions for it
deepspeed.init_distributed(dist_backend="gloo")
rank, ranks = dist.get_rank(), dist.get_world_size()
PHASES = [
    ("stage 0", {"zero_optimization": {"stage": 0}}, torch.float32),
    ("stage 1", {"zero_optimization": {"stage": 1}}, torch.float32),
    ("stage 2", {"zero_optimization": {"stage": 2}, "gradient_clipping": 0.01}, torch.float32),
    ("stage 3", {"zero_optimization": {"stage": 3}}, torch.float32),
    ("accumulation", {"zero_optimization": {"stage": 1}, "gradient_accumulation_steps": 2},
     torch.float32),
    ("bf16", {"bf16": {"enabled": True}}, torch.bfloat16),
    ("fp16", {"fp16": {"enabled": True, "initial_scale_power": 20, "hysteresis": 1},
              "zero_optimization": {"stage": 2}}, torch.float16),
    ("no norm", {"zero_optimization": {"stage": 1, "compute_grad_norm": False},
                 "gradient_clipping": 0.0}, torch.float32),
]
OPTIMIZER = {"type": "AdamW", "params": {"lr": 0.01, "torch_adam": True}}
SCHEDULER = {"type": "WarmupLR", "params": {"warmup_max_lr": 0.01, "warmup_num_steps": 4}}


def true_norm(engine, stage, batch):
    with deepspeed.zero.GatheredParameters(list(engine.module.parameters()), enabled=stage == 3):
        weights = {n: p.detach().float() for n, p in engine.module.named_parameters()}
    weights = {n: w.clone().requires_grad_() for n, w in weights.items()}
    outputs = torch.func.functional_call(build(), weights, batch)
    gradients = torch.autograd.grad(outputs.square().mean(), list(weights.values()))
    return torch.nn.utils.get_total_norm(gradients).item()


def build():
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))


tracker, expected = make_tracker(), {}
for number, (name, config, dtype) in enumerate(PHASES):
    model = build()
    engine, optimizer, _, _ = deepspeed.initialize(
        model=model,
        model_parameters=model.parameters(),
        config={"train_micro_batch_size_per_gpu": 4, "optimizer": OPTIMIZER,
                "scheduler": SCHEDULER, **config},
    )
    stage = engine.zero_optimization_stage()
    for i in range(4):
        torch.manual_seed(i)
        batches = torch.randn(ranks, 4, 8)
        norm = true_norm(engine, stage, batches.flatten(0, 1))
        loss = engine(batches[rank].to(dtype)).float().square().mean()
        engine.backward(loss)
        before = [p.grad for p in engine.module.parameters() if p.grad is not None]
        given = None
        if name == "stage 0" and i > 1:
            norm_of = torch.nn.utils.get_total_norm(before)
            given = norm_of if i == 2 else tracker.reduce_grad_norm(engine.module)
        engine.step()
        whole = engine.get_global_grad_norm()
        told = {"reduced/loss": tracker.reduce(loss)}
        if whole is not None:
            told["reduced/norm"] = tracker.reduce_grad_norm(engine)
        losses = [None] * ranks
        dist.all_gather_object(losses, loss.item())
        step = 100 * number + i
        # The specification's line has the module; the engine must do as well.
        tracked = engine.module if i % 2 else engine
        tracker.log_training_step(loss, step, 4, optimizer, tracked, grad_norm=given, extra=told)
        expected[step] = {
            "phase": name,
            "loss/total": loss.item(),
            "losses": losses,
            "train/lr": engine.get_lr()[0],
            "norm": norm,
            "engine": None if whole is None else float(whole),
            "scale": getattr(optimizer, "loss_scale", None),
            "skipped": engine.skipped_steps,
        }
    # Without DeepSpeed's optimizer a module must not pass its part of the gradients for all.
    engine.backward(engine(batches[rank].to(dtype)).float().square().mean())
    tracker.log_training_step(loss, step + 1, 4, None, engine.module)
    engine.destroy()
tracker.finish()
if rank == 0:
    Path("expected.json").write_text(json.dumps([tracker.get_run_id(), expected]))
dist.destroy_process_group()
"""


def _torchrun(base: Path, ranks: int, *command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a script on `ranks` ranks in `base`, with offline tracking."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    # Fixtures of the module come before those of conftest.py, which clear the environment.
    others = ("WANDB_", "SLURM_")
    kept = {k: v for k, v in program_environment().items() if not k.startswith(others)}
    own = {"HOME": str(base), "WANDB_DIR": str(base), "OMP_NUM_THREADS": "1"}
    tracking = {"WANDB_MODE": "offline", "WANDB_ERROR_REPORTING": "false"}
    result = subprocess.run(
        [sys.executable, *launcher, *map(str, command)],
        cwd=base,
        env=kept | own | tracking,
        capture_output=True,
        text=True,
        timeout=HANG_GUARD_S,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result


@dataclass(frozen=True)
class Configurations:
    """What the run over all configurations logged, and what it must have logged."""

    rows: dict[int, dict[str, float]]
    expected: dict[int, dict[str, Any]]
    stderr: str

    def phase(self, name: str) -> list[tuple[dict[str, float], dict[str, Any]]]:
        """Return (logged values, expected ones) for each step of one configuration."""
        return [
            (self.rows[step], wanted)
            for step, wanted in self.expected.items()
            if wanted["phase"] == name
        ]


@pytest.fixture(scope="module")
def configurations(tmp_path_factory: pytest.TempPathFactory) -> Configurations:
    """Two ranks, each configuration for four steps."""
    base = tmp_path_factory.mktemp("configurations")
    # The journal is what is looked at.
    ended = run_ranks(2, _CONFIGURATIONS, directory=base, FASTTRACK_BACKENDS="none")
    run_id, expected = json.loads((base / "expected.json").read_text())
    rows = {row.step: row.values for row in journal_rows(base, run_id)}
    stderr = "".join(rank.stderr for rank in ended)
    return Configurations(rows, {int(k): v for k, v in expected.items()}, stderr)


def test_loss_and_learning_rate_are_the_engines(configurations: Configurations) -> None:
    """With a scheduler, and whatever wraps the optimizer."""
    for step, wanted in configurations.expected.items():
        logged = configurations.rows[step]
        assert logged["loss/total"] == pytest.approx(wanted["loss/total"]), wanted["phase"]
        assert logged["train/lr"] == wanted["train/lr"], wanted["phase"]
    assert len({row["train/lr"] for row, _ in configurations.phase("stage 2")}) == 4


def test_what_every_rank_reduces_is_the_mean_loss_and_the_engines_norm(
    configurations: Configurations,
) -> None:
    """At every ZeRO stage, and with every precision; an engine that knows no norm is not asked."""
    for step, wanted in configurations.expected.items():
        logged, losses = configurations.rows[step], wanted["losses"]
        assert len(losses) == 2
        assert logged["reduced/loss"] == pytest.approx(sum(losses) / 2, rel=1e-12), wanted["phase"]
        assert logged.get("reduced/norm") == wanted["engine"], wanted["phase"]


@pytest.mark.parametrize(
    ("phase", "precision"),
    [("stage 1", 1e-5), ("stage 2", 1e-5), ("stage 3", 1e-5), ("bf16", 0.02)],
)
def test_grad_norm_is_that_of_all_ranks(
    configurations: Configurations, phase: str, precision: float
) -> None:
    """With the engine and with its module as the model, before clipping, on every step."""
    for logged, wanted in configurations.phase(phase):
        assert logged["train/grad_norm"] == pytest.approx(wanted["norm"], rel=precision)
        assert logged["train/grad_norm"] == pytest.approx(wanted["engine"], rel=1e-6)


def test_stage_0_in_float32_has_no_grad_norm_but_the_one_passed(
    configurations: Configurations,
) -> None:
    """DeepSpeed answers None, the gradients are gone after step(): said once, with the fix.

    That is torch's norm, or `reduce_grad_norm` of the engine's module, before step().
    """
    first, second, third, fourth = configurations.phase("stage 0")
    assert [wanted["engine"] for _, wanted in (first, second, third, fourth)] == [None] * 4
    assert "train/grad_norm" not in first[0].keys() | second[0].keys()
    for logged, wanted in (third, fourth):
        assert logged["train/grad_norm"] == pytest.approx(wanted["norm"], rel=1e-5)
    warnings = re.findall("train/grad_norm: .*", configurations.stderr)
    assert len(warnings) == 1
    assert "before engine.step() and pass grad_norm=" in warnings[0]


def test_grad_norm_waits_for_the_first_step_of_accumulation(
    configurations: Configurations,
) -> None:
    """Until then each rank's gradients are its own, and a part: no norm is better than that."""
    phase = configurations.phase("accumulation")
    norms = [logged.get("train/grad_norm") for logged, _ in phase]
    assert norms == [None] + [pytest.approx(wanted["engine"]) for _, wanted in phase[1:]]


def test_a_module_without_deepspeeds_optimizer_logs_no_part_of_a_norm(
    configurations: Configurations,
) -> None:
    """With ZeRO each rank holds other gradients, or none, between backward() and step()."""
    for number in (1, 2, 3, 4):
        row = configurations.rows[number * _PHASE + 4]
        assert "train/grad_norm" not in row


def test_fp16_logs_its_scale_and_an_overflow_as_infinite(configurations: Configurations) -> None:
    """The first scale is too large for fp16: steps are skipped while it is halved."""
    *overflows, (logged, wanted) = configurations.phase("fp16")
    assert [values["train/amp_scale"] for values, _ in overflows] == [2**19, 2**18, 2**17]
    assert all(math.isinf(values["train/grad_norm"]) for values, _ in overflows)
    assert wanted["skipped"] == 3
    assert logged["train/amp_scale"] == wanted["scale"] == 2**17
    assert logged["train/grad_norm"] == pytest.approx(wanted["norm"], rel=0.01)


def test_without_fp16_no_scale_is_logged(configurations: Configurations) -> None:
    """ZeRO's optimizer has a loss scale of 1 in every precision."""
    for phase in ("stage 0", "stage 1", "stage 2", "stage 3", "bf16"):
        assert all("train/amp_scale" not in logged for logged, _ in configurations.phase(phase))


def test_without_compute_grad_norm_none_is_logged(configurations: Configurations) -> None:
    """DeepSpeed was told to leave the norm out."""
    assert all("train/grad_norm" not in row for row, _ in configurations.phase("no norm"))


@dataclass(frozen=True)
class Training:
    """What the example left behind."""

    base: Path
    stdout: str

    @property
    def run_id(self) -> str:
        """The id of the one run that there is."""
        (directory,) = (self.base / "wandb" / "fasttrack").glob("[!.]*")
        return directory.name

    def steps(self, key: str) -> list[int]:
        """Return the steps of the rows that hold `key`, in order."""
        rows = journal_rows(self.base, self.run_id)
        return [row.step for row in rows if key in row.values]

    def final_accuracy(self) -> float:
        """Return the accuracy that every rank printed last."""
        last = re.findall(r"rank (\d), epoch \d+: accuracy (\d\.\d+)", self.stdout)
        (accuracy,) = set(dict(last).values())
        return float(accuracy)


def _check_final_model(training: Training) -> None:
    """Load the consolidated file into a plain module and read digits with it."""
    digits = runpy.run_path(str(_EXAMPLE.with_name("digits.py")))  # the same data and model
    weights = torch.load(training.base / "checkpoints-final.pt", weights_only=True)
    model = digits["build_model"]()
    model.load_state_dict(weights)
    images, labels = digits["load_data"]()[1].tensors
    accuracy = (model(images).argmax(dim=1) == labels).float().mean().item()

    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    assert accuracy == pytest.approx(training.final_accuracy(), abs=1e-4)


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> Training:
    """`examples/deepspeed_train.py` with ZeRO-2 on two ranks: an epoch, then resumed for two."""
    base = tmp_path_factory.mktemp("resumed")
    first = ("--stage", "2", "--epochs", "1", "--resume")  # nothing there yet
    run_ranks(2, AS_A_PROGRAM, _EXAMPLE, *first, directory=base, WANDB_MODE="offline")
    again = _torchrun(base, 2, _EXAMPLE, "--stage", "2", "--epochs", "3", "--resume")
    return Training(base, again.stdout)


def test_resuming_goes_on_in_the_same_run(resumed: Training) -> None:
    """One run id in two segments; steps go on where the checkpoint was made."""
    headers = journal_entries(resumed.base, resumed.run_id, Header)
    assert [header.run_id for header in headers] == [resumed.run_id] * 2
    assert [header.resumed for header in headers] == [False, True]
    assert [header.world_size for header in headers] == [2, 2]
    assert resumed.steps("eval/accuracy") == [_STEPS_PER_EPOCH * n for n in (1, 2, 3)]
    training = [step for step in range(3 * _STEPS_PER_EPOCH) if step % 5 == 0]
    assert resumed.steps("loss/total") == training
    assert resumed.steps("train/grad_norm") == training
    assert resumed.final_accuracy() > 0.85


def test_the_client_state_holds_the_run_id(resumed: Training) -> None:
    """Every checkpoint, also the one that the resumed attempt wrote."""
    paths = sorted(resumed.base.glob("checkpoints/*/mp_rank_00_model_states.pt"))
    # The file is this test's own; DeepSpeed's objects in it cannot be loaded as weights only.
    states = [torch.load(path, weights_only=False) for path in paths]
    assert [state["wandb_run_id"] for state in states] == [resumed.run_id] * 3
    steps = sorted(state["global_steps"] for state in states)
    assert steps == [_STEPS_PER_EPOCH * n for n in (1, 2, 3)]


def test_the_consolidated_model_is_recorded_and_loadable(resumed: Training) -> None:
    """ZeRO-2's shards become one float32 file, an artifact even if checkpoints are not uploaded."""
    found = journal_entries(resumed.base, resumed.run_id, Artifact)
    artifacts = [artifact for artifact in found if artifact.type == "model"]
    _check_final_model(resumed)
    assert [artifact.aliases for artifact in artifacts] == [("final",)] * 2
    assert [artifact.files for artifact in artifacts] == [1] * 2
    assert artifacts[-1].size_bytes == (resumed.base / "checkpoints-final.pt").stat().st_size


def test_one_rank_without_zero_trains_too(tmp_path: Path) -> None:
    """The same lines with stage 0: every row has its norm, the final model is whole."""
    told = ("--stage", "0", "--epochs", "1")
    (rank,) = run_ranks(1, AS_A_PROGRAM, _EXAMPLE, *told, directory=tmp_path, WANDB_MODE="offline")
    training = Training(tmp_path, rank.stdout)

    assert training.steps("train/grad_norm") == list(range(0, _STEPS_PER_EPOCH_ALONE, 5))
    assert training.final_accuracy() > 0.6
    _check_final_model(training)
