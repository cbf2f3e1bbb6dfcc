"""Ranks that are made up: what each tells, by the code that real ones tell it with."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from fasttrack.ranks.member import tell_every_s
from fasttrack.ranks.messages import Message, Span, Window

if TYPE_CHECKING:
    from collections.abc import Iterator

WIDTH = 50  # steps in a window, as by default
_STEP_S = 0.02  # so that there is a window every second
_LOOKS = 10  # at the training thread in a second
_USUAL_SHARE = 0.4  # of the time that a rank is at work of its own
_SLOW_SHARE = 0.9
_GPUS = 8  # of a node


class SyntheticRanks:
    """A job that trains in step; one of its ranks may hold the others up."""

    def __init__(self, ranks: int, *, slow: int | None = None, seed: int = 0) -> None:
        self.ranks = ranks
        self.slow = slow
        self.every_s = tell_every_s(ranks)
        self._chance = random.Random(seed)
        self._windows = 0

    def tell(self) -> Iterator[tuple[int, bytes]]:
        """Yield each rank's next message, as it travels; in no order."""
        ranks = list(range(self.ranks))
        self._chance.shuffle(ranks)
        before = self._windows
        self._windows += round(self.every_s / (_STEP_S * WIDTH))
        for rank in ranks:
            yield rank, self._message(rank, range(before, self._windows)).encode()

    def _message(self, rank: int, windows: range) -> Message:
        chance = self._chance.random
        share = _SLOW_SHARE if rank == self.slow else _USUAL_SHARE
        looks = round(_LOOKS * self.every_s)
        own = sum(chance() < share for _ in range(looks))
        elapsed_s = self.every_s * (0.95 + 0.1 * chance())
        return Message(
            width=WIDTH,
            span=Span(elapsed_s, round(self.every_s / _STEP_S), looks, own // 2, own),
            windows=[self._window(index) for index in windows],
            host=f"node{rank // _GPUS:05d}",
            gpu=f"GPU {rank % _GPUS}: NVIDIA H100 80GB HBM3, GPU-8d1c47a0-5b6e-4f1d-{rank:012x}",
        )

    def _window(self, index: int) -> Window:
        chance = self._chance.random
        values = {
            "non_finite": 0.0,
            "loss": 2.0 + chance(),
            "grad_norm": 1.0 + chance(),
            "step_time_ms": 20.0 + chance(),
            "step_time_max_ms": 25.0 + chance(),
            "memory_peak_gb": 60.0 + chance(),
        }
        return Window(0, index, (index + 1) * WIDTH - 1, values)
