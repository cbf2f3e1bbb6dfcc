"""What the job takes of its node: CPU, memory, disk, network. Plain reads of /proc and /sys."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fasttrack.nodes.cgroups import Cgroup, find_cgroup

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_GB: Final = 2**30
_MB: Final = 2**20
_SECTOR: Final = 512  # bytes, in /proc/diskstats whatever the disk's own are
_RDMA_WORD: Final = 4  # bytes that InfiniBand's counters count in
_NO_LIMIT: Final = 2**60  # bytes; what version 1 has where there is none
_VIRTUAL_DISKS = ("loop", "ram", "zram", "dm-", "md", "sr", "fd")  # or made of others
_ABSENT = (OSError, ValueError, IndexError, KeyError)  # a kernel that tells it otherwise, or not


class HostSampler:
    """Read what the job takes of this machine, or, where it has no cgroup, what all take.

    Each figure stands for itself: one that cannot be read is left out.

    Threads: one at a time.
    """

    def __init__(self, root: Path = Path("/"), clock: Callable[[], float] = time.monotonic) -> None:
        """Look for the job's cgroups.

        Args:
            root: of the file system.
            clock: in seconds; rates are taken by it.
        """
        self._root = root
        self._clock = clock
        self._cpu = find_cgroup(root, "cpuacct", "cpuacct.usage", "cpu.stat")
        self._quota = find_cgroup(root, "cpu", "cpu.cfs_quota_us", "cpu.max")
        self._set = find_cgroup(root, "cpuset", "cpuset.effective_cpus", "cpuset.cpus.effective")
        self._memory = find_cgroup(root, "memory", "memory.usage_in_bytes", "memory.current")
        io_v1 = "blkio.throttle.io_service_bytes_recursive"
        self._disk = find_cgroup(root, "blkio", io_v1, "io.stat")
        self._before: dict[str, tuple[float, float]] = {}  # name -> (clock, total)
        self.cpus = self._count_cpus()
        """How many CPUs the job may use; 0 where that is not told."""
        self.memory_bytes = self._find_memory_bytes()
        """How much memory it may use; 0 where that is not told."""

    def facts(self) -> dict[str, Any]:
        """Return what does not change: sizes, and of what the figures are: "job" or "machine"."""
        found = {"cpu": self._cpu, "memory": self._memory, "disk": self._disk}
        return {
            "cpus": self.cpus,
            "memory_gb": round(self.memory_bytes / _GB, 3),
            "of": {name: "machine" if group is None else "job" for name, group in found.items()},
        }

    def sample(self) -> dict[str, float]:
        """Return what can be had; rates are since the last call, so that the first has none.

        Returns:
            `cpu_cores` (CPUs at work, on average) and `cpu_pct` (of those that the job may use);
            `memory_used_gb` without what the kernel can drop, and `memory_pct` of the limit, else
            of the machine's; `oom_kills` since the job began; `disk_read_mb_s`,
            `disk_write_mb_s`; `net_recv_mb_s`, `net_sent_mb_s` of all interfaces but the loopback;
            `rdma_recv_mb_s`, `rdma_sent_mb_s` of InfiniBand, which passes by them. Sizes are of
            2**20 and 2**30 bytes.
        """
        values: dict[str, float] = {}
        for add in (
            *(self._add_cpu, self._add_memory, self._add_oom_kills),
            *(self._add_disk, self._add_net, self._add_rdma),
        ):
            with contextlib.suppress(*_ABSENT):
                add(values)
        return values

    def _add_rate(self, values: dict[str, float], name: str, total: float, unit: float) -> None:
        now_s = self._clock()
        before = self._before.get(name)
        self._before[name] = (now_s, total)
        if before is not None and now_s > before[0] and total >= before[1]:
            values[name] = round((total - before[1]) / (now_s - before[0]) / unit, 3)

    # --- CPU ----------------------------------------------------------------------------------

    def _add_cpu(self, values: dict[str, float]) -> None:
        self._add_rate(values, "cpu_cores", self._cpu_s(), 1)
        if "cpu_cores" in values and self.cpus:
            values["cpu_pct"] = round(100 * values["cpu_cores"] / self.cpus, 2)

    def _cpu_s(self) -> float:
        if self._cpu is None:
            fields = self._read("proc/stat").split("\n", 1)[0].split()
            user, nice, system, _, _, irq, softirq, steal = map(int, fields[1:9])
            ticks = user + nice + system + irq + softirq + steal
            return ticks / os.sysconf("SC_CLK_TCK")
        if self._cpu.version == 1:
            return int((self._cpu.path / "cpuacct.usage").read_text()) / 1e9
        return int(_keyed(self._cpu.path / "cpu.stat")["usage_usec"]) / 1e6

    def _count_cpus(self) -> float:
        counts: list[float] = []
        try:
            lines = self._read("proc/stat").splitlines()
            counts.append(sum(line[:3] == "cpu" and line[3:4].isdigit() for line in lines))
            if self._set is not None:
                name = (
                    "cpuset.effective_cpus" if self._set.version == 1 else "cpuset.cpus.effective"
                )
                counts.append(_count_listed((self._set.path / name).read_text()))
            if self._quota is not None:
                counts.append(_quota(self._quota))
        except _ABSENT:
            pass
        return min((count for count in counts if count > 0), default=0)

    # --- memory -------------------------------------------------------------------------------

    def _add_memory(self, values: dict[str, float]) -> None:
        used = self._memory_used()
        values["memory_used_gb"] = round(used / _GB, 3)
        if self.memory_bytes:
            values["memory_pct"] = round(100 * used / self.memory_bytes, 2)

    def _memory_used(self) -> int:
        group = self._memory
        if group is None:
            known = self._meminfo()
            return known["MemTotal"] - known["MemAvailable"]
        in_v1 = group.version == 1
        used = int(
            (group.path / ("memory.usage_in_bytes" if in_v1 else "memory.current")).read_text()
        )
        stat = _keyed(group.path / "memory.stat")
        # Files that were read and may be dropped at any time count there, too.
        return max(0, used - int(stat["total_inactive_file" if in_v1 else "inactive_file"]))

    def _find_memory_bytes(self) -> int:
        try:
            total = self._meminfo()["MemTotal"]
            if self._memory is None:
                return total
            name = "memory.limit_in_bytes" if self._memory.version == 1 else "memory.max"
            limit = (self._memory.path / name).read_text().strip()
            return min(total, int(limit) if limit.isdigit() else _NO_LIMIT)
        except _ABSENT:
            return 0

    def _meminfo(self) -> dict[str, int]:
        lines = (line.split() for line in self._read("proc/meminfo").splitlines())
        return {fields[0][:-1]: int(fields[1]) * 1024 for fields in lines if len(fields) > 1}

    def _add_oom_kills(self, values: dict[str, float]) -> None:
        path = self._root / "proc/vmstat"
        if self._memory is not None:
            name = "memory.oom_control" if self._memory.version == 1 else "memory.events"
            path = self._memory.path / name
        values["oom_kills"] = int(_keyed(path)["oom_kill"])

    # --- disk and network ---------------------------------------------------------------------

    def _add_disk(self, values: dict[str, float]) -> None:
        read, written = self._disk_bytes()
        self._add_rate(values, "disk_read_mb_s", read, _MB)
        self._add_rate(values, "disk_write_mb_s", written, _MB)

    def _disk_bytes(self) -> tuple[int, int]:
        if self._disk is None:
            return self._disks_of_machine()
        read = written = 0
        if self._disk.version == 1:
            name = "blkio.throttle.io_service_bytes_recursive"
            for line in (self._disk.path / name).read_text().splitlines():
                fields = line.split()
                if len(fields) == 3:
                    read += int(fields[2]) if fields[1] == "Read" else 0
                    written += int(fields[2]) if fields[1] == "Write" else 0
            return read, written
        for line in (self._disk.path / "io.stat").read_text().splitlines():
            told = dict(pair.split("=") for pair in line.split()[1:] if "=" in pair)
            read += int(told.get("rbytes", 0))
            written += int(told.get("wbytes", 0))
        return read, written

    def _disks_of_machine(self) -> tuple[int, int]:
        whole = {
            path.name
            for path in (self._root / "sys/block").iterdir()
            if not path.name.startswith(_VIRTUAL_DISKS)
        }
        read = written = 0
        for line in self._read("proc/diskstats").splitlines():
            fields = line.split()
            if len(fields) > 9 and fields[2] in whole:
                read += int(fields[5]) * _SECTOR
                written += int(fields[9]) * _SECTOR
        return read, written

    def _add_net(self, values: dict[str, float]) -> None:
        # Of the network namespace: a job has none of its own, unless it is a container.
        received = sent = 0
        counted = self._physical()
        for line in self._read("proc/net/dev").splitlines()[2:]:
            name, _, rest = line.partition(":")
            if name.strip() in counted or (not counted and name.strip() != "lo"):
                fields = rest.split()
                received += int(fields[0])
                sent += int(fields[8])
        self._add_rate(values, "net_recv_mb_s", received, _MB)
        self._add_rate(values, "net_sent_mb_s", sent, _MB)

    def _physical(self) -> set[str]:
        """Return the interfaces that are devices: bridges and bonds count the same bytes again."""
        try:
            paths = (self._root / "sys/class/net").iterdir()
            return {path.name for path in paths if (path / "device").exists()}
        except OSError:
            return set()

    def _add_rdma(self, values: dict[str, float]) -> None:
        received = list(self._rdma_words("port_rcv_data"))
        if received:
            sent = list(self._rdma_words("port_xmit_data"))
            self._add_rate(values, "rdma_recv_mb_s", sum(received) * _RDMA_WORD, _MB)
            self._add_rate(values, "rdma_sent_mb_s", sum(sent) * _RDMA_WORD, _MB)

    def _rdma_words(self, counter: str) -> Iterator[int]:
        for path in (self._root / "sys/class/infiniband").glob(f"*/ports/*/counters/{counter}"):
            yield int(path.read_text())

    def _read(self, name: str) -> str:
        return (self._root / name).read_text()


def _keyed(path: Path) -> dict[str, str]:
    """Return a file of lines "name value"."""
    lines = (line.split() for line in path.read_text().splitlines())
    return {fields[0]: fields[1] for fields in lines if len(fields) == 2}


def _count_listed(text: str) -> int:
    """Return how many numbers a list such as "0-3,8" has."""
    count = 0
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        count += int(last or first) - int(first) + 1
    return count


def _quota(group: Cgroup) -> float:
    """Return how many CPUs' time a cgroup may take; 0 where that is not limited."""
    if group.version == 1:
        quota = (group.path / "cpu.cfs_quota_us").read_text()
        period = (group.path / "cpu.cfs_period_us").read_text()
    else:
        quota, period = (group.path / "cpu.max").read_text().split()
    return int(quota) / int(period) if quota.strip().isdigit() else 0
