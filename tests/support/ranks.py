"""Ranks with the environment that torchrun gives them, as forks that have imported much.

torchrun's own import and each rank's take two seconds of CPU apiece, with the interpreter's end.
Where the launcher is the subject, or what a rank's start finds, it is torchrun that starts them.
"""

from __future__ import annotations

import subprocess
import textwrap
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from support.forks import TrainingFork
from support.runs import HANG_GUARD_S, script_environment
from support.slurm_cluster import free_ports

if TYPE_CHECKING:
    from pathlib import Path

AS_A_PROGRAM = """
import runpy, sys
sys.argv[:] = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""A source that runs the file which is its first argument."""
_NOT_THEIRS = ("WANDB_", "SLURM_")


def run_ranks(
    ranks: int, source: str, *arguments: str | Path, directory: Path, **variables: str
) -> list[subprocess.CompletedProcess[str]]:
    """Run Python source as each rank of one world; return what each printed, all having ended well.

    Args:
        ranks: how many; all are of one node.
        source: the script's.
        arguments: its `sys.argv[1:]`.
        directory: where they work; also their home, and where W&B's files lie.
        variables: of the environment, which has nothing else of W&B's, and nothing of Slurm's.
    """
    kept = {k: v for k, v in script_environment().items() if not k.startswith(_NOT_THEIRS)}
    place = {"HOME": str(directory), "WANDB_DIR": str(directory), "WANDB_ERROR_REPORTING": "false"}
    world = {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1"}
    common = {**kept, **place, **world, "MASTER_PORT": str(free_ports(1)[0]), **variables}
    pipe = subprocess.PIPE
    started = [
        TrainingFork(
            textwrap.dedent(source),
            *map(str, arguments),
            warnings=None,
            environment={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=pipe,
            stderr=pipe,
        )
        for rank in range(ranks)
    ]
    with ThreadPoolExecutor(ranks) as pool:
        ended = list(pool.map(_wait, started))
    assert [each.returncode for each in ended] == [0] * ranks, [each.stderr for each in ended]
    return ended


def _wait(rank: TrainingFork) -> subprocess.CompletedProcess[str]:
    with rank:
        try:
            stdout, stderr = rank.communicate(timeout=HANG_GUARD_S)
        except BaseException:
            rank.kill()
            raise
    return subprocess.CompletedProcess(rank.args, rank.returncode, stdout, stderr)
