"""Rank and world size from every launcher. tests/conftest.py removes the launchers' variables."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.runs import run_script

from fasttrack.context.distributed import get_rank, get_world_size, is_main_process

_ONE_RANK_GROUP = """
import sys
import torch.distributed as dist
from fasttrack.context.distributed import get_rank, get_world_size, is_main_process

def show():
    print(get_rank(), get_world_size(), is_main_process())

show()
dist.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=0, world_size=1)
show()
dist.destroy_process_group()
show()
"""


def set_environment(monkeypatch: pytest.MonkeyPatch, assignments: str) -> None:
    """Set variables from text such as "RANK=1 WORLD_SIZE=2"."""
    for assignment in assignments.split():
        name, _, value = assignment.partition("=")
        monkeypatch.setenv(name, value)


def test_process_without_a_launcher_is_alone() -> None:
    """No variable, no process group: rank 0 of 1."""
    assert (get_rank(), get_world_size(), is_main_process()) == (0, 1, True)


@pytest.mark.parametrize(
    ("environment", "rank", "world_size"),
    [
        ("RANK=3 WORLD_SIZE=8", 3, 8),
        ("RANK=0 WORLD_SIZE=8", 0, 8),
        ("SLURM_PROCID=5 SLURM_STEP_NUM_TASKS=6", 5, 6),
        ("OMPI_COMM_WORLD_RANK=2 OMPI_COMM_WORLD_SIZE=4", 2, 4),
        ("PMI_RANK=1 PMI_SIZE=3", 1, 3),
    ],
)
def test_each_launcher_is_known(
    monkeypatch: pytest.MonkeyPatch, environment: str, rank: int, world_size: int
) -> None:
    """torchrun and DeepSpeed, srun, Open MPI, MPICH."""
    set_environment(monkeypatch, environment)

    assert (get_rank(), get_world_size()) == (rank, world_size)
    assert is_main_process() is (rank == 0)


@pytest.mark.parametrize(
    ("environment", "rank", "world_size"),
    [
        ("RANK=7 WORLD_SIZE=8 SLURM_PROCID=1 SLURM_STEP_NUM_TASKS=2", 7, 8),
        ("RANK=0 WORLD_SIZE=8 SLURM_PROCID=1 SLURM_STEP_NUM_TASKS=2", 0, 8),
        ("RANK=7 WORLD_SIZE=8 OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=2", 7, 8),
        ("SLURM_PROCID=1 SLURM_STEP_NUM_TASKS=2 PMI_RANK=0 PMI_SIZE=1", 1, 2),
        ("OMPI_COMM_WORLD_RANK=2 OMPI_COMM_WORLD_SIZE=4 PMI_RANK=1 PMI_SIZE=3", 2, 4),
        ("SLURM_PROCID=0 OMPI_COMM_WORLD_RANK=2 OMPI_COMM_WORLD_SIZE=4", 2, 4),
    ],
)
def test_most_specific_launcher_wins(
    monkeypatch: pytest.MonkeyPatch, environment: str, rank: int, world_size: int
) -> None:
    """Under `srun torchrun`, SLURM_PROCID is the node's number and RANK the truth."""
    set_environment(monkeypatch, environment)

    assert (get_rank(), get_world_size()) == (rank, world_size)


@pytest.mark.parametrize(
    "environment",
    [
        "SLURM_PROCID=0",
        "SLURM_PROCID=3",
        "SLURM_PROCID=3 SLURM_STEP_NUM_TASKS=1",
        "SLURM_PROCID=3 SLURM_STEP_NUM_TASKS=0",
        "SLURM_PROCID=3 SLURM_STEP_NUM_TASKS=many",
        "SLURM_PROCID=3 SLURM_NTASKS=4 SLURM_NPROCS=4",
    ],
)
def test_slurm_counts_only_in_a_step_of_several_tasks(
    monkeypatch: pytest.MonkeyPatch, environment: str
) -> None:
    """A batch script, and an interactive shell, have SLURM_PROCID without being a rank."""
    set_environment(monkeypatch, environment)

    assert (get_rank(), get_world_size()) == (0, 1)


@pytest.mark.parametrize("value", ["", " ", "-1", "1.0", "two", "0x1", "1 ", "None"])
def test_rank_that_is_no_number_is_not_there(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """Garbage in one launcher's variable gives way to the next launcher."""
    monkeypatch.setenv("RANK", value)
    set_environment(monkeypatch, "WORLD_SIZE=9 PMI_RANK=1 PMI_SIZE=2")

    assert (get_rank(), get_world_size()) == (1, 2)


def test_rank_of_an_exotic_digit_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the environment holds, asking for the rank raises nothing."""
    monkeypatch.setenv("RANK", "²")

    assert get_rank() == 0


@pytest.mark.parametrize("size", [None, "", "0", "-4", "all"])
def test_world_size_that_is_no_number_counts_as_one(
    monkeypatch: pytest.MonkeyPatch, size: str | None
) -> None:
    """A rank without a usable world size still is a rank."""
    monkeypatch.setenv("RANK", "2")
    if size is not None:
        monkeypatch.setenv("WORLD_SIZE", size)

    assert (get_rank(), get_world_size()) == (2, 1)


def test_log_rank_moves_the_main_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """With pipeline parallelism the loss lives on the last stage."""
    set_environment(monkeypatch, "RANK=3 WORLD_SIZE=4")

    assert is_main_process(log_rank=3)
    assert not is_main_process()


def test_initialised_process_group_wins_over_the_environment_while_it_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real gloo group of one rank, in a process whose launcher says rank 5 of 6."""
    set_environment(monkeypatch, "RANK=5 WORLD_SIZE=6")

    result = run_script(_ONE_RANK_GROUP, str(tmp_path / "rendezvous"))

    assert result.stdout.splitlines() == ["5 6 False", "0 1 True", "5 6 False"], result.stderr


def test_asking_for_the_rank_does_not_load_torch() -> None:
    """The delivery process and command line may ask, too."""
    code = (
        "import sys; from fasttrack.context.distributed import get_rank, get_world_size;"
        "get_rank(), get_world_size(); sys.exit('torch' in sys.modules)"
    )

    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
