"""Nodes that are sampled into one run: real processes, gloo, the store, files, namespaces."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.journals import read_rows
from support.runs import HANG_GUARD_S, run_script, start_script, wait_until
from support.slurm_cluster import free_ports

from fasttrack.journal.reader import read_finish
from fasttrack.journal.run_directory import segments

# Four processes on three nodes. The first records; another node shows nothing of its directory.
RANKS = """
import ctypes, datetime, os, subprocess, sys, threading, time

rank, port, base = int(sys.argv[1]), sys.argv[2], sys.argv[3]
node, local = [("a", 0), ("b", 0), ("c", 0), ("a", 1)][rank]
os.environ.update(
    SLURMD_NODENAME=node + ".cluster", LOCAL_RANK=str(local), GROUP_WORLD_SIZE="3", WANDB_DIR=base,
    RANK=str(rank), WORLD_SIZE="4",
)
if node == "c":
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.unshare(0x00020000) == 0, ctypes.get_errno()  # CLONE_NEWNS
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", base], check=True)

import torch.distributed as dist
from fasttrack.nodes import member
from support.runs import make_tracker
from support.trackers import journal_only

member._PLACE_S = 0.5
tracker = make_tracker(options=journal_only(nodes="all", nodes_interval_s=0.2))  # before the group
dist.init_process_group(
    "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=4,
    timeout=datetime.timedelta(seconds=60),
)
threads = [thread.name for thread in threading.enumerate()]
assert threads.count("fasttrack-node") == int(local == 0), threads
print(tracker.get_run_dir(), flush=True)
if rank == 0:
    over = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.readline(), over.set()), daemon=True).start()
    step = 0
    while not over.is_set():
        tracker.log_training_step(1.0, step)
        step += 1
        time.sleep(0.01)
    dist.destroy_process_group()  # and with it the store's server
    time.sleep(0.5)  # some samples later
else:
    sys.stdin.readline()
tracker.finish()
assert not any(thread.name == "fasttrack-node" for thread in threading.enumerate())
print("left", flush=True)
"""

# Two processes of a Slurm job without a process group.
WITHOUT_GROUP = """
import os, sys, time
from support.runs import make_tracker
from support.trackers import journal_only

rank = int(sys.argv[1])
launcher = {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": "0", "SLURMD_NODENAME": "ab"[rank]}
os.environ.update(launcher | eval(sys.argv[2]))
log_rank = int(os.environ.get("LOG_RANK", "0"))
tracker = make_tracker(
    options=journal_only(nodes="all", nodes_interval_s=0.2, log_rank=log_rank),
    resume_id=sys.argv[3] or None, tags=None,
)
print(tracker.get_run_dir(), flush=True)
if rank == log_rank:
    tracker.log_metrics({"a": 1}, 7)
sys.stdin.readline()
tracker.finish()
"""


def values_of(run_dir: Path, metric: str) -> list[float]:
    """Return the values of a metric in the run's journal."""
    return [row.values[metric] for row in read_rows(run_dir, metric)]


def lines_of(path: Path) -> list[dict[str, Any]]:
    """Return the whole lines of a node's file."""
    *lines, _ = path.read_bytes().split(b"\n")
    return [json.loads(line) for line in lines]


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that are ended with the test."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        if process.poll() is None:
            process.kill()
        with contextlib.suppress(ValueError):  # its streams were read to their ends
            process.communicate()


def leave(process: subprocess.Popen[str]) -> str:
    """Tell a process to end, and return what it printed since; it must end well."""
    out, error = process.communicate("\n", timeout=HANG_GUARD_S)
    assert process.returncode == 0, error
    assert "nodes:" not in error or "nodes: nothing of b" in error, error
    return out


def assert_that_training_is_in_order(run_dir: Path) -> None:
    """No step lies behind another; each that was trained is there once."""
    rows = read_rows(run_dir)
    steps = [row.step for row in rows]
    assert steps == sorted(steps)
    assert [row.step for row in rows if "loss/total" in row.values] == list(range(max(steps) + 1))
    assert [row.seq for row in rows] == list(range(len(rows)))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may hide a directory from a process")
def test_all_nodes_are_in_the_run_and_one_that_dies_harms_nobody(
    tmp_path: Path, processes: list[subprocess.Popen[str]]
) -> None:
    """By files, by the store where there is no shared directory; rows stay in order; a kill -9."""
    port = str(free_ports(1)[0])
    for rank in range(4):
        ranks = start_script(RANKS, str(rank), port, str(tmp_path), warnings=None)
        processes.append(ranks)
    printed = [process.stdout.readline().strip() for process in processes]  # type: ignore[union-attr]
    assert [text == "None" for text in printed] == [False, True, True, True], printed
    run_dir = Path(printed[0])

    def told() -> set[str]:
        return {name for row in read_rows(run_dir) for name in row.values}

    wait_until(lambda: {f"host/{node}/cpu_cores" for node in "abc"} <= told())
    processes[1].kill()
    processes[1].communicate()
    assert processes[1].returncode == -signal.SIGKILL
    wait_until(lambda: values_of(run_dir, "nodes/missing")[-1] == 1)
    others = [processes[number] for number in (2, 3, 0)]
    assert [leave(process).split() for process in others] == [["left"]] * 3

    assert_that_training_is_in_order(run_dir)
    (segment,) = segments(run_dir)
    assert read_finish(segment) is not None
    assert sorted(path.name for path in run_dir.glob("node-*")) == [
        "node-a-0001.jsonl",
        "node-b-0001.jsonl",
        "node-c-0001.jsonl",
    ]
    for node, ends_with in (("a", "sample"), ("b", "sample"), ("c", "sample")):
        first, *samples = lines_of(run_dir / f"node-{node}-0001.jsonl")
        assert (first["kind"], first["node"], first["interval_s"]) == ("node", node, 0.2)
        assert samples[-1]["kind"] == ends_with
        in_run = values_of(run_dir, f"host/{node}/memory_used_gb")
        in_file = [line["host"]["memory_used_gb"] for line in samples if line["kind"] == "sample"]
        # The run has each that was there in time, in order, once; but for those before its rows.
        assert len(in_run) >= 2
        assert any(in_run == in_file[n : n + len(in_run)] for n in range(len(in_file)))
    assert set(values_of(run_dir, "nodes/missing")) >= {0, 1}


@pytest.mark.parametrize("given", ["", "given123"], ids=["job", "id"])
def test_without_a_process_group_nodes_meet_by_their_job_or_the_runs_id(
    tmp_path: Path,
    processes: list[subprocess.Popen[str]],
    monkeypatch: pytest.MonkeyPatch,
    given: str,
) -> None:
    """A second attempt has files of its own; the note of the job goes with the run."""
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    environment = {} if given else {"SLURM_JOB_ID": "17", "SLURM_RESTART_COUNT": "0"}
    runs = tmp_path / "wandb" / "fasttrack"
    for number in (1, 2) if given else (1,):
        pair = [start_script(WITHOUT_GROUP, str(rank), repr(environment), given) for rank in (1, 0)]
        processes += pair
        visitor, home = pair
        assert visitor.stdout is not None
        assert visitor.stdout.readline() == "None\n"
        assert home.stdout is not None
        run_dir = Path(home.stdout.readline().strip())
        wait_until(lambda: (run_dir / f"node-b-{number:04d}.jsonl").exists())  # noqa: B023
        wait_until(lambda: len(lines_of(run_dir / f"node-b-{number:04d}.jsonl")) > 2)  # noqa: B023
        leave(home)
        ending = run_dir / f"node-b-{number:04d}.jsonl"
        wait_until(lambda: lines_of(ending)[-1]["kind"] == "end")  # noqa: B023
        assert lines_of(ending)[-1]["why"] == "the run ended"
        leave(visitor)
        assert {"host/a/memory_used_gb", "host/b/memory_used_gb"} <= {
            name for row in read_rows(run_dir) for name in row.values
        }
    assert list(runs.glob(".jobs/*.json*")) == []


def test_the_rank_that_records_need_not_be_the_one_that_samples(
    tmp_path: Path, processes: list[subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`log_rank` 1 on the node of rank 0; and a run's directory that is deleted stays so."""
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    job = {"SLURM_JOB_ID": "18", "SLURMD_NODENAME": "a", "LOG_RANK": "1"}
    processes += [
        start_script(WITHOUT_GROUP, str(rank), repr({**job, "LOCAL_RANK": str(rank)}), "")
        for rank in range(2)
    ]
    visitor, home = processes
    assert visitor.stdout is not None
    assert visitor.stdout.readline() == "None\n"
    assert home.stdout is not None
    run_dir = Path(home.stdout.readline().strip())
    wait_until(lambda: len(read_rows(run_dir, "host/a/cpu_cores")) > 1)
    assert lines_of(run_dir / "node-a-0001.jsonl")[0]["pid"] == visitor.pid
    leave(home)
    shutil.rmtree(run_dir)
    leave(visitor)

    assert not run_dir.exists()


def test_a_process_that_samples_its_node_loads_little_and_is_no_burden(tmp_path: Path) -> None:
    """No torch, no worker, no delivery; a forked child leaves the thread to its parent."""
    (tmp_path / "empty").mkdir()
    printed = run_script(
        """
        import os, sys, threading
        os.environ.update(RANK="1", WORLD_SIZE="2", LOCAL_RANK="0", WANDB_DIR=sys.argv[1])
        import fasttrack
        with fasttrack.ExperimentTracker("x", options=fasttrack.Options(nodes="all")) as tracker:
            tracker.log_training_step(1.0, 0)
            names = [thread.name for thread in threading.enumerate()]
            pid = os.fork()
            if not pid:
                tracker.finish()
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
        print(names, threading.active_count(), os.listdir(sys.argv[1]))
        print({"torch", "numpy", "wandb", "fasttrack.engine", "fasttrack.hotpath"} & {*sys.modules})
        """,
        str(tmp_path / "empty"),
        fresh=True,
        warnings=None,
    ).stdout
    assert re.sub(r"\s+", " ", printed) == "['MainThread', 'fasttrack-node'] 1 [] set() "
