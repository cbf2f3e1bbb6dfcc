"""Real ranks of a job with `Options(ranks="all")`, and what their run's journal holds."""

from __future__ import annotations

import signal
import subprocess
import textwrap
from pathlib import Path

from support.journals import read_rows
from support.runs import HANG_GUARD_S, start_script
from torch._C._distributed_c10d import TCPStore

from fasttrack.journal.rows import Row

_PREAMBLE = """
import datetime, json, os, signal, sys, time
import torch
import torch.distributed as dist
from support.runs import make_tracker
from support.trackers import journal_only

torch.set_num_threads(1)
rank, ranks, port, hosts = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
os.environ.update(RANK=str(rank), WORLD_SIZE=str(ranks))
of_node = int(sys.argv[5])
os.environ.update(LOCAL_RANK=str(rank % of_node), LOCAL_WORLD_SIZE=str(of_node))
os.environ.update(GROUP_RANK=str(rank // of_node), GROUP_WORLD_SIZE=str(ranks // of_node))

def meet():
    serves = bool(hosts) and rank == 0
    store = dist.TCPStore("127.0.0.1", port, None, serves, wait_for_workers=False)
    dist.init_process_group(
        "gloo", store=store, rank=rank, world_size=ranks, timeout=datetime.timedelta(seconds=60)
    )

def track(**arguments):
    options = journal_only(ranks="all", **arguments.pop("options", {}))
    return make_tracker(options=options, **{"gpu_stats_interval": 20, **arguments})
"""


class Ranks:
    """Real processes that meet at a store, and what they printed."""

    def __init__(
        self,
        count: int,
        script: str,
        *,
        port: int = 0,
        server: TCPStore | None = None,
        nodes: int = 1,
    ) -> None:
        """Start `script` on `count` ranks.

        Args:
            count: how many.
            script: of each; it begins with the preamble.
            port: where rank 0 serves; 0: the test does, as torchrun's agent.
            server: an earlier attempt's, where the test serves.
            nodes: that there are as if they were, each with as many ranks.
        """
        serves = int(bool(port))
        if not port:
            server = server or TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
            port = server.port
        self.server = server  # or it would be collected
        source = _PREAMBLE + textwrap.dedent(script)
        arguments = (str(count), str(port), str(serves), str(count // nodes))
        self._processes = [
            start_script(source, str(rank), *arguments, warnings=None) for rank in range(count)
        ]

    def end(self, *, killed: int | None = None) -> list[subprocess.CompletedProcess[str]]:
        """Return what each rank printed, once all have ended; all but `killed` with success."""
        done = []
        try:
            for rank, process in enumerate(self._processes):
                stdout, stderr = process.communicate(timeout=HANG_GUARD_S)
                assert process.returncode == (-signal.SIGKILL if rank == killed else 0), stderr
                done.append(subprocess.CompletedProcess(process.args, 0, stdout, stderr))
        finally:
            for process in self._processes[len(done) :]:
                process.kill()
                process.communicate()
        return done


def rows_of(directory: Path) -> tuple[list[Row], list[Row]]:
    """Return a run's rows that tell of all ranks, and those that were logged."""
    rows = read_rows(directory)
    assert [row.step for row in rows] == sorted(row.step for row in rows)
    ours = [row for row in rows if "ranks/missing" in row.values]
    return ours, [row for row in rows if row not in ours]
