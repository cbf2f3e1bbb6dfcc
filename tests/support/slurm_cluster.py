"""A real Slurm of a test's own: munged, slurmctld and one slurmd per emulated node, on loopback.

It lives in a temporary directory, on free ports, and its daemons are children of this process, so
that several can run side by side and none is left behind. Needs root.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

_Test = TypeVar("_Test", bound=Callable[..., Any])
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scancel", "scontrol", "sinfo", "squeue")
_STARTS = 3  # a port may be taken between finding and using it
_PORTS = range(20_000, 32_000)
_UP_S = 60.0
_DOWN_S = 20.0
_POLL_S = 0.1

# cred_expire is also how long a requeued job waits before it starts again (5 s at least, else 120).
_SLURM_CONF = """
ClusterName={name}
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort={ports[0]}
AuthType=auth/munge
AuthInfo=socket={prefix}/munge.sock,cred_expire=5
CredType=cred/munge
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={prefix}/state
SlurmdSpoolDir={prefix}/%n
SlurmctldPidFile={prefix}/slurmctld.pid
SlurmdPidFile={prefix}/%n.pid
ProctrackType=proctrack/{proctrack}
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=2,batch_sched_delay=0
MpiDefault=none
ReturnToService=2
KillWait=30
MinJobAge=600
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
SlurmdParameters=config_overrides
"""
_NODE = (
    "NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=4 RealMemory=1000\n"
)
_PARTITIONS = """
PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE PriorityTier=1 State=UP
PartitionName=urgent Nodes=ALL MaxTime=INFINITE PriorityTier=2 State=UP
"""
_CGROUP_CONF = "CgroupPlugin=cgroup/v1\nCgroupMountpoint=/sys/fs/cgroup\n"


def missing() -> str | None:
    """Return why no cluster can be started here, or None."""
    lacking = [name for name in PROGRAMS if shutil.which(name) is None]
    if lacking:
        return (
            f"Slurm is not installed ({', '.join(lacking)}): "
            "apt-get install slurmctld slurmd slurm-client munge"
        )
    return None if os.geteuid() == 0 else "Slurm's daemons need root"


NEEDS_SLURM = [
    pytest.mark.slurm,
    pytest.mark.skipif(missing() is not None, reason=missing() or ""),
    pytest.mark.timeout(900),  # a job waits for Slurm, for its start and for a busy machine
]
"""Marks of a module whose tests start clusters."""


def needs_slurm(test: _Test) -> _Test:
    """Mark one such test of another module."""
    for mark in NEEDS_SLURM:
        test = mark(test)
    return test


class SlurmCluster:
    """The cluster: start it with `with`, then `submit` jobs.

    Args:
        nodes: emulated nodes, each of four CPUs.
        proctrack: how Slurm finds a job's processes, which decides who gets signals: "linuxproc",
            all descendants; "cgroup", as most sites have it, only what srun started itself.
    """

    def __init__(self, nodes: int = 2, proctrack: str = "linuxproc") -> None:
        self.name = f"fasttrack{secrets.token_hex(3)}"  # cgroups are named after the nodes
        self._nodes = [f"{self.name}n{number}" for number in range(1, nodes + 1)]
        self._proctrack = proctrack
        self._prefix = Path(tempfile.mkdtemp(prefix="slurm-"))  # short: sockets' paths are limited
        self._conf = self._prefix / "slurm.conf"
        self._daemons: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> SlurmCluster:
        try:
            for _ in range(_STARTS):
                if self._start():
                    return self
                self._stop_daemons()
            logs = "\n".join(path.read_text()[-2000:] for path in self._prefix.glob("*.log"))
            raise RuntimeError(f"the nodes did not come up\n{logs}")
        except BaseException:
            self.stop()
            raise

    def __exit__(self, kind: object, *exc_info: object) -> None:
        if kind is not None:  # what a reader of the failure asks first
            with contextlib.suppress(RuntimeError, subprocess.TimeoutExpired):
                print(self.command("squeue", "--states=all"), self.command("sinfo", "-N", "-l"))
        self.stop()

    # --- jobs ---------------------------------------------------------------------------------

    def command(
        self,
        *arguments: str | Path,
        environment: dict[str, str] | None = None,
        directory: Path | None = None,
    ) -> str:
        """Run one of Slurm's commands, in `directory` or here, and return what it printed."""
        result = subprocess.run(
            list(map(str, arguments)),
            env=self._with_conf(environment or dict(os.environ)),
            cwd=directory,
            capture_output=True,
            text=True,
            timeout=60,
        )
        if result.returncode:
            raise RuntimeError(f"{arguments[0]} failed: {result.stderr}")
        return result.stdout

    def submit(
        self, *arguments: str | Path, environment: dict[str, str], directory: Path | None = None
    ) -> str:
        """Submit a job that sees `environment`, with sbatch's arguments; return its id."""
        command = ("sbatch", "--parsable", *arguments)
        return self.command(*command, environment=environment, directory=directory).strip()

    def job(self, job_id: str) -> dict[str, str]:
        """Return what `scontrol show job` says of a job."""
        text = self.command("scontrol", "show", "job", "-o", job_id)
        return dict(re.findall(r"(\S+?)=(\S*)", text))

    def wait_for_state(self, job_id: str, *states: str, timeout_s: float = 480.0) -> dict[str, str]:
        """Wait until the job is in one of `states`, asking ten times a second; return the job."""
        deadline = time.monotonic() + timeout_s
        while (job := self.job(job_id))["JobState"] not in states:
            if time.monotonic() > deadline:
                raise TimeoutError(f"job {job_id} is still {job['JobState']}: {job}")
            time.sleep(_POLL_S)
        return job

    def fail_node(self, node: str) -> None:
        """Have a node lose its power: all that runs on it is gone, and Slurm is told so."""
        jobs = self.command("squeue", "-h", "-w", node, "-o", "%A").split()
        titles = tuple(f"slurmstepd: [{job}." for job in jobs)
        number = self._nodes.index(node)
        daemon = self._daemons.pop(len(self._daemons) - len(self._nodes) + number)
        self._nodes.remove(node)
        daemon.kill()
        daemon.wait()
        running = self._processes(f"SLURMD_NODENAME={node}")
        # First who would tell Slurm that the rest was killed; newer ones have no environment.
        stewards = {pid for pid in map(_parent, running) if _title(pid).startswith(titles)}
        for process in (*stewards, *running):
            with contextlib.suppress(OSError):
                os.kill(process, signal.SIGKILL)
        self.command("scontrol", "update", f"nodename={node}", "state=down", "reason=power")

    def _with_conf(self, environment: dict[str, str]) -> dict[str, str]:
        return {**environment, "SLURM_CONF": str(self._conf)}

    # --- starting and stopping ----------------------------------------------------------------

    def _start(self) -> bool:
        host = socket.gethostname().split(".", 1)[0]
        ports = free_ports(1 + len(self._nodes))
        conf = _SLURM_CONF.format(
            name=self.name, host=host, ports=ports, prefix=self._prefix, proctrack=self._proctrack
        )
        for node, port in zip(self._nodes, ports[1:], strict=True):
            conf += _NODE.format(node=node, host=host, port=port)
            (self._prefix / node).mkdir(exist_ok=True)
        self._conf.write_text(conf + _PARTITIONS)
        (self._prefix / "cgroup.conf").write_text(_CGROUP_CONF)
        (self._prefix / "state").mkdir(exist_ok=True)
        key = self._prefix / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(1024))
        files = {"key-file": key.name, "socket": "munge.sock", "pid-file": "munged.pid"}
        files |= {"log-file": "munged.log", "seed-file": "munge.seed"}
        munge_arguments = [f"--{name}={self._prefix / path}" for name, path in files.items()]
        self._daemon("munged", "--foreground", "--force", *munge_arguments)
        self._daemon("slurmctld", "-D", "-c")
        for node in self._nodes:
            self._daemon("slurmd", "-D", "-N", node)
        return self._wait_for_nodes()

    def _daemon(self, program: str, *arguments: str) -> None:
        name = f"{program}{len(self._daemons)}"
        with (self._prefix / f"{name}.log").open("ab") as log:
            # setpriv: should this process be killed, they go with it
            process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", program, *arguments],
                env=self._with_conf(dict(os.environ)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._daemons.append(process)

    def _wait_for_nodes(self) -> bool:
        deadline = time.monotonic() + _UP_S
        while time.monotonic() < deadline:
            if any(daemon.poll() is not None for daemon in self._daemons):
                return False
            with contextlib.suppress(RuntimeError, subprocess.TimeoutExpired):  # not up yet
                idle = self.command("sinfo", "-h", "-N", "-t", "idle", "-o", "%N").split()
                if set(idle) == set(self._nodes):  # one is named once for each partition
                    return True
            time.sleep(_POLL_S)
        return False

    def stop(self) -> None:
        """Cancel what still runs and stop all that was started."""
        with contextlib.suppress(RuntimeError, subprocess.TimeoutExpired):
            self.command("scancel", "--user=root")
            deadline = time.monotonic() + _DOWN_S
            while self.command("squeue", "-h") and time.monotonic() < deadline:
                time.sleep(_POLL_S)
        self._stop_daemons()
        self._kill_leftovers()
        for cgroup in Path("/sys/fs/cgroup").glob(f"*/slurm_{self.name}n*"):
            for directory in sorted(cgroup.glob("**/"), reverse=True):
                with contextlib.suppress(OSError):
                    directory.rmdir()
        shutil.rmtree(self._prefix, ignore_errors=True)

    def _stop_daemons(self) -> None:
        for daemon in reversed(self._daemons):
            daemon.terminate()
            try:
                daemon.wait(_DOWN_S)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        self._daemons.clear()

    def _kill_leftovers(self) -> None:
        for process in self._processes():
            with contextlib.suppress(OSError):
                os.kill(process, signal.SIGKILL)

    def _processes(self, *marks: str) -> list[int]:
        """Return the processes whose environment names this cluster, and has `marks`."""
        wanted = {f"SLURM_CONF={self._conf}".encode(), *(mark.encode() for mark in marks)}
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if wanted <= set((process / "environ").read_bytes().split(b"\0")):
                    found.append(int(process.name))
        return found


def _parent(process: int) -> int:
    try:
        return int(Path(f"/proc/{process}/stat").read_bytes().rsplit(b")", 1)[1].split()[1])
    except OSError:
        return 0


def _title(process: int) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def free_ports(count: int) -> list[int]:
    """Return ports of 127.0.0.1 that nobody listens on.

    They lie below those that the kernel gives to outgoing connections, of which Slurm makes many:
    one of these would be taken before it is used.
    """
    found: dict[int, socket.socket] = {}
    while len(found) < count:
        port = secrets.choice(_PORTS)
        with contextlib.suppress(OSError):
            found[port] = socket.create_server(("127.0.0.1", port))
    for listener in found.values():
        listener.close()
    return list(found)
