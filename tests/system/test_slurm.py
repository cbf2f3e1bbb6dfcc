"""The scripts of slurm/, submitted to a real Slurm: two emulated nodes on this machine.

They are real jobs, which is why most take over 5 s: every attempt of every rank imports torch, and
a requeued job rests before it starts again (5 s here, 2 minutes elsewhere).
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from support.goodput_story import assert_goodput_is_true, preempt_thrice, write_chain_script
from support.journals import read_headers, read_rows
from support.runs import OFFLINE_LINE, make_tracker, metrics, wait_until
from support.slurm_cluster import NEEDS_SLURM, SlurmCluster
from support.slurm_site import EXAMPLES, OVER, PATIENCE_S, STEPS_BEFORE_THE_SIGNAL, Site

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.wandb_server import WandbServer

pytestmark = NEEDS_SLURM

_DDP = EXAMPLES / "ddp.py"
_REQUEUE = EXAMPLES / "requeue.py"
_STEPS = 200


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
    job = cluster.wait_for_state(job_id, *OVER)

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
    wait_until(site.trains, PATIENCE_S)
    cluster.command("scontrol", "requeue", job_id)
    job = cluster.wait_for_state(job_id, *OVER)

    assert (job["JobState"], job["ExitCode"]) == ("COMPLETED", "0:0"), site.log(job_id)
    assert job["Restarts"] == "1"
    _assert_one_run_of_two_attempts(site, job_id, checkpoint)
    assert site.endings() == [(143, True), (0, False)]
    assert site.offline_steps() == list(range(_STEPS))
    assert list((site.base / "home").iterdir()) == []


def test_a_job_near_its_time_limit_requeues_itself_and_each_row_arrives_once(
    production_cluster: SlurmCluster, site: Site, server: WandbServer
) -> None:
    """SIGUSR1, sent twice to both nodes' ranks: they leave together, and W&B has one whole run."""
    cluster = production_cluster
    job_id, checkpoint = _submit_requeue(site, cluster, "--nodes=2")
    wait_until(site.trains, PATIENCE_S)
    cluster.command("scancel", "--signal=USR1", job_id)
    with contextlib.suppress(RuntimeError):  # it has left already
        cluster.command("scancel", "--signal=USR1", job_id)
    job = cluster.wait_for_state(job_id, *OVER)

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
    with SlurmCluster(nodes=5) as cluster:  # one is lost, and nobody waits for another's
        # Without the signal that the script asks for: 180 s before the end of 60.
        limits = ("--time=1", "--signal=CONT@1", "--exclusive")
        limited_id, _ = _submit_requeue(limited, cluster, *limits, step_s=0.4)
        preempted_id, _ = _submit_requeue(preempted, cluster, "--exclusive")
        unlucky_id, checkpoint = _submit_requeue(unlucky, cluster, "--exclusive", step_s=0.1)

        chain_id = chained.submit(cluster, write_chain_script(chained.base), "--exclusive")

        wait_until(preempted.trains, PATIENCE_S)
        node = cluster.job(preempted_id)["NodeList"]
        urgent = ("--partition=urgent", f"--nodelist={node}", "--help")
        urgent_id = preempted.submit(cluster, "smoke_tracking.sbatch", *urgent)
        wait_until(lambda: cluster.job(preempted_id)["Restarts"] == "1", PATIENCE_S)
        wait_until(unlucky.trains, PATIENCE_S)
        assert not checkpoint.exists()
        cluster.fail_node(cluster.job(unlucky_id)["BatchHost"])
        preempt_thrice(cluster, chain_id, chained.base)
        over = [
            cluster.wait_for_state(job_id, *OVER)
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
    assert preempted.endings() == [(143, True), (0, False)]
    assert limited.endings() == [(75, True), (0, False)]
    assert "time_limit: saved step" in limited.log(limited_id)
    # There was no checkpoint: the second attempt began anew, in the same run.
    assert unlucky.endings() == [None, (0, False)]
    steps = unlucky.steps()
    assert steps == [*range(len(steps) - _STEPS), *range(_STEPS)]
    assert len(steps) - _STEPS >= STEPS_BEFORE_THE_SIGNAL


def test_a_cancelled_job_saves_its_checkpoint_and_stays_cancelled(
    cluster: SlurmCluster, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """scancel sends the same SIGTERM as a preemption, but nothing brings the job back."""
    monkeypatch.setenv("WANDB_MODE", "offline")

    job_id, checkpoint = _submit_requeue(site, cluster)
    wait_until(site.trains, PATIENCE_S)
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
    job = cluster.wait_for_state(job_id, *OVER)

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
    wait_until(lambda: "importing" in site.log(job_id), PATIENCE_S)
    production_cluster.command("scancel", "--signal=USR1", job_id)
    go.touch()
    job = production_cluster.wait_for_state(job_id, *OVER)

    assert (job["JobState"], job["ExitCode"]) == ("COMPLETED", "0:0"), site.log(job_id)


def test_the_smoke_job_says_where_to_view_the_run(
    cluster: SlurmCluster, site: Site, server: WandbServer
) -> None:
    """`fasttrack demo` as a job: its run arrives, and its log has the address."""
    pytest.importorskip("sklearn", reason="the demo trains on scikit-learn's digits")

    job_id = site.submit(cluster, "smoke_tracking.sbatch", "--epochs", "1")
    job = cluster.wait_for_state(job_id, *OVER)

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
    job = cluster.wait_for_state(job_id, *OVER)

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
    job = cluster.wait_for_state(job_id, *OVER)

    assert (job["JobState"], job["ExitCode"]) == ("FAILED", "1:0"), site.log(job_id)
