"""Ranks that live on when what started them is gone do not answer the ranks that come after."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.runs import HANG_GUARD_S, start_script, wait_until
from support.slurm_cluster import free_ports

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

_SERVER = """
import sys
import torch.distributed as dist

store = dist.TCPStore("127.0.0.1", int(sys.argv[1]), is_master=True, wait_for_workers=False)
print("serves", flush=True)
sys.stdin.read()
"""

# Does what torchrun's agent does: starts two ranks, and waits for them.
_AGENT = """
import os, sys, threading
from pathlib import Path
import torch.distributed as dist
from support.runs import wait_until
from fasttrack.context.group_store import group_store

directory, port = Path(sys.argv[1]), int(sys.argv[2])
os.environ["TORCHELASTIC_RUN_ID"] = "none"
for rank in range(2):
    if not os.fork():
        break
else:
    for _ in range(2):
        os.wait()
    os._exit(0)


def talks():
    return any(thread.name == "fasttrack-group" for thread in threading.enumerate())


store = dist.TCPStore("127.0.0.1", port)
dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
wait_until(lambda: group_store() is not None, 60)
if rank == 1:
    (directory / "answered").touch()
else:
    assert talks()
    wait_until(lambda: not talks(), 60)
    (directory / "talks no more").touch()
os._exit(0)
"""


def serve(port: int) -> subprocess.Popen[str]:
    """Start the server of a store."""
    server = start_script(_SERVER, str(port))
    assert server.stdout is not None
    assert server.stdout.readline() == "serves\n"
    return server


@pytest.mark.parametrize("gone", ["the agent", "the server"])
def test_a_leader_that_is_left_behind_answers_no_more(tmp_path: Path, gone: str) -> None:
    """Its agent was killed; or the store's server was, and another is there at its address."""
    (port,) = free_ports(1)
    with serve(port) as server, start_script(_AGENT, str(tmp_path), str(port)) as agent:
        wait_until((tmp_path / "answered").exists, HANG_GUARD_S)
        if gone == "the agent":
            agent.kill()
            wait_until((tmp_path / "talks no more").exists, HANG_GUARD_S)
        else:
            server.kill()
            server.wait(HANG_GUARD_S)
            with serve(port) as another:
                wait_until((tmp_path / "talks no more").exists, HANG_GUARD_S)
                another.kill()
        server.kill()
