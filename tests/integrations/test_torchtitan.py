"""torchtitan's real trainer with its metrics processor of ours, by `examples/torchtitan_train.py`.

Skipped where torchtitan is not installed, as in CI: it brings 1.3 GB, most of it Triton. By hand:
`pip install torchtitan`, then this file.
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
from support.journals import read_entries, read_headers, read_rows
from support.runs import run_script
from support.slurm_cluster import free_ports

from fasttrack.journal.entries import Finish
from fasttrack.journal.rows import Row

pytestmark = pytest.mark.skipif(
    find_spec("torchtitan") is None or find_spec("triton") is None,
    reason="torchtitan (1.3 GB with Triton) is not installed",
)

EXAMPLE = Path(__file__).parents[2] / "examples" / "torchtitan_train.py"

# Six steps, a checkpoint after every second, beside torchtitan's own TensorBoard logger.
_SCRIPT = """
import os, signal, sys
from dataclasses import dataclass
import torch

how, examples = sys.argv[1:]
sys.path.insert(0, examples)
import torchtitan_train as example

trainers = []


class Story(example.Sequences):
    @dataclass(kw_only=True, slots=True)
    class Config(example.Sequences.Config):
        pass

    def __iter__(self):
        for batch in super().__iter__():
            if self.batches == 5 and how == "killed":
                trainers[0].metrics_processor.tracker.flush()
                os.kill(os.getpid(), signal.SIGKILL)
            if self.batches == 6 and how == "nan":
                with torch.no_grad():
                    next(trainers[0].model_parts[0].parameters()).fill_(float("nan"))
            yield batch


example.make_do()
example.init_logger()
config = example.configuration(6, "outputs")
config.dataloader = Story.Config()
config.metrics.enable_tensorboard, config.metrics.save_tb_folder = True, how
trainer = config.build()
trainers.append(trainer)
try:
    trainer.train()
finally:
    trainer.close()
    torch.distributed.destroy_process_group()
"""


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """One rank, as torchrun makes it; the journal only."""
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    more = {"FASTTRACK_BACKENDS": "none", "WANDB_CONSOLE": "off"}
    for name, value in {**alone, **more, "MASTER_PORT": str(free_ports(1)[0])}.items():
        monkeypatch.setenv(name, value)


def train(how: str, code: int) -> str:
    """Run the story in a process of its own; return what it said."""
    result = run_script(_SCRIPT, how, str(EXAMPLE.parent), check=False, warnings="default")
    assert result.returncode == code, result.stderr
    return result.stderr


def told_to_tensorboard(directory: Path) -> dict[int, dict[str, float]]:
    """Return what torchtitan's own logger wrote, by step."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (found,) = directory.iterdir()
    accumulator = EventAccumulator(str(found))
    accumulator.Reload()
    told: dict[int, dict[str, float]] = {}
    for name in accumulator.Tags()["scalars"]:
        for event in accumulator.Scalars(name):
            told.setdefault(event.step, {})[name] = event.value
    return told


def test_all_that_torchtitan_reports_is_in_one_run_through_kill_failure_and_resume(
    tmp_path: Path,
) -> None:
    """Killed in its fifth step, failed in its sixth by a loss that is NaN, then finished."""
    train("killed", -9)
    said = train("nan", 1)
    train("finished", 0)

    (run,) = (tmp_path / "wandb" / "fasttrack").glob("[!.]*")
    headers = read_headers(run)
    assert [header.resumed for header in headers] == [False, True, True]
    assert headers[0].config["training"]["steps"] == 6
    assert headers[0].config["model_spec"]["flavor"] == "debugmodel"
    rows = read_rows(run, "grad_norm")
    assert [row.step for row in rows] == [1, 2, 3, 4, 5, 5, 6]
    attempts: dict[str, list[Row]] = {"nan": rows[4:5], "finished": rows[5:]}
    for how, part in attempts.items():
        told = told_to_tensorboard(tmp_path / "outputs" / how)
        assert told.keys() == {row.step for row in part}
        for row in part:
            ours = {name: row.values[name] for name in told[row.step]}
            assert ours == pytest.approx(told[row.step], rel=1e-6), row.step  # written as float32
    assert [ending.exit_code for ending in read_entries(run, Finish)] == [1, 0]
    assert (
        "training ended by RuntimeError: Loss is not finite (global_avg_loss=nan) at step 6" in said
    )


# Twenty steps of some 0.1 s; a tracker beside torchtitan's own reports counts the same tokens.
_TOKENS = """
import json, sys

import torch

from fasttrack import ExperimentTracker, Options
from support.journals import read_rows

sys.path.insert(0, sys.argv[1])
import torchtitan_train as example

example.make_do()
example.init_logger()
config = example.configuration(20, "outputs")
config.metrics.log_freq, config.checkpoint.enable = 5, False
config.training.local_batch_size, config.training.seq_len = 8, 128
trainer = config.build()
processor = trainer.metrics_processor
flops, peak = processor.num_flops_per_token, processor.gpu_peak_flops
options = Options(directory="ours", flops_per_token=flops, peak_flops=peak)
ours = ExperimentTracker("titan", log_interval=1, options=options)
their_log = processor.log


def log(step, *args, **given):
    share = processor.ntokens_since_last_log / processor.parallel_dims.non_data_parallel_size
    ours.log_training_step(None, step, tokens=share)
    their_log(step, *args, **given)


processor.log = log
try:
    trainer.train()
finally:
    trainer.close()
    ours.finish()
    torch.distributed.destroy_process_group()
rows = [read_rows(each.get_run_dir()) for each in (ours, processor.tracker)]
print(json.dumps([{row.step: row.values for row in found} for found in rows]))
"""


def test_tokens_flops_and_mfu_are_torchtitans_own_to_a_hundredth() -> None:
    """Of its trainer's real steps; what its report itself takes is in ours and not in its."""
    told = run_script(_TOKENS, str(EXAMPLE.parent), warnings="default").stdout
    ours, theirs = json.loads(told.splitlines()[-1])

    names = {
        "perf/tokens_per_sec": "throughput(tps)",
        "perf/tflops": "tflops",
        "perf/mfu": "mfu(%)",
    }
    compared = [
        (ours[step][our_name], theirs[step][their_name])
        for step in ("5", "10", "15", "20")
        for our_name, their_name in names.items()
    ]
    assert [our for our, _ in compared] == pytest.approx([their for _, their in compared], rel=0.01)


def test_the_example_trains(tmp_path: Path) -> None:
    """As a script, by its command line."""
    as_script = "import runpy, sys; runpy.run_path(sys.argv.pop(1), run_name='__main__')"
    run_script(as_script, str(EXAMPLE), "--steps", "2", warnings="default")

    (run,) = (tmp_path / "wandb" / "fasttrack").glob("[!.]*")
    assert read_headers(run)[0].project == "fasttrack-examples"
    assert [row.step for row in read_rows(run, "grad_norm")] == [1, 2]
    assert read_entries(run, Finish)[-1].exit_code == 0
