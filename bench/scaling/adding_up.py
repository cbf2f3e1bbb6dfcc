"""What the recording rank's thread does with messages that it has: decode, add up, judge.

Nothing travels here. CPU time is the thread's own, so that other load on the machine, which takes
turns with it, does not count.
"""

from __future__ import annotations

import time
import tracemalloc
from statistics import median
from typing import Any

from bench.scaling.synthetic import WIDTH, SyntheticRanks
from fasttrack.ranks.aggregate import Aggregator, Row
from fasttrack.ranks.member import hear
from fasttrack.worker.bursts import Bursts

_MIB = 2**20


class Receiver:
    """The recording rank's side: a real aggregator, on a clock of its own."""

    def __init__(self, ranks: int) -> None:
        self.now_s = 0.0
        self._bursts = Bursts()
        self.said: dict[str, str] = {}
        self.aggregator = Aggregator(ranks, WIDTH, warn=self._say, clock=lambda: self.now_s)

    def _say(self, key: str, text: str) -> None:
        self.said.setdefault(key, text)

    def take(self, messages: list[tuple[int, bytes]], after_s: float) -> list[Row]:
        """Do with one round's messages what the rank's thread does; return the rows."""
        self.now_s += after_s
        self._bursts.begin()
        hear(messages, self.aggregator.take, self._say, self._bursts)
        return self.aggregator.look()


def measure_adding_up(ranks: int, seconds: int) -> dict[str, Any]:
    """Return what `seconds` of training of `ranks` ranks cost, one of which is slow.

    CPU time is per second: `cpu_s` in the median round, `cpu_most_s` in the dearest.
    """
    synthetic = SyntheticRanks(ranks, slow=ranks // 3)
    receiver = Receiver(ranks)
    every_s, slow = synthetic.every_s, f"straggler:{synthetic.slow}"
    cpu_s: list[float] = []
    wall_s: list[float] = []
    size_bytes, rows = 0, 0
    named_after_s: float | None = None
    for _ in range(round(seconds / every_s)):
        messages = list(synthetic.tell())
        size_bytes += sum(len(text) for _, text in messages)
        before_s, began_s = time.thread_time(), time.perf_counter()
        rows += len(receiver.take(messages, every_s))
        cpu_s.append((time.thread_time() - before_s) / every_s)
        wall_s.append(time.perf_counter() - began_s)
        if named_after_s is None and slow in receiver.said:
            named_after_s = receiver.now_s
    named = {key for key in receiver.said if key.startswith("straggler")}
    return {
        "messages": ranks / every_s,
        "bytes": size_bytes / receiver.now_s,
        "cpu_s": median(cpu_s),
        "cpu_most_s": max(cpu_s),
        "round_wall_s": median(wall_s),
        "rows": rows,
        "named_after_s": named_after_s,
        "wrongly_named": len(named - {slow}),
        "held_mb": _held_mb(ranks),
    }


def _held_mb(ranks: int, rounds: int = 4) -> float:
    """Return what the aggregator holds after some rounds, in MiB. Slow: every object is noted."""
    synthetic = SyntheticRanks(ranks)
    tracemalloc.start()
    try:
        receiver = Receiver(ranks)
        for _ in range(rounds):
            messages = list(synthetic.tell())
            receiver.take(messages, synthetic.every_s)
            del messages
        return tracemalloc.get_traced_memory()[0] / _MIB
    finally:
        tracemalloc.stop()
