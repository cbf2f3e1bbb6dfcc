"""What a job takes of its node: on this machine, and in the trees that kernels have for others."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fasttrack.nodes.host import HostSampler

GIB, MIB = 2**30, 2**20
MACHINE = {
    "proc/stat": "cpu  1000 0 200 9000 50 0 10 5 0 0\ncpu0 1 2\ncpu1 1 2\ncpu2 1 2\ncpu3 1 2\n",
    "proc/meminfo": "MemTotal: 67108864 kB\nMemFree: 1 kB\nMemAvailable: 50331648 kB\n",
    "proc/vmstat": "pgfault 5\noom_kill 3\n",
    "proc/diskstats": "259 0 nvme0n1 9 0 2048 1 9 0 4096 1 0 0 0\n"
    "259 1 nvme0n1p1 9 0 2048 1 9 0 4096 1 0 0 0\n7 0 loop0 9 0 99999 1 9 0 99999 1 0 0 0\n",
    "sys/block/nvme0n1/size": "1",
    "sys/block/loop0/size": "1",
    "proc/net/dev": "Inter-|\n face |\n lo: 999999999 1 0 0 0 0 0 0 999999999 1 0 0 0 0 0 0\n"
    " ib0: 1048576 1 0 0 0 0 0 0 2097152 1 0 0 0 0 0 0\n"
    "  br0: 77777777 1 0 0 0 0 0 0 7777777 1 0 0 0 0 0 0\n",
    "sys/class/net/ib0/device/vendor": "x",
    "sys/class/net/br0/bridge": "x",
    "sys/class/infiniband/mlx5_0/ports/1/counters/port_rcv_data": "1000",
    "sys/class/infiniband/mlx5_0/ports/1/counters/port_xmit_data": "2000",
}
SLURM_V2 = "sys/fs/cgroup/system.slice/slurmstepd.scope/job_5"
V2 = {
    "proc/self/cgroup": "0::/system.slice/slurmstepd.scope/job_5/step_0/user/task_3\n",
    "proc/self/mountinfo": "30 24 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n",
    f"{SLURM_V2}/cgroup.events": "populated 1\n",
    f"{SLURM_V2}/cpu.stat": "usage_usec 4000000\nuser_usec 1\n",
    f"{SLURM_V2}/cpu.max": "max 100000\n",
    f"{SLURM_V2}/cpuset.cpus.effective": "0-1,3\n",
    f"{SLURM_V2}/memory.current": str(9 * GIB),
    f"{SLURM_V2}/memory.max": str(16 * GIB),
    f"{SLURM_V2}/memory.stat": f"anon 1\ninactive_file {GIB}\n",
    f"{SLURM_V2}/memory.events": "oom 1\noom_kill 1\n",
    f"{SLURM_V2}/io.stat": "259:0 rbytes=0 wbytes=0 rios=1\n8:0\n",
}
DOCKER = "/docker/abc"
V1 = {
    "proc/self/cgroup": f"5:memory:{DOCKER}\n4:cpu,cpuacct:{DOCKER}\n3:blkio:{DOCKER}\n"
    "2:cpuset:/\n",
    "proc/self/mountinfo": "".join(
        f"3{n} 31 0:29 {DOCKER} /sys/fs/cgroup/{name} rw - cgroup cgroup rw,{name}\n"
        for n, name in enumerate(("memory", "cpu,cpuacct", "blkio"))
    ),
    "sys/fs/cgroup/memory/memory.usage_in_bytes": str(3 * GIB),
    "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
    "sys/fs/cgroup/memory/memory.stat": f"inactive_file 5\ntotal_inactive_file {GIB}\n",
    "sys/fs/cgroup/memory/memory.oom_control": "oom_kill_disable 0\noom_kill 0\n",
    "sys/fs/cgroup/cpu,cpuacct/cpuacct.usage": "7000000000",
    "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "250000",
    "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
    "sys/fs/cgroup/blkio/blkio.throttle.io_service_bytes_recursive": "8:0 Read 0\n8:0 Write 0\n",
}


class Machine:
    """A tree of files, and a clock."""

    def __init__(self, root: Path, *trees: dict[str, str]) -> None:
        self.root = root
        self.now_s = 0.0
        for tree in trees:
            self.write(tree)

    def write(self, tree: dict[str, str]) -> None:
        """Write files."""
        for name, text in tree.items():
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def sampler(self) -> HostSampler:
        """Return one that reads it."""
        return HostSampler(self.root, lambda: self.now_s)


def test_this_machine_is_read_plausibly() -> None:
    """Against the same files, read here, while this process computes and writes."""
    now_s = [0.0]
    sampler = HostSampler(clock=lambda: now_s[0])
    before = sampler.sample()
    ticks = os.times()
    while sum(os.times()[:2]) - sum(ticks[:2]) < 0.1:
        sum(range(10_000))
    now_s[0] = 1.0
    after = sampler.sample()

    facts = sampler.facts()
    total_kb = int(Path("/proc/meminfo").read_text().split()[1])
    assert 0 < facts["memory_gb"] <= round(total_kb / MIB, 3)
    assert 1 <= facts["cpus"] <= (os.cpu_count() or 1)
    assert "cpu_cores" not in before
    assert after["cpu_cores"] > 0.05  # of a second by that clock
    assert 0 < after["memory_used_gb"] <= facts["memory_gb"]
    assert 0 < after["memory_pct"] <= 100
    assert {"disk_read_mb_s", "disk_write_mb_s", "net_recv_mb_s", "oom_kills"} <= after.keys()
    assert min(after.values()) >= 0


def test_without_a_cgroup_it_is_the_machine(tmp_path: Path) -> None:
    """Whole disks and real interfaces, each byte once; InfiniBand has counters of its own."""
    machine = Machine(tmp_path, MACHINE)
    sampler = machine.sampler()
    sampler.sample()
    ticks = 2 * os.sysconf("SC_CLK_TCK")  # of two seconds
    machine.now_s = 2.0
    machine.write(
        {
            "proc/stat": f"cpu  {1000 + ticks} 0 {200 + ticks} 9000 50 0 10 5 0 0\n",
            "proc/diskstats": "259 0 nvme0n1 9 0 6144 1 9 0 8192 1 0 0 0\n"
            "7 0 loop0 9 0 0 1 9 0 0 1\n",
            "proc/net/dev": "\n\n lo: 0 1 0 0 0 0 0 0 0 1\n"
            " ib0: 5242880 1 0 0 0 0 0 0 2097152 1 0 0 0 0 0 0\n",
            "sys/class/infiniband/mlx5_0/ports/1/counters/port_rcv_data": str(1000 + MIB),
        }
    )

    assert sampler.facts()["of"] == {"cpu": "machine", "memory": "machine", "disk": "machine"}
    assert sampler.sample() == {
        "cpu_cores": 2,
        "cpu_pct": 50,
        "memory_used_gb": 16,
        "memory_pct": 25,
        "oom_kills": 3,
        "disk_read_mb_s": 1,
        "disk_write_mb_s": 1,
        "net_recv_mb_s": 2,
        "net_sent_mb_s": 0,
        "rdma_recv_mb_s": 2,
        "rdma_sent_mb_s": 0,
    }


def test_the_whole_job_of_slurm_counts_in_version_2(tmp_path: Path) -> None:
    """Not the task that the process is in; its limit, its CPUs."""
    machine = Machine(tmp_path, MACHINE, V2)
    sampler = machine.sampler()
    sampler.sample()
    machine.now_s = 1.0
    machine.write(
        {
            f"{SLURM_V2}/cpu.stat": "usage_usec 5500000\n",
            f"{SLURM_V2}/io.stat": f"259:0 rbytes={MIB} wbytes=0\n8:0 wbytes={3 * MIB}\n",
        }
    )

    values = sampler.sample()
    assert sampler.facts() == {
        "cpus": 3,
        "memory_gb": 16,
        "of": {"cpu": "job", "memory": "job", "disk": "job"},
    }
    assert (values["cpu_cores"], values["cpu_pct"]) == (1.5, 50)
    assert (values["memory_used_gb"], values["memory_pct"], values["oom_kills"]) == (8, 50, 1)
    assert (values["disk_read_mb_s"], values["disk_write_mb_s"]) == (1, 3)


def test_a_container_sees_its_own_cgroups_of_version_1(tmp_path: Path) -> None:
    """Their mount points show a part of the tree; "no limit" is a large number there."""
    machine = Machine(tmp_path, MACHINE, V1)
    sampler = machine.sampler()
    sampler.sample()
    machine.now_s = 1.0
    machine.write({"sys/fs/cgroup/cpu,cpuacct/cpuacct.usage": "8250000000"})

    values = sampler.sample()
    assert (sampler.cpus, sampler.memory_bytes) == (2.5, 64 * GIB)
    assert (values["cpu_cores"], values["cpu_pct"], values["memory_used_gb"]) == (1.25, 50, 2)
    assert sampler.facts()["of"] == {"cpu": "job", "memory": "job", "disk": "job"}


@pytest.mark.parametrize("path", ["/user.slice/user-0.slice/session-3.scope", "/"])
def test_a_session_of_somebody_who_logged_in_is_no_job(tmp_path: Path, path: str) -> None:
    """Nor is the root of all, which has no events."""
    group = f"sys/fs/cgroup{path}".rstrip("/")
    tree = {
        "proc/self/cgroup": f"0::{path}\n",
        "proc/self/mountinfo": V2["proc/self/mountinfo"],
        f"{group}/cpu.stat": "usage_usec 1\n",
        f"{group}/memory.current": "1",
        "sys/fs/cgroup/user.slice/user-0.slice/session-3.scope/cgroup.events": "populated 1\n",
    }
    sampler = Machine(tmp_path, MACHINE, tree).sampler()

    assert set(sampler.facts()["of"].values()) == {"machine"}


def test_what_cannot_be_read_is_left_out_and_the_rest_stays(tmp_path: Path) -> None:
    """Another kernel, another format, a counter that began anew."""
    machine = Machine(tmp_path, {k: v for k, v in MACHINE.items() if "diskstats" not in k})
    machine.write({"proc/vmstat": "nothing\n"})
    sampler = machine.sampler()
    sampler.sample()
    machine.now_s = 1.0
    machine.write({"proc/net/dev": "\n\n ib0: 5 1 0 0 0 0 0 0 5 1 0 0 0 0 0 0\n"})
    values = sampler.sample()

    assert {"oom_kills", "disk_read_mb_s", "net_recv_mb_s"}.isdisjoint(values)
    assert {"cpu_cores", "memory_used_gb"} <= values.keys()
    assert HostSampler(tmp_path / "nothing").sample() == {}
