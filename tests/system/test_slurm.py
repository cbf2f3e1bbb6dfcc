"""The scripts of slurm/, submitted to a real Slurm: two emulated nodes on this machine.

They are real jobs, which is why most take over 5 s: every attempt of every rank imports torch, and
a requeued job rests before it starts again (5 s here, 2 minutes elsewhere).
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from support.goodput_story import assert_goodput_is_true, preempt_thrice, write_chain_script
from support.journals import read_entries, read_headers, read_rows
from support.runs import OFFLINE_LINE, make_tracker, metrics, offline_dirs, wait_until, wandb_rows
from support.slurm_cluster import SlurmCluster, free_ports, missing

from fasttrack.journal.entries import Metadata
from fasttrack.journal.reader import read_finish
from fasttrack.journal.run_directory import segments

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.wandb_server import WandbServer

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(missing() is not None, reason=missing() or ""),
]

_ROOT = Path(__file__).parents[2]
_DDP = _ROOT / "examples" / "ddp.py"
_REQUEUE = _ROOT / "examples" / "requeue.py"
_STEPS = 200
_STEPS_BEFORE_THE_SIGNAL = 20
_PATIENCE_S = 120.0
_OVER = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")


@pytest.fixture(scope="module")
def cluster() -> Iterator[SlurmCluster]:
    """Two nodes, where signals reach every process of a job."""
    with SlurmCluster(nodes=2) as running:
        yield running


@pytest.fixture(scope="module")
def production_cluster() -> Iterator[SlurmCluster]:
    """Two nodes, where signals reach only what srun started itself, as on most clusters."""
    freezer = Path("/sys/fs/cgroup/freezer").is_dir()  # the one that this Slurm can use in a test
    with SlurmCluster(nodes=2, proctrack="cgroup" if freezer else "linuxproc") as running:
        yield running


@dataclass(frozen=True)
class Site:
    """A user's directories on a cluster: where sbatch is called, the scratch disk, home."""

    base: Path

    @property
    def scratch(self) -> Path:
        """Where runs and checkpoints belong."""
        return self.base / "scratch"

    def submit(self, cluster: SlurmCluster, script: str, *arguments: str | Path) -> str:
        """Submit a script of slurm/ from here, with options before and arguments after its name."""
        ours = ("--nodes", "--nodelist", "--time", "--signal", "--partition", "--exclusive")
        options = [text for text in arguments if str(text).startswith(ours)]
        rest = [text for text in arguments if text not in options]
        (self.base / "logs").mkdir(exist_ok=True)
        not_theirs = ("COVERAGE_PROCESS_CONFIG", "WANDB_DIR", "XDG_CACHE_HOME", "OMP_NUM_THREADS")
        environment = {name: text for name, text in os.environ.items() if name not in not_theirs}
        environment |= {
            "SCRATCH": str(self.scratch),
            "PYTHON": sys.executable,
            "MASTER_PORT": str(free_ports(1)[0]),
            "OMP_NUM_THREADS": "1",
        }
        command = (*options, _ROOT / "slurm" / script, *rest)
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
        if not (self.scratch / "wandb" / "fasttrack").is_dir():
            return False
        return len(read_rows(self.run_dir)) >= _STEPS_BEFORE_THE_SIGNAL

    def offline_steps(self) -> list[int]:
        """The steps of all rows in W&B's offline directories, in order."""
        rows = [row for directory in offline_dirs(self.scratch) for row in wandb_rows(directory)]
        return [row["step"] for row in rows if "loss/total" in row]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """An account that has never used W&B."""
    return Site(tmp_path)


def _submit_requeue(
    site: Site, cluster: SlurmCluster, *options: str, step_s: float = 0.03
) -> tuple[str, Path]:
    checkpoint = site.scratch / "checkpoints" / "latest.pt"
    numbers = ("--steps", str(_STEPS), "--log-interval", "1", "--step-s", str(step_s))
    job_id = site.submit(
        cluster,
        "requeue_resume.sbatch",
        *options,
        _REQUEUE,
        "--checkpoint",
        checkpoint,
        *numbers,
    )
    return job_id, checkpoint


def _assert_one_run_of_two_attempts(site: Site, job_id: str, checkpoint: Path) -> None:
    first, second = read_headers(site.run_dir)
    assert first.run_id == second.run_id == site.run_dir.name
    assert (first.resumed, second.resumed) == (False, True)
    assert site.steps() == list(range(_STEPS))
    assert torch.load(checkpoint, weights_only=True)["wandb_run_id"] == site.run_dir.name
    jobs = [(job["job_id"], job["restart_count"]) for job in site.jobs()]
    assert jobs == [(job_id, 0), (job_id, 1)]
    assert f"going on with run {site.run_dir.name}" in site.log(job_id)
    assert f"trained {_STEPS} steps" in site.log(job_id)


def test_torchrun_on_two_nodes_makes_one_run_with_each_row_once(
    cluster: SlurmCluster, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four ranks on two nodes meet, train and log; rank 0 alone records; home stays empty."""
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("RANKS_PER_NODE", "2")

    job_id = site.submit(cluster, "train_ddp.sbatch", _DDP)
    job = cluster.wait_for_state(job_id, *_OVER)

    log = site.log(job_id)
    assert (job["JobState"], job["ExitCode"]) == ("COMPLETED", "0:0"), log
    assert sorted(re.findall(r"rank (\d) of 4", log)) == ["0", "1", "2", "3"]
    assert log.count(OFFLINE_LINE) == 1
    (header,) = read_headers(site.run_dir)
    assert header.world_size == 4
    per_epoch = 1437 // 4 // 32
    assert site.steps() == list(range(0, 6 * per_epoch, 5))
    assert site.steps("eval/accuracy") == [per_epoch * epoch for epoch in range(1, 7)]
    assert site.offline_steps() == site.steps()
    (facts,) = site.jobs()
    assert (facts["job_id"], facts["num_nodes"], facts["cluster"]) == (job_id, 2, cluster.name)
    assert list((site.base / "home").iterdir()) == []


def test_a_preempted_job_goes_on_in_the_same_run(
    cluster: SlurmCluster, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM, checkpoint, requeue: one run of two segments, every step once, none lost."""
    monkeypatch.setenv("WANDB_MODE", "offline")

    job_id, checkpoint = _submit_requeue(site, cluster)
    wait_until(site.trains, _PATIENCE_S)
    cluster.command("scontrol", "requeue", job_id)
    job = cluster.wait_for_state(job_id, *_OVER)

    assert (job["JobState"], job["ExitCode"]) == ("COMPLETED", "0:0"), site.log(job_id)
    assert job["Restarts"] == "1"
    _assert_one_run_of_two_attempts(site, job_id, checkpoint)
    assert _endings(site) == [(143, True), (0, False)]
    assert site.offline_steps() == list(range(_STEPS))
    assert list((site.base / "home").iterdir()) == []


def test_a_job_near_its_time_limit_requeues_itself_and_each_row_arrives_once(
    production_cluster: SlurmCluster, site: Site, server: WandbServer
) -> None:
    """SIGUSR1, sent twice to both nodes' ranks: they leave together, and W&B has one whole run."""
    cluster = production_cluster
    job_id, checkpoint = _submit_requeue(site, cluster, "--nodes=2")
    wait_until(site.trains, _PATIENCE_S)
    cluster.command("scancel", "--signal=USR1", job_id)
    with contextlib.suppress(RuntimeError):  # it has left already
        cluster.command("scancel", "--signal=USR1", job_id)
    job = cluster.wait_for_state(job_id, *_OVER)

    assert (job["JobState"], job["ExitCode"]) == ("COMPLETED", "0:0"), site.log(job_id)
    assert job["Restarts"] == "1"
    _assert_one_run_of_two_attempts(site, job_id, checkpoint)
    (run,) = server.runs.values()
    assert server.wait_for(lambda: run.state == "finished")
    assert (run.id, run.exit_code) == (site.run_dir.name, 0)
    assert [row["step"] for row in run.history if "loss/total" in row] == list(range(_STEPS))
    losses = [row.values["loss/total"] for row in read_rows(site.run_dir)]
    assert [row["loss/total"] for row in run.history] == losses


def _assert_it_arrived_whole(site: Site, server: WandbServer) -> None:
    """One run; W&B has each row of the journal once, in order, and that it ended well."""
    rows = [(row.step, row.values["loss/total"]) for row in read_rows(site.run_dir, "loss/total")]
    run = server.runs[site.run_dir.name]
    assert server.wait_for(lambda: run.state == "finished"), run.state
    assert run.exit_code == 0
    assert [(row["step"], row["loss/total"]) for row in run.history if "loss/total" in row] == rows


def test_whatever_interrupts_a_job_it_goes_on_in_its_run_and_each_row_arrives_once(
    server: WandbServer, tmp_path: Path
) -> None:
    """At once: one runs into its time limit, one is preempted, one's node loses its power.

    And one is preempted three times, each step's true begin and end noted: its goodput is that.
    """
    sites = [Site(tmp_path / name) for name in ("limited", "preempted", "unlucky", "chained")]
    for site in sites:
        site.base.mkdir()
    limited, preempted, unlucky, chained = sites
    with SlurmCluster(nodes=4) as cluster:
        # Without the signal that the script asks for: 180 s before the end of 60.
        limits = ("--time=1", "--signal=CONT@1", "--exclusive")
        limited_id, _ = _submit_requeue(limited, cluster, *limits, step_s=0.4)
        preempted_id, _ = _submit_requeue(preempted, cluster, "--exclusive")
        unlucky_id, checkpoint = _submit_requeue(unlucky, cluster, "--exclusive", step_s=0.1)

        chain_id = chained.submit(cluster, write_chain_script(chained.base), "--exclusive")

        wait_until(preempted.trains, _PATIENCE_S)
        node = cluster.job(preempted_id)["NodeList"]
        urgent = ("--partition=urgent", f"--nodelist={node}", "--help")
        urgent_id = preempted.submit(cluster, "smoke_tracking.sbatch", *urgent)
        wait_until(lambda: cluster.job(preempted_id)["Restarts"] == "1", _PATIENCE_S)
        wait_until(unlucky.trains, _PATIENCE_S)
        assert not checkpoint.exists()
        cluster.fail_node(cluster.job(unlucky_id)["BatchHost"])
        preempt_thrice(cluster, chain_id, chained.base)
        over = [
            cluster.wait_for_state(job_id, *_OVER)
            for job_id in (urgent_id, preempted_id, unlucky_id, limited_id, chain_id)
        ]

    for site, job in zip((preempted, preempted, unlucky, limited, chained), over, strict=True):
        assert (job["JobState"], job["ExitCode"]) == ("COMPLETED", "0:0"), site.log(job["JobId"])
    assert [job["Restarts"] for job in over] == ["0", "1", "1", "1", "3"]
    assert len(server.runs) == 4
    assert_goodput_is_true(chained.base, chained.run_dir, server.runs)
    for site in (limited, preempted, unlucky):
        first, second = read_headers(site.run_dir)
        assert (first.resumed, second.resumed) == (False, True)
        _assert_it_arrived_whole(site, server)
    assert preempted.steps() == limited.steps() == list(range(_STEPS))
    assert _endings(preempted) == [(143, True), (0, False)]
    assert _endings(limited) == [(75, True), (0, False)]
    assert "time_limit: saved step" in limited.log(limited_id)
    # There was no checkpoint: the second attempt began anew, in the same run.
    assert _endings(unlucky) == [None, (0, False)]
    steps = unlucky.steps()
    assert steps == [*range(len(steps) - _STEPS), *range(_STEPS)]
    assert len(steps) - _STEPS >= _STEPS_BEFORE_THE_SIGNAL


def _endings(site: Site) -> list[tuple[int, bool] | None]:
    """How each attempt ended, by its last line."""
    finishes = [read_finish(path) for path in segments(site.run_dir)]
    return [(ending.exit_code, ending.preempting) if ending else None for ending in finishes]


def test_a_cancelled_job_saves_its_checkpoint_and_stays_cancelled(
    cluster: SlurmCluster, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """scancel sends the same SIGTERM as a preemption, but nothing brings the job back."""
    monkeypatch.setenv("WANDB_MODE", "offline")

    job_id, checkpoint = _submit_requeue(site, cluster)
    wait_until(site.trains, _PATIENCE_S)
    cluster.command("scancel", job_id)
    wait_until(lambda: not cluster.command("squeue", "-h", "-j", job_id))

    job = cluster.job(job_id)
    assert (job["JobState"], job["Restarts"]) == ("CANCELLED", "0")
    saved = torch.load(checkpoint, weights_only=True)
    assert site.steps() == list(range(saved["step"]))
    assert saved["wandb_run_id"] == site.run_dir.name


@pytest.mark.parametrize(
    ("script", "exit_code"), [("requeue_resume.sbatch", "3:0"), ("train_ddp.sbatch", "1:0")]
)
def test_a_failed_training_fails_the_job_and_is_not_requeued(
    cluster: SlurmCluster, site: Site, script: str, exit_code: str
) -> None:
    """The training's exit code is the job's; torchrun makes 1 of it."""
    broken = site.base / "broken.py"
    broken.write_text("raise SystemExit(3)")

    job_id = site.submit(cluster, script, "--nodes=1", broken)
    job = cluster.wait_for_state(job_id, *_OVER)

    assert (job["JobState"], job["ExitCode"]) == ("FAILED", exit_code), site.log(job_id)
    assert job["Restarts"] == "0"


def test_a_signal_that_comes_too_early_does_not_kill_the_training(
    production_cluster: SlurmCluster, site: Site
) -> None:
    """SIGUSR1 while Python still imports: the program that does not listen yet goes on."""
    go = site.base / "go"
    (site.base / "slow.py").write_text(
        f"""
import pathlib, time
print("importing", flush=True)
while not pathlib.Path({str(go)!r}).exists():
    time.sleep(0.01)
"""
    )

    job_id = site.submit(production_cluster, "requeue_resume.sbatch", "slow.py")
    wait_until(lambda: "importing" in site.log(job_id), _PATIENCE_S)
    production_cluster.command("scancel", "--signal=USR1", job_id)
    go.touch()
    job = production_cluster.wait_for_state(job_id, *_OVER)

    assert (job["JobState"], job["ExitCode"]) == ("COMPLETED", "0:0"), site.log(job_id)


def test_the_smoke_job_says_where_to_view_the_run(
    cluster: SlurmCluster, site: Site, server: WandbServer
) -> None:
    """`fasttrack demo` as a job: its run arrives, and its log has the address."""
    pytest.importorskip("sklearn", reason="the demo trains on scikit-learn's digits")

    job_id = site.submit(cluster, "smoke_tracking.sbatch", "--epochs", "1")
    job = cluster.wait_for_state(job_id, *_OVER)

    log = site.log(job_id)
    assert (job["JobState"], job["ExitCode"]) == ("COMPLETED", "0:0"), log
    (run,) = server.runs.values()
    assert f"View run at: {server.url}" in log
    assert run.state == "finished"
    assert [row["step"] for row in run.history] == [row.step for row in read_rows(site.run_dir)]
    assert (site.scratch / "fasttrack-demo.png").stat().st_size > 0
    assert list((site.base / "home").iterdir()) == []


def test_the_sync_job_delivers_what_was_trained_offline(
    cluster: SlurmCluster, site: Site, server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every row is on the server once, and the job's exit code says so."""
    monkeypatch.setenv("WANDB_DIR", str(site.scratch))
    with make_tracker() as tracker:
        for step in range(50):
            tracker.log_metrics({"a": step}, step=step)
    assert server.runs == {}

    job_id = site.submit(cluster, "sync_offline.sbatch")
    job = cluster.wait_for_state(job_id, *_OVER)

    assert (job["JobState"], job["ExitCode"]) == ("COMPLETED", "0:0"), site.log(job_id)
    (run,) = server.runs.values()
    assert run.id == tracker.get_run_id()
    assert [metrics(row)["a"] for row in run.history] == list(range(50))


def test_the_sync_job_fails_where_the_server_is_out_of_reach(
    cluster: SlurmCluster, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that delivered nothing does not end as if it had."""
    monkeypatch.setenv("WANDB_DIR", str(site.scratch))
    monkeypatch.setenv("WANDB_API_KEY", "local" + "0" * 40)
    with make_tracker() as tracker:
        tracker.log_metrics({"a": 1}, step=0)

    job_id = site.submit(cluster, "sync_offline.sbatch")
    job = cluster.wait_for_state(job_id, *_OVER)

    assert (job["JobState"], job["ExitCode"]) == ("FAILED", "1:0"), site.log(job_id)
