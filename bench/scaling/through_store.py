"""Messages of many ranks through a real TCPStore on loopback: what reading them takes.

The server is a process of its own, as torchrun's agent is; the ranks' messages are sent by this
process with real `Outbox`es that share a connection, and what that takes does not count. Then the
recording rank's `Inbox` reads once, as it does every second.
"""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import contextmanager
from statistics import median
from typing import TYPE_CHECKING, Any

from torch._C._distributed_c10d import TCPStore

from bench.lib.processes import ROOT, cpu_clock, end
from bench.scaling.synthetic import SyntheticRanks
from fasttrack.context.stores import own_connection
from fasttrack.ranks.exchange import Inbox, Outbox

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY = "fasttrack/ranks/0/0"
_SERVER = """
import sys
from torch._C._distributed_c10d import TCPStore

server = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
print(server.port, flush=True)
sys.stdin.read()
"""


@contextmanager
def store_server() -> Iterator[tuple[TCPStore, int]]:
    """Have a store served by another process; give a connection to it and the process's clock."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVER], stdin=pipe, stdout=pipe, text=True, cwd=ROOT
    )
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        yield (
            TCPStore("127.0.0.1", port, None, False, wait_for_workers=False),
            cpu_clock(process.pid),
        )
    finally:
        end(process)
        process.communicate()


def measure_reading(ranks: int, rounds: int, silent: int = 0) -> dict[str, Any]:
    """Return what one reading of all ranks' messages takes: the median of `rounds`.

    Args:
        ranks: how many there are, the recording one included.
        rounds: how many readings.
        silent: ranks that tell nothing.
    """
    synthetic = SyntheticRanks(ranks)
    found: list[tuple[float, float, float, float]] = []
    with store_server() as (store, server):
        sending, reading = own_connection(store), own_connection(store)
        outboxes = {rank: Outbox(sending, KEY, rank) for rank in range(1, ranks - silent)}
        inbox = Inbox(reading, KEY, set(range(1, ranks)))
        for _ in range(rounds):
            begun_s = time.clock_gettime(server)
            for rank, text in synthetic.tell():
                if rank in outboxes and not outboxes[rank].try_send(text):
                    raise RuntimeError("the store holds what was read")
            sending.add("settled", 0)  # the first that is answered: all is there
            sent_s = time.clock_gettime(server)
            wall_s, cpu_s = time.perf_counter(), time.thread_time()
            read = inbox.read()
            wall_s, cpu_s = time.perf_counter() - wall_s, time.thread_time() - cpu_s
            reading.add("settled", 0)
            if len(read) != len(outboxes):
                raise RuntimeError(f"{len(read)} of {len(outboxes)} messages were read")
            found.append((wall_s, cpu_s, time.clock_gettime(server) - sent_s, sent_s - begun_s))
    names = ("read_wall_s", "read_cpu_s", "server_read_cpu_s", "server_sent_cpu_s")
    columns = zip(*found, strict=True)
    return {name: median(column) for name, column in zip(names, columns, strict=True)}
