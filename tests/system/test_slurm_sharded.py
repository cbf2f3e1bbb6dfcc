"""`train_fsdp2.sbatch` and `train_deepspeed.sbatch` on a real Slurm: two emulated nodes, gloo.

One comes near its time limit and one is preempted while they train. They rest for 5 s before they
start again, side by side.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest
from support.journals import read_headers, read_rows
from support.runs import wait_until
from support.slurm_cluster import NEEDS_SLURM, SlurmCluster
from support.slurm_site import EXAMPLES, OVER, PATIENCE_S, Site

from fasttrack import open_run

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    *NEEDS_SLURM,
    pytest.mark.skipif(find_spec("sklearn") is None, reason="the digits come with scikit-learn"),
]

_KINDS = ("fsdp2", "deepspeed") if find_spec("deepspeed") is not None else ("fsdp2",)
_LEAVES_WITH = {"fsdp2": ("SIGUSR1", 75), "deepspeed": ("SIGTERM", 143)}
_EPOCHS = 10
_STEPS_PER_EPOCH = 22  # 1437 digits over 2 ranks in batches of 32
_LOG_INTERVAL = 5
_STEPS_BEFORE_THE_SIGNAL = 40
# Steps of an example take some milliseconds; ranks that are told to leave take seconds to agree.
_PACED = """
import runpy, sys, time
from torch.utils.data import DataLoader

batches_of = DataLoader.__iter__


def paced(loader):
    for batch in batches_of(loader):
        time.sleep(0.03)
        yield batch


DataLoader.__iter__ = paced
sys.argv[:] = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def _submit(site: Site, cluster: SlurmCluster, kind: str) -> str:
    """Submit a template with its example, at a pace at which it can be preempted."""
    saves = site.scratch / "checkpoints"
    told = {
        "fsdp2": (EXAMPLES / "fsdp2.py", "--checkpoints", saves),
        "deepspeed": (EXAMPLES / "deepspeed_train.py", "--resume", "--checkpoint-dir", saves),
    }
    site.base.mkdir()
    (site.base / "paced.py").write_text(_PACED)
    epochs = ("--epochs", str(_EPOCHS))
    return site.submit(cluster, f"train_{kind}.sbatch", "paced.py", *told[kind], *epochs)


def _trains(site: Site) -> bool:
    """Whether a run has come far enough to be disturbed."""
    runs = list((site.scratch / "wandb" / "fasttrack").glob("[!.]*/segment-*"))
    return bool(runs) and (site.steps() or [0])[-1] >= _STEPS_BEFORE_THE_SIGNAL


def _disturb(cluster: SlurmCluster, kind: str, job_id: str) -> None:
    """Signal a job as Slurm does before the time limit, to its tasks only, or preempt it."""
    if _LEAVES_WITH[kind][0] == "SIGUSR1":
        cluster.command("scancel", "--signal=USR1", job_id)
    else:
        cluster.command("scontrol", "requeue", job_id)


def _assert_one_run_tells_of_all(site: Site, cluster: SlurmCluster, code: int) -> None:
    """Two attempts, each step once, none lost; both ranks and both nodes are in it."""
    first, second = read_headers(site.run_dir)
    assert (first.resumed, second.resumed) == (False, True)
    assert (first.world_size, second.world_size) == (2, 2)
    assert site.endings() == [(code, True), (0, False)]
    steps = list(range(0, _EPOCHS * _STEPS_PER_EPOCH, _LOG_INTERVAL))
    assert site.steps() == site.steps("train/grad_norm") == steps
    evaluations = site.steps("eval/accuracy")
    assert evaluations == [_STEPS_PER_EPOCH * n for n in range(1, _EPOCHS + 1)]
    goodput = open_run(str(site.run_dir)).goodput()
    assert (goodput.restarts, goodput.lost_steps) == (1, 0)
    assert goodput.pause_s > 0
    rows = [row.values for row in read_rows(site.run_dir)]
    assert any(row.get("ranks/missing") == 0 and "ranks/loss/mean" in row for row in rows)
    assert {row.get("ranks/loss/argmax", 0) for row in rows} <= {0, 1}
    hosts = {key.split("/")[1] for row in rows for key in row if key.startswith("host/")}
    assert hosts == {f"{cluster.name}n1", f"{cluster.name}n2"}


def test_sharded_trainings_that_must_leave_go_on_as_one_run_of_all_ranks_and_nodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGUSR1, SIGTERM on two nodes: both ranks save their shards and leave; requeued, they go on.

    Who leaves with 75 requeues itself.
    """
    monkeypatch.setenv("FASTTRACK_BACKENDS", "none")  # the journal is what is looked at
    sites = {kind: Site(tmp_path / kind) for kind in _KINDS}
    with SlurmCluster(nodes=2) as cluster:
        jobs = {kind: _submit(site, cluster, kind) for kind, site in sites.items()}
        waiting = dict(sites)
        while waiting:
            wait_until(lambda: any(map(_trains, waiting.values())), PATIENCE_S)
            for kind in [kind for kind, site in waiting.items() if _trains(site)]:
                _disturb(cluster, kind, jobs[kind])
                del waiting[kind]
        over = {kind: cluster.wait_for_state(job_id, *OVER) for kind, job_id in jobs.items()}

    for kind, site in sites.items():
        job, log = over[kind], site.log(jobs[kind])
        assert (job["JobState"], job["ExitCode"]) == ("COMPLETED", "0:0"), log
        assert job["Restarts"] == "1"
        why, code = _LEAVES_WITH[kind]
        assert log.count(f"{why}, leaving with {code}") == 2, log
        _assert_one_run_tells_of_all(site, cluster, code)
    assert list((tmp_path / "home").iterdir()) == []
