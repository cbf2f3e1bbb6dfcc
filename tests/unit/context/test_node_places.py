"""Which process samples its node, what that is called, and how many there are."""

from __future__ import annotations

import socket

import pytest

from fasttrack.context.places import count_nodes, fit_name, local_rank, node_name

SRUN = {"SLURM_STEP_NUM_TASKS": "16", "SLURM_LOCALID": "3", "SLURM_STEP_NUM_NODES": "2"}


@pytest.mark.parametrize(
    ("environment", "ranks", "local", "nodes"),
    [
        ({}, 1, 0, 1),
        ({}, 4, None, None),
        ({"LOCAL_RANK": "0", "GROUP_WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "8"}, 16, 0, 2),
        ({**SRUN, "LOCAL_RANK": "5", "GROUP_WORLD_SIZE": "4"}, 16, 5, 4),  # srun torchrun
        (SRUN, 16, 3, 2),
        ({"SLURM_LOCALID": "0", "SLURM_STEP_NUM_TASKS": "1"}, 2, None, None),  # a batch script
        ({"OMPI_COMM_WORLD_LOCAL_RANK": "1", "OMPI_COMM_WORLD_LOCAL_SIZE": "4"}, 9, 1, 3),
        ({"LOCAL_RANK": "x", "LOCAL_WORLD_SIZE": "0"}, 2, None, None),
    ],
)
def test_launchers_say_it(
    environment: dict[str, str], ranks: int, local: int | None, nodes: int | None
) -> None:
    """And where they do not, it is not guessed."""
    assert (local_rank(ranks, environment), count_nodes(ranks, environment)) == (local, nodes)


def test_names_are_fit_for_metrics_and_files() -> None:
    """Slurm's first; without a domain; nothing that a path or a metric cannot hold."""
    assert node_name({"SLURMD_NODENAME": "gpu-a07"}) == "gpu-a07"
    assert node_name({}) == fit_name(socket.gethostname())
    assert fit_name("n1.cluster.org") == "n1"
    assert fit_name("../böse/n 1") == "node"
    assert fit_name("a/b c%d") == "a_b_c_d"
    assert len(fit_name("x" * 300)) == 63
