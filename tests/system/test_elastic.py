"""torchrun starts its ranks again, here and on another node: one run, its attempts counted."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from support.journals import read_entries, read_headers
from support.runs import HANG_GUARD_S, offline_dirs, program_environment, wait_until, wandb_rows
from support.slurm_cluster import SlurmCluster, free_ports, needs_slurm
from support.slurm_site import OVER

from fasttrack.goodput import read_goodput
from fasttrack.journal.entries import Metadata
from fasttrack.journal.reader import count_rows, read_segment
from fasttrack.journal.rows import Row
from fasttrack.journal.run_directory import segments

if TYPE_CHECKING:
    from collections.abc import Iterator

_TRAINER = Path(__file__).parents[1] / "support" / "elastic_trainer.py"
# Else torch 2.13 has all groups of an agent meet at one store, where a new one finds the addresses
# of ranks that are dead: with gloo it fails once more, or waits for ever.
_A_STORE_FOR_EACH_GROUP = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
_TEMPLATE = Path(__file__).parents[2] / "slurm" / "train_ddp.sbatch"
_TORCHRUN = str(Path(sys.executable).with_name("torchrun"))
_SOME_ROWS = 8  # more than steps from one checkpoint to the next


def environment_of(directory: Path) -> dict[str, str]:
    """Return the environment of an agent whose ranks record in `directory`."""
    return {**program_environment(), "WANDB_DIR": str(directory), **_A_STORE_FOR_EACH_GROUP}


@contextmanager
def agent(directory: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run torchrun, which is killed with its ranks where it is still there at the end."""
    command = [_TORCHRUN, *options, "--monitor-interval=0.1", str(_TRAINER), str(directory)]
    log = (directory / f"agent-{len(list(directory.glob('agent-*')))}").open("wb")
    with (
        log,
        subprocess.Popen(
            command,
            env=environment_of(directory),
            stdout=log,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        try:
            yield process
        finally:
            kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    """Do what a node does that loses its power: agent and ranks are gone at once."""
    ranks = children_of(process.pid) if process.poll() is None else []
    for pid in [process.pid, *ranks] if process.poll() is None else []:
        os.kill(pid, signal.SIGKILL)
    process.wait(HANG_GUARD_S)


def children_of(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found]


def node_of(directory: Path, rank: int) -> str:
    """Return the node of Slurm's that a rank of the newest group is on."""
    noted = [json.loads(line) for line in (directory / "ranks").read_text().splitlines()]
    pid = [pid for pid, its_rank, *_ in noted if its_rank == rank][-1]
    variables = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return dict(each.split("=", 1) for each in variables if each)["SLURMD_NODENAME"]


def attempts(directory: Path) -> list[Path]:
    """Return the segments of the one run that there is."""
    runs = list((directory / "wandb" / "fasttrack").glob("[!.]*"))
    assert len(runs) <= 1, runs
    return segments(runs[0]) if runs else []


def wait_for_attempt(directory: Path, number: int, *agents: subprocess.Popen[bytes]) -> None:
    """Wait until attempt `number` has trained some steps, while all of `agents` live."""

    def trains() -> bool:
        assert [process.poll() for process in agents] == [None] * len(agents)
        paths = attempts(directory)
        return len(paths) >= number and count_rows(paths[number - 1]) >= _SOME_ROWS

    wait_until(trains, HANG_GUARD_S)


def end(directory: Path, *agents: subprocess.Popen[bytes]) -> None:
    """Have all ranks end in order."""
    (directory / "stop").touch()
    for process in agents:
        assert process.wait(HANG_GUARD_S) == 0


def assert_one_run(directory: Path, count: int) -> list[dict[str, str]]:
    """Check a run of so many attempts, each row of which is there and is delivered once.

    Returns:
        What each attempt recorded of its environment.
    """
    paths = attempts(directory)
    steps = [
        [entry.step for entry in read_segment(path) if isinstance(entry, Row)] for path in paths
    ]
    assert len(paths) == count
    for before, after in itertools.pairwise(steps):
        assert after[0] % 5 == 0
        assert 0 < after[0] <= before[-1] + 1
    assert all(each == list(range(each[0], each[-1] + 1)) for each in steps)
    assert [header.resumed for header in read_headers(paths[0].parent)] == [
        False,
        *[True] * (count - 1),
    ]
    rows = [row for found in offline_dirs(directory) for row in wandb_rows(found)]
    logged = [step for each in steps for step in each]
    assert [row["step"] for row in rows if "loss/total" in row] == logged
    goodput = read_goodput(paths)
    assert (goodput.restarts, goodput.kept_steps) == (count - 1, logged[-1] + 1)
    assert goodput.lost_steps == len(logged) - goodput.kept_steps
    return [entry.values["environment"] for entry in read_entries(paths[0].parent, Metadata)]


def test_a_group_that_is_started_again_goes_on_in_its_run(tmp_path: Path) -> None:
    """The rank that records is killed, later the other one: without an id of torchrun's."""
    endpoint = f"--rdzv-endpoint=127.0.0.1:{free_ports(1)[0]}"
    options = (endpoint, "--rdzv-backend=c10d", "--nproc-per-node=2", "--max-restarts=5")
    with agent(tmp_path, *options) as torchrun:
        wait_for_attempt(tmp_path, 1, torchrun)
        (tmp_path / "die-0").touch()
        wait_for_attempt(tmp_path, 2, torchrun)
        (tmp_path / "die-1").touch()
        wait_for_attempt(tmp_path, 3, torchrun)
        end(tmp_path, torchrun)

    environments = assert_one_run(tmp_path, 3)
    counts = [int(each["TORCHELASTIC_RESTART_COUNT"]) for each in environments]
    assert counts == sorted(set(counts))
    assert {each["TORCHELASTIC_RUN_ID"] for each in environments} == {"none"}


def test_a_run_goes_on_where_its_recording_rank_comes_to_another_node(tmp_path: Path) -> None:
    """Its node dies; the other's rank takes over; then a new node joins, and has the first rank.

    That node's agent has never started anything again, and counts from 0.
    """
    endpoint = f"--rdzv-endpoint=127.0.0.1:{free_ports(1)[0]}"
    common = ("--nnodes=1:2", "--nproc-per-node=1", "--max-restarts=5", "--rdzv-backend=c10d")
    patience = "last_call_timeout=1,keep_alive_interval=1,keep_alive_max_attempt=5"

    def node(address: str, *, hosts: bool) -> tuple[str, ...]:
        conf = f"--rdzv-conf={patience},is_host={int(hosts)}"
        return (*common, endpoint, "--rdzv-id=job 7", f"--local-addr={address}", conf)

    with agent(tmp_path, *node("127.0.0.2", hosts=True)) as lasting:
        with agent(tmp_path, *node("127.0.0.1", hosts=False)) as first:
            wait_for_attempt(tmp_path, 1, lasting, first)
            kill(first)
        wait_for_attempt(tmp_path, 2, lasting)
        with agent(tmp_path, *node("127.0.0.1", hosts=False)) as newcomer:
            wait_for_attempt(tmp_path, 3, lasting, newcomer)
            end(tmp_path, lasting, newcomer)

    environments = assert_one_run(tmp_path, 3)
    noted = [json.loads(line) for line in (tmp_path / "ranks").read_text().splitlines()]
    assert [each["WORLD_SIZE"] for each in environments] == ["2", "1", "2"]
    assert environments[-1]["TORCHELASTIC_RESTART_COUNT"] == "0"
    assert len({pid for pid, rank, *_ in noted if rank == 0}) == 3
    assert {each["TORCHELASTIC_RUN_ID"] for each in environments} == {"job 7"}
    assert list((tmp_path / "wandb" / "fasttrack" / ".jobs").glob("torchelastic-job_7.jsonl"))


@needs_slurm
def test_a_slurm_jobs_run_outlives_a_rank_and_a_node(tmp_path: Path) -> None:
    """An agent on each of two nodes: one's rank is killed, and they start both again.

    Then the other's node loses its power: the ranks that are left do not hang, Slurm puts the job
    back into the queue, and new agents go on in the run.
    """
    (tmp_path / "logs").mkdir()
    environment = {**environment_of(tmp_path), "PYTHON": sys.executable, "SCRATCH": str(tmp_path)}
    endpoint = f"--rdzv-endpoint=127.0.0.1:{free_ports(1)[0]}"
    agents = ("--rdzv-backend=c10d", endpoint, "--max-restarts=5", "--monitor-interval=0.1")
    command = (_TEMPLATE, *agents, _TRAINER, tmp_path)
    with SlurmCluster(nodes=3) as cluster:
        job_id = cluster.submit(*command, environment=environment, directory=tmp_path)
        wait_for_attempt(tmp_path, 1)
        (tmp_path / "die-0").touch()
        wait_for_attempt(tmp_path, 2)
        cluster.fail_node(node_of(tmp_path, rank=1))
        wait_for_attempt(tmp_path, 3)
        (tmp_path / "stop").touch()
        job = cluster.wait_for_state(job_id, *OVER)

    (log,) = (tmp_path / "logs").iterdir()
    assert (job["JobState"], job["Restarts"]) == ("COMPLETED", "1"), log.read_text()
    environments = assert_one_run(tmp_path, 3)
    assert [each["TORCHELASTIC_RESTART_COUNT"] for each in environments] == ["0", "1", "0"]
    assert [each["GROUP_WORLD_SIZE"] for each in environments] == ["2"] * 3
    slurm = [
        entry.values["slurm"] for entry in read_entries(attempts(tmp_path)[0].parent, Metadata)
    ]
    assert [(each["job_id"], each["restart_count"]) for each in slurm] == [
        (job_id, 0),
        (job_id, 0),
        (job_id, 1),
    ]
    said = log.read_text()  # also what the first agents said
    assert said.count("which an earlier start of this job began") == 2, said
