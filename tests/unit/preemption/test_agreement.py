"""All ranks stop at the same call, whatever the delays: real stores, many ranks, any order."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

import pytest
from torch._C._distributed_c10d import Store, TCPStore

from fasttrack.preemption import agreement
from fasttrack.preemption.agreement import Agreement, Calls

HANG_GUARD_S = 60.0


class Rank:
    """A rank that calls `should_stop` as a training loop does, and notes the answers."""

    def __init__(self, number: int, ranks: int, store: Store, said: list[str]) -> None:
        self.calls = Calls()
        self.agreement = Agreement(
            store.clone,  # type: ignore[attr-defined]  # no type stub has it
            "stop/0",
            number,
            ranks,
            self.calls,
            warn=said.append,
        )
        self.stopped_at: int | None = None

    def step(self) -> bool:
        """Call once; return the answer."""
        self.calls.newest = number = self.calls.newest + 1
        if number >= self.calls.limit and self.agreement.answer(number):
            self.stopped_at = number
            return True
        return False

    def train(self, pause: Callable[[], float], barrier: threading.Barrier | None) -> None:
        """Step until told to stop, in lockstep with the others where there is a barrier."""
        while not self.step():
            time.sleep(pause())
            if barrier is not None:
                barrier.wait(HANG_GUARD_S)


@pytest.fixture
def store() -> Store:
    """The server, as rank 0 has it."""
    return TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)


@pytest.fixture
def swift(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks look at the store fifty times as often."""
    monkeypatch.setattr(agreement, "LOOK_EVERY_S", 0.02)
    monkeypatch.setattr(agreement, "AHEAD_S", 0.03)
    monkeypatch.setattr(agreement, "_DECIDING_POLL_S", 0.002)


def _close(ranks: list[Rank]) -> None:
    for rank in ranks:
        rank.agreement.close()


@pytest.mark.usefixtures("swift")
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("lockstep", [True, False])
def test_all_ranks_stop_at_the_same_call(store: Store, seed: int, lockstep: bool) -> None:
    """One of eight ranks is asked at a random moment; steps take random times, or drift apart."""
    chance = random.Random(seed)
    said: list[str] = []
    count = 8
    ranks = [Rank(number, count, store, said) for number in range(count)]
    barrier = threading.Barrier(count) if lockstep else None
    slowest_s = chance.choice([0.0002, 0.002, 0.05])

    def pause() -> float:
        return chance.random() * slowest_s

    threads = [
        threading.Thread(target=rank.train, args=(pause, barrier), daemon=True) for rank in ranks
    ]
    for thread in threads:
        thread.start()
    time.sleep(chance.random() * 0.3)  # when it is asked does not matter: that is what is shown
    for rank in chance.sample(ranks, chance.choice([1, 3])):
        rank.agreement.request(f"asked of {rank.agreement._rank}")
    for thread in threads:
        thread.join(HANG_GUARD_S)

    assert len({rank.stopped_at for rank in ranks}) == 1
    assert ranks[0].stopped_at is not None
    assert len({rank.agreement.reason for rank in ranks}) == 1
    assert all(rank.step() for rank in ranks), "once True, always True"
    _close(ranks)
    assert said == []
