"""The examples, run as a reader would run them: in a process of their own, offline.

That is what they cost: every process, and with torchrun every rank, imports torch and scikit-learn
(2 to 3 s of CPU time each). Runs are shared between tests where one run will do.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from support.journals import read_headers, read_rows
from support.late import need
from support.ranks import AS_A_PROGRAM, run_ranks
from support.runs import OFFLINE_LINE, offline_dirs, run_script, wandb_rows

from fasttrack.journal.cursor import load_cursor
from fasttrack.journal.reader import read_finish
from fasttrack.journal.run_directory import cursor_path, segments

if TYPE_CHECKING:
    from fasttrack.journal.rows import Row

need("sklearn", "the digits come with scikit-learn")

_EXAMPLES = Path(__file__).parents[2] / "examples"
_TORCHRUN = ("-m", "torch.distributed.run", "--standalone")
_HANG_GUARD_S = 240.0
_STEPS_PER_EPOCH = 23  # 1437 digits in batches of 64
_TRAINING_KEYS = {"loss/total", "train/lr", "train/grad_norm"}
_PERF_KEYS = {
    "perf/steps_per_sec",
    "perf/samples_per_sec",
    "perf/step_time_ms/p50",
    "perf/step_time_ms/p99",
    "perf/step_time_ms/max",
}

# What the tracker leaves behind in each rank's process, in a directory of the rank's own.
_LOOK_AT_RANKS = """
import json, os, signal, sys, threading
from pathlib import Path

import torch
import torch.distributed as dist

from fasttrack import ExperimentTracker
from fasttrack.delivery.children import children_of

base = Path(sys.argv[1], f"rank{os.environ['RANK']}")
base.mkdir()
os.chdir(base)
os.environ["WANDB_DIR"] = str(base)
dist.init_process_group("gloo")
dist.barrier()
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
loss = model(torch.ones(2, 4)).mean()
loss.backward()


def look():
    return {
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "native threads": len(os.listdir("/proc/self/task")),
        "children": sum(child.alive for child in children_of(os.getpid())),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "files": sorted(str(path.relative_to(base)) for path in base.rglob("*")),
        "SIGTERM handler": str(signal.getsignal(signal.SIGTERM)),
        "stdout is wrapped": "write" in vars(sys.stdout),
    }


tags = {"model": "m", "dataset": "d", "objective": "o", "experiment_group": "e"}
before = look()
with ExperimentTracker(tags=tags, log_interval=1) as tracker:
    for step in range(3):
        tracker.log_training_step(loss, step, batch_size=2, optimizer=optimizer, model=model)
        tracker.log_metrics({"eval/accuracy": 0.5}, step=step)
    tracker.flush()
    for thread in threading.enumerate():  # asking git takes a moment, and children
        if thread.name == "fasttrack-recorder":
            thread.join()
    during = look()
    answers = [tracker.is_active(), tracker.get_run_id(), tracker.stats().rows_written]
found = {"before": before, "during": during, "after": look(), "answers": answers}
Path(sys.argv[1], f"{base.name}.json").write_text(json.dumps(found))
dist.destroy_process_group()
"""


@dataclass(frozen=True)
class Outcome:
    """What one finished example left."""

    base: Path
    stdout: str
    stderr: str

    @property
    def run_dir(self) -> Path:
        """The journal of the one run that there is."""
        (directory,) = (self.base / "wandb" / "fasttrack").glob("[!.]*")
        return directory

    @property
    def run_id(self) -> str:
        """That run's id."""
        return self.run_dir.name

    def rows(self, key: str) -> list[Row]:
        """The journal's rows that hold `key`, in order."""
        return read_rows(self.run_dir, key)

    def steps(self, key: str) -> list[int]:
        """The steps of the rows that hold `key`, in order."""
        return [row.step for row in self.rows(key)]


def _environment(base: Path) -> dict[str, str]:
    """Return the environment of a machine where W&B has never been used."""
    # Not measured for coverage either: they take long enough.
    ours = (
        "COVERAGE_",
        "WANDB_",
        "SLURM_",
        "RANK",
        "WORLD_SIZE",
        "LOCAL_RANK",
        "MASTER_",
        "TORCHELASTIC_",
    )
    environment = {name: text for name, text in os.environ.items() if not name.startswith(ours)}
    return environment | {
        "HOME": str(base),
        "WANDB_DIR": str(base),
        "WANDB_MODE": "offline",
        "WANDB_ERROR_REPORTING": "false",
        "OMP_NUM_THREADS": "1",
    }


def _run(base: Path, *command: str | Path) -> Outcome:
    """Run Python with `command` in `base`."""
    result = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=base,
        env=_environment(base),
        capture_output=True,
        text=True,
        timeout=_HANG_GUARD_S,
    )
    assert result.returncode == 0, result.stderr
    return Outcome(base, result.stdout, result.stderr)


def _fork(base: Path, file: Path, *arguments: str) -> Outcome:
    """Run a file in a fork that has imported much, where another test starts the same file."""
    environment = _environment(base)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(base)
        for name in os.environ.keys() - environment.keys():
            patch.delenv(name)
        for name, value in environment.items():
            patch.setenv(name, value)
        result = run_script(AS_A_PROGRAM, str(file), *arguments, warnings=None, training=True)
    return Outcome(base, result.stdout, result.stderr)


def _accuracies(stdout: str) -> list[float]:
    return [float(number) for number in re.findall(r"accuracy (\d\.\d+)", stdout)]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """`examples/digits.py`, run once with its defaults."""
    return _run(tmp_path_factory.mktemp("digits"), _EXAMPLES / "digits.py")


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """`examples/digits.py`, stopped after two epochs and resumed up to the default's five."""
    base = tmp_path_factory.mktemp("resumed")
    _fork(base, _EXAMPLES / "digits.py", "--epochs", "2")
    return _fork(base, _EXAMPLES / "digits.py", "--resume")


def test_digits_learns_to_read_nine_of_ten_with_its_defaults(digits: Outcome) -> None:
    """The example trains for real, and says where the run is."""
    accuracies = _accuracies(digits.stdout)

    assert len(accuracies) == 5
    assert accuracies[-1] > 0.9
    assert str(digits.base / "wandb" / "fasttrack" / digits.run_id) in digits.stdout
    assert OFFLINE_LINE in digits.stderr


def test_digits_journals_every_metric_at_every_interval(digits: Outcome) -> None:
    """The rows are those that the metrics table promises, at multiples of the interval."""
    training = [row.values for row in digits.rows("loss/total")]
    evaluations = [row.values for row in digits.rows("eval/accuracy")]

    assert digits.steps("loss/total") == list(range(0, 5 * _STEPS_PER_EPOCH, 10))
    assert training[0].keys() >= _TRAINING_KEYS
    assert all(values.keys() >= _TRAINING_KEYS | _PERF_KEYS for values in training[1:])
    assert all(values["train/grad_norm"] > 0 for values in training)
    assert digits.steps("eval/accuracy") == [_STEPS_PER_EPOCH * n for n in range(1, 6)]
    assert all(values.keys() == {"eval/accuracy", "eval/loss"} for values in evaluations)
    assert evaluations[-1]["eval/accuracy"] > 0.9
    assert training[-1]["train/lr"] == pytest.approx(3e-3 * 0.8**4)


def test_digits_leaves_one_offline_run_that_holds_all_rows(digits: Outcome) -> None:
    """What `wandb sync` would upload is what the journal has."""
    (directory,) = offline_dirs(digits.base)
    uploaded = wandb_rows(directory)
    finish = read_finish(segments(digits.run_dir)[0])

    assert [row["step"] for row in uploaded if "loss/total" in row] == digits.steps("loss/total")
    assert [row["step"] for row in uploaded if "eval/loss" in row] == digits.steps("eval/loss")
    assert finish is not None
    assert finish.exit_code == 0


def test_resumed_digits_go_on_in_the_same_run_as_if_never_stopped(
    resumed: Outcome, digits: Outcome
) -> None:
    """Two epochs, then three more, make one run whose steps and results are the unbroken run's."""
    headers = read_headers(resumed.run_dir)
    assert [header.run_id for header in headers] == [resumed.run_id] * 2
    assert [header.resumed for header in headers] == [False, True]
    assert resumed.steps("loss/total") == digits.steps("loss/total")
    for mine, unbroken in zip(resumed.rows("eval/loss"), digits.rows("eval/loss"), strict=True):
        assert (mine.step, mine.values) == (unbroken.step, unbroken.values)
    checkpoint = torch.load(resumed.base / "checkpoints" / "epoch-0005.pt", weights_only=True)
    assert (checkpoint["wandb_run_id"], checkpoint["step"]) == (
        resumed.run_id,
        5 * _STEPS_PER_EPOCH,
    )


def test_resumed_digits_deliver_each_row_once(resumed: Outcome) -> None:
    """Both attempts' offline directories carry one run id, and no row is in both."""
    directories = offline_dirs(resumed.base)
    uploaded = [row for directory in directories for row in wandb_rows(directory)]
    assert [directory.name.rsplit("-", 1)[1] for directory in directories] == [resumed.run_id] * 2
    assert [row["step"] for row in uploaded if "loss/total" in row] == resumed.steps("loss/total")
    ledger = load_cursor(cursor_path(resumed.run_dir)).ledger("wandb")
    names = [path.name for path in segments(resumed.run_dir)]
    assert len(names) == 2
    assert all(ledger.segment(name).offline_proof for name in names)


def test_disabled_digits_train_but_leave_only_checkpoints(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """With tracking off nothing is written or said, and the checkpoint can still be resumed.

    In this process: an inert tracker leaves nothing for the interpreter's end.
    """
    from examples import digits as digits_example

    said = []
    for epochs in ("1", "2"):
        digits_example.main(["--mode", "disabled", "--resume", "--epochs", epochs])
        said.append(capfd.readouterr())

    assert [path.name for path in tmp_path.iterdir() if path.name != "home"] == ["checkpoints"]
    assert [captured.err for captured in said] == ["", ""]
    assert ["resuming" in captured.out for captured in said] == [False, True]
    assert not any("run " in captured.out for captured in said)


def test_minimal_logs_every_tenth_of_its_steps(tmp_path: Path) -> None:
    """The smallest loop gives a whole run."""
    minimal = _run(tmp_path, _EXAMPLES / "minimal.py")

    rows = minimal.rows("loss/total")
    assert minimal.steps("loss/total") == list(range(0, 200, 10))
    assert all(row.values.keys() >= _TRAINING_KEYS | _PERF_KEYS for row in rows[1:])
    assert rows[-1].values["loss/total"] < rows[0].values["loss/total"]
    assert len(offline_dirs(tmp_path)) == 1
    (header,) = read_headers(minimal.run_dir)
    assert (header.tags or ()) == ()
    assert re.match(r"fasttrack-examples_\d{8}_\d{6}", header.name or "")


@pytest.mark.usefixtures("quick_end")
@pytest.mark.parametrize("ranks", [2, 4])
def test_ddp_makes_one_run_with_each_row_once_whatever_the_ranks(
    tmp_path: Path, ranks: int
) -> None:
    """All ranks run the same lines; one run is written, with the throughput of all of them.

    Two are torchrun's, four are forks.
    """
    if ranks == 2:
        ddp = _run(tmp_path, *_TORCHRUN, "--nproc_per_node=2", _EXAMPLES / "ddp.py")
    else:
        file = _EXAMPLES / "ddp.py"
        ended = run_ranks(4, AS_A_PROGRAM, file, directory=tmp_path, WANDB_MODE="offline")
        stdout, stderr = "".join(e.stdout for e in ended), "".join(e.stderr for e in ended)
        ddp = Outcome(tmp_path, stdout, stderr)

    (header,) = read_headers(ddp.run_dir)
    epochs, batch_size = header.config["epochs"], header.config["batch_size"]
    per_epoch = 1437 // ranks // batch_size
    assert header.world_size == ranks
    assert len(offline_dirs(tmp_path)) == 1
    assert ddp.stderr.count(OFFLINE_LINE) == 1
    assert ddp.steps("loss/total") == list(range(0, epochs * per_epoch, 5))
    assert ddp.steps("eval/accuracy") == [per_epoch * n for n in range(1, epochs + 1)]
    for row in ddp.rows("loss/total")[1:]:
        values = row.values
        expected = values["perf/steps_per_sec"] * batch_size * ranks
        assert values["perf/samples_per_sec"] == pytest.approx(expected, rel=1e-9)
        assert values["train/grad_norm"] > 0
    accuracies = _accuracies(ddp.stdout)
    assert len(accuracies) == ranks
    assert len(set(accuracies)) == 1
    assert accuracies[0] > 0.85


def test_other_ranks_get_no_thread_no_process_and_no_file(tmp_path: Path) -> None:
    """What rank 0 gets, the look finds; the others stay as they were, and answer every call."""
    run_ranks(3, _LOOK_AT_RANKS, tmp_path, directory=tmp_path, WANDB_MODE="offline")

    main, *others = (json.loads((tmp_path / f"rank{n}.json").read_text()) for n in range(3))
    assert "fasttrack-worker" in main["during"]["threads"]
    assert main["during"]["children"] == main["before"]["children"] + 1
    assert main["during"]["files"]
    assert main["answers"][0] is True
    assert main["answers"][2] == 6
    for other in others:
        assert other["during"] == other["before"]
        assert other["after"] == other["before"]
        assert other["before"]["files"] == []
        assert other["answers"] == [False, None, 0]
