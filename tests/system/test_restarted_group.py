"""torchrun's agents keep the ranks' store, and count restarts each for itself."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from support.runs import HANG_GUARD_S, program_environment
from support.slurm_cluster import free_ports

_TRAINER = Path(__file__).parents[1] / "support" / "stopped_trainer.py"
_TORCHRUN = str(Path(sys.executable).with_name("torchrun"))


def test_a_group_that_is_started_again_shares_a_run_and_stops_when_it_is_asked_to(
    tmp_path: Path,
) -> None:
    """Two agents; one counts a restart. The first group's request is still in the store."""
    endpoint = f"--rdzv-endpoint=127.0.0.1:{free_ports(1)[0]}"
    common = ["--nnodes=2", "--nproc-per-node=1", "--max-restarts=2", "--rdzv-backend=c10d"]
    common += [endpoint, "--rdzv-id=job", "--local-addr=127.0.0.1", "--monitor-interval=0.1"]
    environment = {**program_environment(), "WANDB_DIR": str(tmp_path)}
    environment.pop("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", None)
    logs = {name: tmp_path / f"agent-{name}" for name in ("first", "second")}
    with ExitStack() as running:
        agents = []
        for name, log in logs.items():
            hosts = f"--rdzv-conf=is_host={int(name == 'first')}"
            agent = subprocess.Popen(
                [_TORCHRUN, *common, hosts, str(_TRAINER), str(tmp_path)],
                env={**environment, "AGENT": name},
                stdout=running.enter_context(log.open("wb")),
                stderr=subprocess.STDOUT,
            )
            running.callback(agent.wait, HANG_GUARD_S)
            running.callback(agent.terminate)
            agents.append(agent)
        codes = [agent.wait(HANG_GUARD_S) for agent in agents]

    assert codes == [0, 0], [log.read_text()[-3000:] for log in logs.values()]
    seen = [json.loads(line) for line in (tmp_path / "seen").read_text().splitlines()]
    starts = [[each for each in seen if each["start"] == start] for start in (0, 1)]
    assert [len(start) for start in starts] == [2, 2]
    assert sorted(each["count"] for each in starts[1]) == ["0", "1"]
    for start, why in zip(starts, ("SIGTERM", "SIGUSR1"), strict=True):
        assert {each["rank"] for each in start} == {0, 1}
        assert [each["why"] for each in start] == [why] * 2
        assert len({each["calls"] for each in start}) == 1
    runs = [{each["run_id"] for each in start} for start in starts]
    assert [len(ids) for ids in runs] == [1, 1]
    assert runs[0] != runs[1]
    found = {path.name for path in (tmp_path / "wandb" / "fasttrack").glob("[!.]*")}
    assert found == runs[0] | runs[1]
