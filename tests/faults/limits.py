"""Limits of descriptors, processes and file sizes that a run meets in its middle."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from faults.rig import Scenario, Skip

if TYPE_CHECKING:
    from collections.abc import Callable

    from faults.rig import Bench

_CGROUPS = (Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup"))


def _limit(bench: Bench, flag: str, value: int) -> None:
    """Set a limit of all processes of the run."""
    if shutil.which("prlimit") is None:
        raise Skip("needs prlimit")
    for process in bench.processes():
        command = ["prlimit", f"--pid={process.pid}", f"{flag}={value}:{value}"]
        subprocess.run(command, capture_output=True, check=False)


def _limit_files(bench: Bench) -> None:
    _limit(bench, "--nofile", bench.random.choice((24, 32, 48, 64)))


def _limit_file_size(bench: Bench) -> None:
    _limit(bench, "--fsize", bench.random.choice((90, 120, 150)) * 1024)


def _limit_processes(bench: Bench) -> None:
    """Let none be started any more: by a cgroup where the limit is not root's, who has none."""
    if os.geteuid():
        _limit(bench, "--nproc", 0)
        return
    for place in _CGROUPS:
        group = place / f"faults-{bench.mark}"
        with contextlib.suppress(OSError):
            group.mkdir()
            bench.at_end.append(partial(_remove, group))
            if (group / "pids.max").exists():
                for process in bench.processes():
                    (group / "cgroup.procs").write_text(str(process.pid))
                (group / "pids.max").write_text("1")
                return
    raise Skip("root has no limit of processes, and no cgroup of them can be made here")


def _remove(group: Path) -> None:
    with contextlib.suppress(OSError):  # a zombie that nobody reaps holds it
        group.rmdir()


def _meet(bench: Bench, limit: Callable[[Bench], None]) -> None:
    """Set the limit at a seeded row, and kill delivery, which then must be started under it."""
    bench.may_lose = True
    mode = "offline" if bench.seed % 2 else "online"
    trainer = bench.train(mode=mode, flush_every=0)
    trainer.await_row(bench.random.randrange(1, 30))
    bench.await_process("delivery")
    limit(bench)
    bench.kill("delivery")
    bench.fault_is_over()


_LIMITS = {
    # Their journal exceeds the file size; the trainer's own notes do not.
    "file-size": (_limit_file_size, 1200),
    "files": (_limit_files, 300),
    "processes": (_limit_processes, 300),
}
SCENARIOS = tuple(
    Scenario(
        name=f"limit-{name}",
        family="limits",
        act=partial(_meet, limit=limit),
        promise="training goes on; what was kept arrives, the rest is counted",
        rows=rows,
        fast=int(name == "files"),
    )
    for name, (limit, rows) in _LIMITS.items()
)
