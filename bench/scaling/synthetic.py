"""Ranks that are made up: what each tells in a second, by the code that real ones tell it with."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from fasttrack.ranks.messages import Message, Span, Window

if TYPE_CHECKING:
    from collections.abc import Iterator

WIDTH = 50  # steps in a window, as by default
STEPS = 50  # in a second: steps of 20 ms, so that every message has a window
LOOKS = 10  # at the training thread in a second
USUAL_SHARE = 0.4  # of the time that a rank is at work of its own
SLOW_SHARE = 0.9
GPUS = 8  # of a node


class SyntheticRanks:
    """A job that trains in step; one of its ranks may hold the others up."""

    def __init__(self, ranks: int, *, slow: int | None = None, seed: int = 0) -> None:
        self.ranks = ranks
        self.slow = slow
        self._chance = random.Random(seed)
        self._second = 0

    def second(self) -> Iterator[tuple[int, bytes]]:
        """Yield each rank's message of the next second, as it travels; in no order."""
        ranks = list(range(self.ranks))
        self._chance.shuffle(ranks)
        for rank in ranks:
            yield rank, self._message(rank).encode()
        self._second += 1

    def _message(self, rank: int) -> Message:
        chance = self._chance.random
        index = self._second
        values = {
            "non_finite": 0.0,
            "loss": 2.0 + chance(),
            "grad_norm": 1.0 + chance(),
            "step_time_ms": 20.0 + chance(),
            "step_time_max_ms": 25.0 + chance(),
            "memory_peak_gb": 60.0 + chance(),
        }
        share = SLOW_SHARE if rank == self.slow else USUAL_SHARE
        own = sum(chance() < share for _ in range(LOOKS))
        return Message(
            width=WIDTH,
            span=Span(0.95 + 0.1 * chance(), STEPS, LOOKS, own // 2, own),
            windows=[Window(0, index, (index + 1) * WIDTH - 1, values)],
            host=f"node{rank // GPUS:05d}",
            gpu=f"GPU {rank % GPUS}: NVIDIA H100 80GB HBM3, GPU-8d1c47a0-5b6e-4f1d-9c55-{rank:012x}",
        )
