"""A user's account on a cluster of a test's own: it submits the scripts of slurm/."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from support.journals import read_entries, read_rows
from support.runs import QUICK_END, offline_dirs, wandb_rows
from support.slurm_cluster import free_ports

from fasttrack.journal.entries import Metadata
from fasttrack.journal.reader import read_finish
from fasttrack.journal.run_directory import segments

if TYPE_CHECKING:
    from support.slurm_cluster import SlurmCluster

EXAMPLES = Path(__file__).parents[2] / "examples"
OVER = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
"""States in which a job is over."""
PATIENCE_S = 300.0
STEPS_BEFORE_THE_SIGNAL = 20
_SCRIPTS = EXAMPLES.with_name("slurm")
_SBATCH_OPTIONS = ("--nodes", "--nodelist", "--time", "--signal", "--partition", "--exclusive")
_NOT_THEIRS = ("COVERAGE_PROCESS_CONFIG", "WANDB_DIR", "XDG_CACHE_HOME", "OMP_NUM_THREADS")


@dataclass(frozen=True)
class Site:
    """A user's directories on a cluster: where sbatch is called, the scratch disk, home."""

    base: Path

    @property
    def scratch(self) -> Path:
        """Where runs and checkpoints belong."""
        return self.base / "scratch"

    def submit(self, cluster: SlurmCluster, script: str | Path, *arguments: str | Path) -> str:
        """Submit a script of slurm/ from here, with options before and arguments after its name."""
        options = [text for text in arguments if str(text).startswith(_SBATCH_OPTIONS)]
        rest = [text for text in arguments if text not in options]
        (self.base / "logs").mkdir(exist_ok=True)
        environment = {name: text for name, text in os.environ.items() if name not in _NOT_THEIRS}
        environment |= {
            "SCRATCH": str(self.scratch),
            "PYTHON": sys.executable,
            "PYTHONPATH": QUICK_END,
            "MASTER_PORT": str(free_ports(1)[0]),
            "OMP_NUM_THREADS": "1",
        }
        command = (*options, _SCRIPTS / script, *rest)
        return cluster.submit(*command, environment=environment, directory=self.base)

    def log(self, job_id: str) -> str:
        """What the job printed so far."""
        return "".join(path.read_text() for path in (self.base / "logs").glob(f"*_{job_id}.out"))

    @property
    def run_dir(self) -> Path:
        """The journal of the one run that there is."""
        (directory,) = (self.scratch / "wandb" / "fasttrack").glob("[!.]*")
        return directory

    def jobs(self) -> list[dict[str, Any]]:
        """What each attempt recorded of its Slurm job, in order."""
        return [entry.values["slurm"] for entry in read_entries(self.run_dir, Metadata)]

    def steps(self, key: str = "loss/total") -> list[int]:
        """The steps of the rows that hold `key`, in order."""
        return [row.step for row in read_rows(self.run_dir, key)]

    def trains(self) -> bool:
        """Whether the training has come far enough to be disturbed."""
        if not list((self.scratch / "wandb" / "fasttrack").glob("[!.]*")):
            return False
        return len(read_rows(self.run_dir)) >= STEPS_BEFORE_THE_SIGNAL

    def endings(self) -> list[tuple[int, bool] | None]:
        """How each attempt ended, by its last line: exit code, and whether it was preempted."""
        finishes = [read_finish(path) for path in segments(self.run_dir)]
        return [(ending.exit_code, ending.preempting) if ending else None for ending in finishes]

    def offline_steps(self) -> list[int]:
        """The steps of all rows in W&B's offline directories, in order."""
        rows = [row for directory in offline_dirs(self.scratch) for row in wandb_rows(directory)]
        return [row["step"] for row in rows if "loss/total" in row]
