"""Made-up ranks whose nodes' first ranks tell for them: what is left for the recording one.

The messages of each node are put together by the code that does it on real ones, and travel through
a real TCPStore of another process. On one real first rank, with a real store of its own that seven
others send to, what it does is measured.
"""

from __future__ import annotations

import os
import time
import tracemalloc
from pathlib import Path
from statistics import median
from typing import Any

from bench.scaling.adding_up import Receiver
from bench.scaling.synthetic import GPUS, SyntheticRanks
from bench.scaling.through_store import KEY, store_server
from fasttrack.context.stores import connect, own_connection
from fasttrack.ranks.exchange import Inbox, Outbox
from fasttrack.ranks.fan_in import Leader, NodePlace
from fasttrack.ranks.messages import Message
from fasttrack.ranks.node_message import NodeMessage

_MIB = 2**20


class Nodes:
    """What the first ranks of made-up nodes tell."""

    def __init__(self, ranks: int) -> None:
        self.synthetic = SyntheticRanks(ranks, slow=ranks // 3)
        self._places: dict[int, dict[int, tuple[str, str]]] = {}

    def tell(self) -> list[tuple[int, bytes]]:
        """Return each one's next message, as it travels."""
        of_node: dict[int, list[tuple[int, Message]]] = {}
        for rank, message in self.synthetic.messages():
            of_node.setdefault(rank - rank % GPUS, []).append((rank, message))
        texts = []
        for first, told in of_node.items():
            known = self._places.setdefault(first, {})
            texts.append((first, NodeMessage.of(told).encode(known)))
            known.update((rank, (each.host, each.gpu)) for rank, each in told)
        return texts


def measure_fan_in(ranks: int, seconds: int) -> dict[str, Any]:
    """Return what the recording rank of `ranks` ranks does where nodes tell for their ranks.

    CPU time is per second, in the median round.
    """
    nodes, receiver = Nodes(ranks), Receiver(ranks)
    every_s = nodes.synthetic.every_s
    found: list[tuple[float, ...]] = []
    with store_server() as (store, server):
        sending, reading = own_connection(store), own_connection(store)
        outboxes = {first: Outbox(sending, KEY, first) for first in range(0, ranks, GPUS)}
        inbox = Inbox(reading, KEY, range(ranks))
        for _ in range(round(seconds / every_s)):
            told, served_s = nodes.tell(), time.clock_gettime(server)
            sent = [outboxes[first].try_send(text) for first, text in told]
            if not all(sent):
                raise RuntimeError("the store holds what was read")
            sending.add("settled", 0)  # the first that is answered: all is there
            wall_s, cpu_s = time.perf_counter(), time.thread_time()
            read = inbox.read()
            read_s = time.thread_time() - cpu_s
            receiver.take(read, every_s)
            cpu_s, wall_s = time.thread_time() - cpu_s, time.perf_counter() - wall_s
            reading.add("settled", 0)
            if len(read) != len(told):
                raise RuntimeError(f"{len(read)} of {len(told)} messages were read")
            size_bytes = sum(len(text) for _, text in told)
            served_s = time.clock_gettime(server) - served_s
            found.append((read_s, cpu_s - read_s, served_s, wall_s * every_s, size_bytes))
    names = ("read_cpu_s", "add_cpu_s", "server_cpu_s", "wall_s", "bytes")
    columns = zip(*found, strict=True)
    medians = {name: median(each) / every_s for name, each in zip(names, columns, strict=True)}
    named = {key for key in receiver.said if key.startswith("straggler")}
    return {
        "messages": len(outboxes) / every_s,
        **medians,
        "held_mb": _held_mb(ranks),
        "named": named == {f"straggler:{nodes.synthetic.slow}"},
    }


def _held_mb(ranks: int, rounds: int = 4) -> float:
    """Return what the recording rank holds after some rounds, in MiB; as `measure_adding_up`."""
    nodes = Nodes(ranks)
    texts = [nodes.tell() for _ in range(rounds)]
    tracemalloc.start()
    try:
        receiver = Receiver(ranks)
        for told in texts:
            receiver.take(told, nodes.synthetic.every_s)
        return tracemalloc.get_traced_memory()[0] / _MIB
    finally:
        tracemalloc.stop()


def measure_leading(ranks: int, seconds: int) -> dict[str, Any]:
    """Return what one first rank does in a job of `ranks` ranks, by the second.

    Its store's server is a thread of the same process, whose CPU time is the rest of it.
    """
    synthetic = SyntheticRanks(GPUS)
    synthetic.every_s = SyntheticRanks(ranks).every_s
    found: list[tuple[float, float]] = []
    with store_server() as (store, _):
        job = own_connection(store)
        inbox = Inbox(own_connection(store), KEY, range(GPUS))
        held_bytes = _resident_bytes()
        leader = Leader(NodePlace("0/n", 0), Outbox(job, KEY, 0), job, KEY, 0)
        port = leader._server.port
        outboxes = [Outbox(connect("127.0.0.1", port), KEY, rank) for rank in range(1, GPUS)]
        for _ in range(round(seconds / synthetic.every_s)):
            messages = dict(synthetic.messages())
            texts = [messages[outbox._rank].encode() for outbox in outboxes]
            process_s, ours_s = time.process_time(), time.thread_time()
            for outbox, text in zip(outboxes, texts, strict=True):
                outbox.try_send(text)
                outbox._store.add("settled", 0)
            sending_s, cpu_s = time.thread_time() - ours_s, time.thread_time()
            if not leader.try_send(messages[0], last=False):
                raise RuntimeError("the store holds what was read")
            cpu_s = time.thread_time() - cpu_s
            job.add("settled", 0)
            server_s = time.process_time() - process_s - sending_s - cpu_s
            inbox.read()
            found.append((cpu_s / synthetic.every_s, max(0.0, server_s) / synthetic.every_s))
        held_bytes = _resident_bytes() - held_bytes
    own, server = zip(*found, strict=True)
    return {"cpu_s": median(own), "server_cpu_s": median(server), "held_mb": held_bytes / _MIB}


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
