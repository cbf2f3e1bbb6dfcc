"""What end-to-end tests share: building trackers, running scripts, reading back."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from support.forks import DeliveryFork, Fork, Start, TrainingFork
from support.journals import read_entries

from fasttrack import ExperimentTracker, Options
from fasttrack.delivery.backends.wandb.file import read_payloads
from fasttrack.journal.rows import Row
from fasttrack.worker.supervisor import DeliveryProcess

if TYPE_CHECKING:
    from collections.abc import Callable

# A script's end would look for garbage in all that torch has made, for a third of its CPU time.
# Programs that do not import this module (demo, examples, docs, Slurm's) end the ordinary way.
gc.freeze()

TAGS = {"model": "eo1", "dataset": "lego", "objective": "ar+fm", "experiment_group": "baseline"}
OFFLINE_LINE = "[ExperimentTracker] Offline mode. Run 'wandb sync' to upload later."
HANG_GUARD_S = 120.0
QUICK_END = str(Path(__file__).with_name("quick_end"))
"""In a program's PYTHONPATH: it looks for garbage seldom, and not at its end."""

E = TypeVar("E")


def make_tracker(**arguments: Any) -> ExperimentTracker:
    """Return a tracker that logs every step, offline unless told otherwise.

    Its `finish()` waits for delivery, unless the options say something else: tests look at the
    files next.
    """
    options = arguments.get("options") or Options()
    if isinstance(options, Options) and options.wait_for_delivery == "auto":
        options = replace(options, wait_for_delivery="finish")
    defaults: dict[str, Any] = {
        "project": "vla-lego",
        "config": {"lr": 0.1},
        "tags": TAGS,
        "mode": "offline",
        "log_interval": 1,
    }
    return ExperimentTracker(**{**defaults, **arguments, "options": options})


def run_dir(base: Path, run_id: str | None) -> Path:
    """Return the journal directory of a run under `base`."""
    assert run_id is not None
    return base / "wandb" / "fasttrack" / run_id


def journal_entries(base: Path, run_id: str | None, kind: type[E]) -> list[E]:
    """Return the entries of one kind in all segments of a run, in order."""
    return read_entries(run_dir(base, run_id), kind)


def journal_rows(base: Path, run_id: str | None) -> list[Row]:
    """Return the rows of all segments of a run, in order."""
    return journal_entries(base, run_id, Row)


def delivery_pid(tracker: ExperimentTracker) -> int:
    """Return the id of a tracker's delivery process."""
    assert tracker._engine is not None
    delivery = tracker._engine.delivery
    assert isinstance(delivery, DeliveryProcess)
    return delivery._process.pid


def offline_dirs(base: Path) -> list[Path]:
    """Return W&B's offline run directories under `base`, oldest first."""
    return sorted((base / "wandb").glob("offline-run-*"))


def wandb_rows(directory: Path) -> list[dict[str, Any]]:
    """Return the history rows in a W&B run directory's `.wandb` file."""
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    (file,) = directory.glob("run-*.wandb")
    rows = []
    for payload in read_payloads(file):
        record = Record.FromString(payload)
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            rows.append(
                {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in items}
                | {"_step": record.history.step.num}
            )
    return rows


def metrics(row: dict[str, Any]) -> dict[str, Any]:
    """Return a W&B row without what the client and the courier add."""
    return {k: v for k, v in row.items() if not k.startswith("_") and k != "step"}


def script_environment() -> dict[str, str]:
    """Return the environment for a script that imports from tests/ and computes on one thread.

    Its coverage is not measured: torch's import would take half as long again, and coverage's
    tracer holds a plain lock now and then, which Ctrl-C leaves held and a handler's code waits
    for, for ever.
    """
    kept = {k: v for k, v in os.environ.items() if k != "COVERAGE_PROCESS_CONFIG"}
    return {**kept, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}


def program_environment() -> dict[str, str]:
    """Return the same for programs that a launcher starts, whose end is not what is looked at."""
    environment = script_environment()
    return {**environment, "PYTHONPATH": f"{environment['PYTHONPATH']}{os.pathsep}{QUICK_END}"}


def run_script(
    source: str,
    *arguments: str,
    check: bool = True,
    warnings: str | None = "error",
    fresh: bool = False,
    training: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Run Python source in a process of its own and return what it printed.

    Args:
        source: the script's.
        arguments: its `sys.argv[1:]`.
        check: whether it must end with 0.
        warnings: what is done with them, as `-W` has it; None: as without it.
        fresh: start an interpreter that has imported nothing; else torch, fasttrack, and the
            modules of tests/support that most scripts use are there, at a tenth of the CPU time.
        training: have there also what training scripts import (`training_imports.py`).
    """
    how = Start if fresh else TrainingFork if training else Fork
    result = _run(_begin(how, source, arguments, warnings, stdin=None))
    if check:
        assert result.returncode == 0, result.stderr
    return result


def start_script(
    source: str, *arguments: str, warnings: str | None = "error"
) -> subprocess.Popen[str]:
    """Start Python source in a process of its own that will get signals; its streams are pipes."""
    return _begin(Fork, source, arguments, warnings, stdin=subprocess.PIPE)


def _begin(
    how: type[Start],
    source: str,
    arguments: tuple[str, ...],
    warnings: str | None,
    *,
    stdin: int | None,
) -> subprocess.Popen[str]:
    return how(
        textwrap.dedent(source),
        *arguments,
        warnings=warnings,
        environment=script_environment(),
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def _run(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    with process:
        try:
            stdout, stderr = process.communicate(timeout=HANG_GUARD_S)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


_DELIVER = """
from fasttrack.delivery.quick_exit import leave_with
from support.delivery_imports import main
leave_with(main)
"""


def deliver(directory: Path, *, fresh: bool = False) -> dict[str, Any]:
    """Deliver a run by hand, as `fasttrack sync` does; return its last event but for beats.

    A trainer's own delivery may outlive it; while that is at work, this waits.

    Args:
        directory: the run's.
        fresh: start `python -m fasttrack.delivery`; else it is a fork that has imported wandb.
    """
    deadline = time.monotonic() + HANG_GUARD_S
    while True:
        if fresh:
            start = [sys.executable, "-m", "fasttrack.delivery", str(directory)]
            pipe = subprocess.PIPE
            result = _run(subprocess.Popen(start, stdout=pipe, stderr=pipe, text=True))
        else:
            result = _run(_begin(DeliveryFork, _DELIVER, (str(directory),), None, stdin=None))
        told = [line for line in result.stdout.splitlines() if line != '{"event":"beat"}']
        assert told, result.stderr
        done: dict[str, Any] = json.loads(told[-1])  # a beat may come due at the very end
        if done["event"] == "done":
            assert result.returncode == int(not done["delivered"]), result.stdout
            return done
        assert (done["event"], result.returncode) == ("busy", 3), result.stdout
        assert time.monotonic() < deadline, "the run is busy for ever"


def wait_until(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    """Poll until `condition` holds; fail after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        time.sleep(0.01)


def train_with_everything(
    tracker: Any, steps: int, grad_norm_inline: list[float]
) -> list[dict[str, float]]:
    """Train with every argument of log_training_step; return what each row must hold."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
    optimizer = torch.optim.SGD(
        [{"params": model[0].parameters(), "lr": 0.1}, {"params": model[2].parameters(), "lr": 0.2}]
    )
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    expected = []
    for step in range(steps):
        optimizer.zero_grad()
        ar = model(torch.randn(4, 8)).square().mean()
        fm = model(torch.randn(4, 8)).abs().mean()
        loss = ar + fm
        loss.backward()
        optimizer.step()
        norm = torch.nn.utils.get_total_norm(
            [p.grad for p in model.parameters() if p.grad is not None]
        )
        grad_norm_inline.append(norm.item())
        tracker.log_training_step(
            loss,
            step,
            4,
            optimizer,
            model,
            scaler=scaler,
            loss_ar=ar,
            loss_fm=fm,
            extra={"extra/bf16": torch.tensor(1.5, dtype=torch.bfloat16)},
        )
        expected.append(
            {
                "loss/total": loss.item(),
                "loss/ar": ar.item(),
                "loss/fm": fm.item(),
                "train/lr": 0.1,
                "train/lr/1": 0.2,
                "train/amp_scale": 8.0,
                "extra/bf16": 1.5,
            }
        )
    return expected
