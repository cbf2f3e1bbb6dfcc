"""The instruments behind the targets, the GPU mode, and what is printed of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import warnings
from collections import Counter
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from support.runs import run_script
from support.slurm_cluster import SlurmCluster, needs_slurm

from bench.gpu.devices import TINY_LENGTHS, Cuda, Host
from bench.gpu.steps import block_s, per_logged_step
from bench.lib.internals import encode_row, make_writer
from bench.lib.processes import call_in_new_process
from bench.lib.trackers import rows_in_journal
from bench.lib.turns import in_pairs
from bench.lib.ways import Way
from bench.lib.workload import Workload
from bench.overhead.blocks import Block
from bench.targets.calls import overhead_figure
from bench.targets.figure import Figure, over_rounds, shown
from bench.targets.gil import Burst
from bench.targets.worker import attributed

ROOT = Path(__file__).parents[2]
HANG_GUARD_S = 240.0


def run_module(*command: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a module of bench/ from the root of the repository."""
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=HANG_GUARD_S,
        check=check,
    )


def run_in_root(source: str) -> str:
    """Run Python source that imports bench/; return what it printed."""
    return run_script(f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{source}").stdout


# --- figures -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("measured", "limit", "at_least", "met"),
    [(5.0, 5, False, True), (5.1, 5, False, False), (5.0, 5, True, True), (4.9, 5, True, False)],
)
def test_a_limit_is_kept_up_to_the_limit_itself(
    measured: float, limit: float, at_least: bool, met: bool
) -> None:
    """Both kinds of limits, at their edge and beyond."""
    assert Figure("t", measured, "us", limit, at_least).met is met


def test_a_figure_without_a_limit_is_told_and_not_judged() -> None:
    """Its cells for limit and verdict stay empty."""
    figure = Figure("t", 2.5, "us")

    assert figure.met is None
    assert figure.cells() == ["t", "", "2.50 us", "", ""]


def test_a_figure_over_rounds_is_their_median_beside_the_lowest_and_highest() -> None:
    """One bad round does not decide."""
    figure = over_rounds("t", [0.02, 0.5, 0.01], "%", 0.025, note="why")

    assert figure.measured == 0.02
    assert figure.cells() == ["t", "<= 2.5%", "2.00%", "yes", "3 rounds: 1.00% to 50.00%; why"]


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(3.14159, "us", "3.14 us"), (123456.7, "rows/s", "123,457 rows/s"), (30.04, "x", "30.04x")],
)
def test_a_value_is_shown_with_its_unit(value: float, unit: str, text: str) -> None:
    """Digits as the unit deserves."""
    assert shown(value, unit) == text


def test_paired_overhead_is_what_the_step_takes_longer_and_all_of_the_worker() -> None:
    """The worker works in both blocks of a pair, so its time is counted in both."""
    logged = Block(wall_s=1.010e-3, caller_cpu_s=1.0e-3, process_cpu_s=1.004e-3)
    without = Block(wall_s=1.000e-3, caller_cpu_s=1.0e-3, process_cpu_s=1.002e-3)

    figure = overhead_figure("t", [[(logged, without)] * 7] * 3, 0.016)

    assert figure.measured == pytest.approx(0.016)
    assert "caller 10.0 us [10.0, 10.0], worker 6.0 us of CPU, step 1.000 ms" in figure.note


# --- instruments ---------------------------------------------------------------------------------


def test_a_gap_is_the_workers_where_one_of_its_bursts_lies_in_it() -> None:
    """In part at least; bursts that only touch it do not count."""
    bursts = [Burst(1.0, 2.0, 0.5), Burst(5.0, 5.5, 0.5), Burst(9.0, 9.5, 0.5)]
    gaps = [(0.0, 1.0), (1.5, 2.5), (2.0, 5.0), (4.0, 6.0), (6.0, 7.0), (9.1, 9.2), (10.0, 11.0)]

    theirs, rest = attributed(gaps, bursts)

    assert theirs == pytest.approx([1.0, 2.0, 0.1])
    assert rest == pytest.approx([1.0, 3.0, 1.0, 1.0])


def test_bursts_under_the_gil_end_where_the_thread_gives_it_up() -> None:
    """At a sleep, a write, and at a lock that is taken; not at one that is free."""
    printed = run_in_root(
        """
import json, os, threading, time
from bench.targets.gil import GilBursts

class Watch(GilBursts):
    def released(self):
        super().released()
        if taken in awaited:  # the thread has found it taken, and is about to wait
            awaited.remove(taken)
            taken.release()

watch, awaited = Watch(), []
go, taken, free = threading.Event(), threading.Lock(), threading.Lock()
taken.acquire()

def compute(cpu_s):
    start = time.thread_time()
    while time.thread_time() - start < cpu_s:
        pass

def run():
    go.wait()
    time.sleep(0)
    compute(0.01)
    time.sleep(0)
    compute(0.02)
    os.write(2, b"")
    with free:
        compute(0.03)
    awaited.append(taken)
    taken.acquire()
    compute(0.04)
    os.write(2, b"")

thread = threading.Thread(target=run, name="worker")
thread.start()
watch.watch("worker")
go.set()
thread.join()
print(json.dumps([burst.cpu_s for burst in watch.bursts()]))
"""
    )

    *_, first, second, third, fourth = json.loads(printed)
    for cpu_s, computed_s in ((first, 0.01), (second, 0.02), (third, 0.03), (fourth, 0.04)):
        assert cpu_s >= computed_s


def test_other_processes_are_seen_with_what_they_used_and_can_be_ended() -> None:
    """A child and its child; what they used is remembered when they are gone."""
    printed = run_in_root(
        """
import json, subprocess, time
from bench.lib.processes import DescendantsWatch, kill_descendants

with subprocess.Popen(["sh", "-c", "sleep 600; true"]) as child:
    watch = DescendantsWatch()
    while "sleep" not in watch.by_name():  # both begin as copies of their parents
        time.sleep(0.01)
        watch.look()
    kill_descendants()
    assert child.wait() < 0
print(json.dumps([sorted(watch.by_name()), watch.total().peak_mb > 0]))
"""
    )

    assert json.loads(printed) == [["sh", "sleep"], True]


def test_a_call_in_a_new_process_gives_back_its_answer_or_says_what_went_wrong() -> None:
    """The answer comes as JSON, an exception with its traceback."""
    assert call_in_new_process(shown, 1.5, "us") == "1.50 us"
    with pytest.raises(RuntimeError, match="KeyError: 'parsec'"):
        call_in_new_process(shown, 1.5, "parsec")


def test_rows_are_counted_in_the_journals_files(tmp_path: Path) -> None:
    """Rows of all segments, and nothing that is no row."""
    for number in range(2):
        writer = make_writer(tmp_path)
        writer.append([encode_row(seq, seq, 0.0, {"a": 1.0}) for seq in range(3 + number)])
        writer.close()

    assert rows_in_journal(tmp_path) == 7


# --- python -m bench.targets ---------------------------------------------------------------------


@pytest.mark.usefixtures("quick_end")
def test_the_targets_are_printed_and_written(tmp_path: Path) -> None:
    """Real ones, small: every figure has a line, and the same in the JSON file."""
    file = tmp_path / "targets.json"

    printed = run_module("bench.targets", "--quick", "--only", "constructor,bursts", "--json", file)

    written = json.loads(file.read_text())
    assert written["quick"] is True
    assert written["machine"]["cores"] >= 1
    assert len(written["figures"]) == 6
    for figure in written["figures"]:
        assert figure["measured"] > 0
        assert f"| {figure['target']} |" in printed.stdout
    assert "dropped 0, 5,000 rows found in the files" in printed.stdout
    judged = [figure for figure in written["figures"] if figure["limit"] is not None]
    assert f"of {len(judged)} limits are met" in printed.stdout


def test_an_unknown_target_is_refused() -> None:
    """Before anything is measured."""
    result = run_module("bench.targets", "--only", "constructor,nonsense", check=False)

    assert result.returncode == 2
    assert "--only: no such key: nonsense" in result.stderr


# --- python -m bench.gpu -------------------------------------------------------------------------


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_gpu_mode_says_so_and_is_done() -> None:
    """Nothing is measured, and that is no failure."""
    assert run_module("bench.gpu").stdout == "No CUDA device here: nothing is measured.\n"


@pytest.mark.usefixtures("quick_end")
def test_the_gpu_modes_loop_runs_on_a_cpu(tmp_path: Path) -> None:
    """All that is not the device's own: the model, the blocks, the ways, the table."""
    file = tmp_path / "gpu.json"

    result = run_module(
        "bench.gpu", "--quick", "--device", "cpu", "--only", "default", "--json", file
    )

    results = json.loads(file.read_text())["results"]
    assert [(found["way"], found["length"]) for found in results] == [
        ("default", "short"),
        ("default", "long"),
    ]
    for found in results:
        assert found["without_ms"] > 0
        assert (found["syncs"], found["memory_mb"]) == (None, [None, None])
    table = [line for line in result.stdout.splitlines() if line.startswith("| `log_training")]
    assert [line.endswith("| - | - | - |") for line in table] == [True, True]


class FakeEvent:
    """A CUDA event; the device needs a millisecond from each to the next."""

    made = 0

    def __init__(self, enable_timing: bool = False) -> None:
        assert enable_timing
        self.at_ms = 0.0

    def record(self) -> None:
        """Happen now."""
        FakeEvent.made += 1
        self.at_ms = float(FakeEvent.made)

    def elapsed_time(self, end: FakeEvent) -> float:
        """Return milliseconds, as CUDA's do."""
        return end.at_ms - self.at_ms


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """`torch.cuda` of one pretended device, and what was asked of it."""
    asked = SimpleNamespace(modes=[], waits=0, peak=3 * 2**20)

    def wait() -> None:
        asked.waits += 1

    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(torch.cuda, "synchronize", wait)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", asked.modes.append)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: asked.peak)
    return asked


def test_synchronisations_are_counted_by_thread_and_other_warnings_are_not(
    cuda: SimpleNamespace,
) -> None:
    """Every one counts, also those of one line; the mode is put back."""

    def wait_for_the_device(times: int) -> None:
        for _ in range(times):
            warnings.warn("called a synchronizing CUDA operation", stacklevel=2)

    def run() -> None:
        wait_for_the_device(3)
        warnings.warn("something else", stacklevel=2)
        thread = threading.Thread(target=wait_for_the_device, args=(2,), name="worker")
        thread.start()
        thread.join()

    assert Cuda().syncs(run) == {"MainThread": 3, "worker": 2}
    assert cuda.modes == ["warn", "default"]


def test_the_devices_clock_is_its_events(cuda: SimpleNamespace) -> None:
    """Two marks are a millisecond apart there, and a block has one at each end."""
    work = Workload(TINY_LENGTHS["short"].size)

    pairs = in_pairs(partial(block_s, work, 4, Cuda()), Way(work), 0, 2, 4)

    assert [seconds for pair in pairs for seconds in pair] == pytest.approx(4 * [0.25e-3])
    assert cuda.waits == 8


def test_the_devices_memory_is_the_allocators_highest(cuda: SimpleNamespace) -> None:
    """In MiB; a CPU has none to tell."""
    assert Cuda().peak_mb(lambda: None) == 3.0
    assert Host().peak_mb(lambda: None) is None


def test_synchronisations_of_training_itself_are_taken_off() -> None:
    """What is left is told per logged step and thread."""
    counts = [Counter(MainThread=10), Counter(MainThread=30, worker=5)]

    assert per_logged_step(counts, 10) == {"MainThread": 2.0, "worker": 0.5}
    assert per_logged_step([None, None], 10) is None


# --- on a cluster --------------------------------------------------------------------------------


@needs_slurm
@pytest.mark.usefixtures("quick_end")
def test_the_benchmark_job_collects_its_results(tmp_path: Path) -> None:
    """On a node without a GPU: that is said, the rest is measured, all lies in one directory."""
    log = tmp_path / "job.out"
    environment = {**os.environ, "SCRATCH": str(tmp_path), "PYTHON": sys.executable}
    with SlurmCluster(nodes=1) as cluster:
        job_id = cluster.submit(
            f"--chdir={ROOT}",
            f"--output={log}",
            ROOT / "slurm" / "bench_gpu.sbatch",
            "--quick",
            "--only=wandb",
            environment=environment,
        )
        job = cluster.wait_for_state(job_id, "COMPLETED", "FAILED")

    assert (job["JobState"], job["ExitCode"]) == ("COMPLETED", "0:0"), log.read_text()
    results = tmp_path / "bench-results" / job_id
    names = {"gpu.md", "results.md", "results.json", "slowdown.png", "steps.png"}
    assert names <= {path.name for path in results.iterdir()}
    assert "`wandb.log` inline" in (results / "results.md").read_text()
    if not torch.cuda.is_available():
        assert "nothing is measured" in (results / "gpu.md").read_text()
