"""What the recording rank's thread does with messages that it has: decode, add up, judge.

Nothing travels here. CPU time is the thread's own, so that other load on the machine, which takes
turns with it, does not count.
"""

from __future__ import annotations

import time
import tracemalloc
from typing import TYPE_CHECKING, Any

from bench.scaling.synthetic import WIDTH, SyntheticRanks
from fasttrack.ranks.aggregate import Aggregator, Row
from fasttrack.ranks.messages import Message

if TYPE_CHECKING:
    from collections.abc import Sequence

_MIB = 2**20


class Receiver:
    """The recording rank's side: a real aggregator, on a clock of its own."""

    def __init__(self, ranks: int) -> None:
        self.now_s = 0.0
        self.said: dict[str, str] = {}
        self.aggregator = Aggregator(
            ranks, WIDTH, warn=self.said.setdefault, clock=lambda: self.now_s
        )

    def take(self, messages: Sequence[tuple[int, bytes]]) -> list[Row]:
        """Do with a second's messages what the rank's thread does; return the rows."""
        self.now_s += 1.0
        for rank, text in messages:
            self.aggregator.take(rank, Message.decode(text))
        return self.aggregator.look()


def measure_adding_up(ranks: int, seconds: int) -> dict[str, Any]:
    """Return what `seconds` of messages of `ranks` ranks cost, one of which is slow."""
    synthetic = SyntheticRanks(ranks, slow=ranks // 3)
    receiver = Receiver(ranks)
    cpu_s, size_bytes, rows, named_after_s = [], 0, 0, None
    for second in range(1, seconds + 1):
        messages = list(synthetic.second())
        size_bytes += sum(len(text) for _, text in messages)
        before_s = time.thread_time()
        rows += len(receiver.take(messages))
        cpu_s.append(time.thread_time() - before_s)
        if named_after_s is None and f"straggler:{synthetic.slow}" in receiver.said:
            named_after_s = second
    named = {key for key in receiver.said if key.startswith("straggler:")}
    return {
        "messages": ranks,
        "bytes": size_bytes / seconds,
        "cpu_s": sorted(cpu_s)[len(cpu_s) // 2],
        "cpu_most_s": max(cpu_s),
        "rows": rows,
        "named_after_s": named_after_s,
        "wrongly_named": len(named - {f"straggler:{synthetic.slow}"}),
        "held_mb": _held_mb(ranks),
    }


def _held_mb(ranks: int, seconds: int = 6) -> float:
    """Return what the aggregator holds after some seconds, in MiB; slow, as each object is noted."""
    synthetic = SyntheticRanks(ranks)
    tracemalloc.start()
    try:
        receiver = Receiver(ranks)
        for _ in range(seconds):
            messages = list(synthetic.second())
            receiver.take(messages)
            del messages
        return tracemalloc.get_traced_memory()[0] / _MIB
    finally:
        tracemalloc.stop()
