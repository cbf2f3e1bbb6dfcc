"""A chain of a real Slurm job's attempts, and what its goodput must be: `goodput_chain.py` runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.goodput_chain import PAUSE_S
from support.runs import wait_until
from support.slurm_site import PATIENCE_S

from fasttrack.goodput import read_goodput
from fasttrack.journal.reader import count_rows
from fasttrack.journal.run_directory import segments

if TYPE_CHECKING:
    from collections.abc import Mapping

    from support.slurm_cluster import SlurmCluster

_PROGRAM = Path(__file__).with_name("goodput_chain.py")
_ROWS = 60  # more than the program's steps from one checkpoint to the next


def write_chain_script(base: Path) -> str:
    """Write the batch script of a job that runs the program in `base`; return its path."""
    script = base / "chain.sbatch"
    script.write_text(
        "#!/bin/bash\n"
        "#SBATCH --requeue --open-mode=append --output=logs/%x_%j.out\n"
        f"export WANDB_DIR={base}/scratch\n"
        f"exec {sys.executable} -u {_PROGRAM} {base}\n"
    )
    return str(script)


def preempt_thrice(cluster: SlurmCluster, job_id: str, base: Path) -> None:
    """Let the job train a while each time it has begun, then submit one that is more urgent."""
    for attempt in (1, 2, 3):
        wait_until(lambda: _has_trained(base, attempt), PATIENCE_S)  # noqa: B023
        node = cluster.job(job_id)["NodeList"]
        urgent = ("--partition=urgent", f"--nodelist={node}", "--exclusive", "--wrap=true")
        cluster.command("sbatch", "--output=/dev/null", *urgent)
        wait_until(lambda: cluster.job(job_id)["Restarts"] == str(attempt), PATIENCE_S)  # noqa: B023


def _has_trained(base: Path, attempt: int) -> bool:
    """Return whether this attempt has come past a checkpoint."""
    runs = list((base / "scratch" / "wandb" / "fasttrack").glob("[!.]*"))
    paths = segments(runs[0]) if runs else []
    return len(paths) == attempt and count_rows(paths[-1]) > _ROWS


class _Truth:
    """What the program noted while it happened."""

    def __init__(self, noted: list[tuple[str, int, float, float]]) -> None:
        self.done: list[tuple[int, float]] = []
        self.pause_s = 0.0
        self.cut_pause_s = 0.0
        """What pauses may have lasted, at most, in which SIGTERM ended the program."""
        self.begins_s: list[float] = []
        self.first_steps_s: list[float] = []
        self.last_signs_s: list[float] = []
        for what, number, begin_s, end_s in noted:
            if what == "begin":
                self.begins_s.append(begin_s)
                continue
            if what == "step":
                self.done.append((number, end_s - begin_s))
                if len(self.first_steps_s) < len(self.begins_s):
                    self.first_steps_s.append(begin_s)
            if what == "pausing":
                self.cut_pause_s += PAUSE_S
            if what == "pause":
                self.cut_pause_s -= PAUSE_S
                self.pause_s += end_s - begin_s
            self.last_signs_s[len(self.begins_s) - 1 :] = [end_s]
        self.cut_pause_s = max(0.0, self.cut_pause_s)
        self.kept = dict(self.done)  # of each, the last time that it was done
        self.kept_s = sum(self.kept.values())
        self.lost_s = sum(seconds for _, seconds in self.done) - self.kept_s
        self.wall_s = self.last_signs_s[-1] - self.begins_s[0]
        pairs = zip(self.last_signs_s[:-1], self.first_steps_s[1:], strict=True)
        self.gaps_s = [step_s - sign_s for sign_s, step_s in pairs]


def assert_goodput_is_true(base: Path, run_dir: Path, runs: Mapping[str, Any]) -> None:
    """Compare the run's goodput with what was noted when it happened, to 1%.

    Args:
        base: where the program noted it.
        run_dir: the run's journal.
        runs: the server's, by their ids: the summary says the same.
    """
    truth = _Truth([json.loads(line) for line in (base / "truth").read_text().splitlines()])

    goodput = read_goodput(segments(run_dir))

    assert (goodput.restarts, goodput.kept_steps) == (3, len(truth.kept))
    assert goodput.lost_steps == pytest.approx(len(truth.done) - len(truth.kept), abs=1)
    assert goodput.kept_s == pytest.approx(truth.kept_s, rel=0.01)
    assert goodput.lost_s == pytest.approx(truth.lost_s, rel=0.01, abs=0.03)
    cut_s = truth.cut_pause_s / 2
    assert goodput.pause_s == pytest.approx(truth.pause_s + cut_s, rel=0.01, abs=0.03 + cut_s)
    assert goodput.wall_s == pytest.approx(truth.wall_s, rel=0.01)
    assert goodput.share == pytest.approx(truth.kept_s / truth.wall_s, rel=0.01)
    restarts_s = [one.restart_s for one in goodput.attempts[1:]]
    assert restarts_s == pytest.approx(truth.gaps_s, rel=0.01, abs=truth.cut_pause_s)
    summary = runs[run_dir.name].summary
    assert summary["goodput/share"] == pytest.approx(goodput.share)
    assert summary["goodput/lost_steps"] == goodput.lost_steps
