"""All ranks stop at the same call, whatever the delays: real stores, many ranks, any order."""

from __future__ import annotations

import functools
import itertools
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from support.interrupts import interrupt
from torch._C._distributed_c10d import Store, TCPStore

from fasttrack.preemption import agreement
from fasttrack.preemption.agreement import Agreement
from fasttrack.preemption.ballot import Ballot
from fasttrack.preemption.calls import GO_ON, Calls

HANG_GUARD_S = 60.0
_AHEAD = 2  # calls that a modelled rank leaves itself


class Rank:
    """A rank that calls `should_stop` as a training loop does, and notes the answers."""

    def __init__(
        self,
        number: int,
        ranks: int,
        store: Store,
        said: list[str],
        connect: Callable[[], Any] | None = None,
    ) -> None:
        self.calls = Calls()
        self.calls.limit = GO_ON
        own = connect or store.clone  # type: ignore[attr-defined]  # no type stub has it
        self.agreement = Agreement(own, "stop/0", number, ranks, self.calls, warn=said.append)
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


@pytest.mark.usefixtures("swift")
def test_nobody_stops_where_a_rank_does_not_ask(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It never calls `should_stop()`, say: the others wait once, say which it is, and go on."""
    monkeypatch.setattr(agreement, "WAIT_S", 0.2)
    said: list[str] = []
    ranks = [Rank(number, 3, store, said) for number in range(2)]
    ranks[0].agreement.request("asked")
    # Both come to their promises, wait, and are let go.
    threads = [
        threading.Thread(target=_step_until_let_go, args=(rank,), daemon=True) for rank in ranks
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG_GUARD_S)

    assert [rank.stopped_at for rank in ranks] == [None, None]
    assert len(said) == 2
    assert all("rank 2 did not answer" in text for text in said)
    _close(ranks)


def _step_until_let_go(rank: Rank) -> None:
    while not rank.agreement._over:
        assert not rank.step()
        time.sleep(0.001)
    assert not rank.step()


@pytest.mark.usefixtures("swift")
def test_wish_that_comes_after_a_rank_has_left_stops_nobody_and_nobody_waits(store: Store) -> None:
    """Training is over there; the others are about to end, too."""
    said: list[str] = []
    ranks = [Rank(number, 3, store, said) for number in range(3)]
    assert not any(rank.step() for rank in ranks)
    ranks[2].agreement.close()
    ranks[0].agreement.request("asked")
    ranks[0].agreement._thread.join(HANG_GUARD_S)  # it has read that all is over

    assert not ranks[0].agreement._thread.is_alive()
    assert not any(rank.step() for rank in ranks[:2])
    assert ranks[0].calls.limit == GO_ON
    assert said == []
    _close(ranks)


class Breaking:
    """A connection that breaks once its rank has made a promise."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self._promised = False

    def __getattr__(self, name: str) -> Any:
        if self._promised:
            raise RuntimeError("the store is gone")
        self._promised = name == "add"
        return getattr(self._store, name)


@pytest.mark.usefixtures("swift")
def test_rank_that_loses_the_store_before_the_decision_goes_on_and_says_so(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for a while, for the connection may come back, and then does not leave alone."""
    monkeypatch.setattr(agreement, "WAIT_S", 0.1)
    monkeypatch.setattr(agreement, "KNOWN_S", 0.1)
    said: list[str] = []
    broken = Breaking(store)
    rank = Rank(0, 2, store, said, connect=lambda: broken)
    rank.agreement.request("asked")
    _step_until_let_go(rank)

    assert rank.stopped_at is None
    (text,) = said
    assert "the store is gone" in text
    _close([rank])


def test_connection_that_comes_back_after_the_promise_is_used(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The promise counts once, and the decision is made if it was the last."""
    monkeypatch.setattr(agreement, "LOOK_EVERY_S", 0.02)
    said: list[str] = []
    connections = iter([Breaking(store), store])
    ranks = [
        Rank(0, 2, store, said, connect=lambda: next(connections)),
        Rank(1, 2, store, said),
    ]
    ranks[1].agreement.request("asked")
    threads = [
        threading.Thread(target=rank.train, args=(lambda: 0.001, None), daemon=True)
        for rank in ranks
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG_GUARD_S)

    assert ranks[0].stopped_at == ranks[1].stopped_at is not None
    assert next(connections, None) is None
    assert said == []
    _close(ranks)


class Memory:
    """A store of one process, each of whose calls is one step of a schedule."""

    def __init__(self) -> None:
        self._words: dict[str, str] = {}

    def compare_set(self, key: str, expected: str, desired: str) -> bytes:
        if self._words.get(key, "") == expected:
            self._words[key] = desired
        return self._words[key].encode()

    def set(self, key: str, value: str) -> None:
        self._words[key] = value

    def get(self, key: str) -> bytes:
        return self._words[key].encode()

    def check(self, keys: list[str]) -> bool:
        return all(key in self._words for key in keys)

    def add(self, key: str, amount: int) -> int:
        self._words[key] = str(int(self._words.get(key, "0")) + amount)
        return int(self._words[key])


class Modelled:
    """A rank of the protocol without threads: what it may do next is drawn."""

    def __init__(self, store: Memory, rank: int, ranks: int) -> None:
        self.ballot = Ballot(store, "k", rank, ranks)
        self.calls = 0  # answered "go on"
        self.limit: int | None = None
        self.stopped_at: int | None = None

    def moves(self) -> list[Callable[[], None]]:
        """Return what it may do now."""
        state = self.ballot.state
        moves: list[Callable[[], None]] = [self.ballot.look]
        if state == "stop" and self.limit is None:
            moves = [self._promise]
        elif state == "stop":
            moves.append(self.ballot.annul)
        if self.stopped_at is None and self._is_free():
            moves.append(self._call)
        return moves

    def _is_free(self) -> bool:
        return self.limit is None or self.calls < self.limit or self.ballot.state in ("at", "void")

    def _call(self) -> None:
        if self.ballot.state == "at" and self.calls >= self.ballot.stop_at:
            self.stopped_at = self.calls
        else:
            self.calls += 1

    def _promise(self) -> None:
        self.limit = self.calls + _AHEAD
        self.ballot.promise(self.limit)


@pytest.mark.parametrize("annulled", [False, True])
def test_every_order_of_events_ends_with_all_at_one_call_or_none(annulled: bool) -> None:
    """Drawn schedules of three ranks, with and without one losing patience."""
    outcomes = set()
    for seed in range(1500):
        chance = random.Random(seed)
        store = Memory()
        ranks = [Modelled(store, rank, 3) for rank in range(3)]
        asked = chance.randrange(40)
        for turn in range(400):
            rank = chance.choice(ranks)
            moves = rank.moves()
            if not annulled:
                moves = [move for move in moves if move != rank.ballot.annul]
            if turn >= asked and rank.ballot.state == "on":
                moves = [lambda rank=rank: rank.ballot.ask("x")]  # type: ignore[misc]
            chance.choice(moves)()
        stops = {rank.stopped_at for rank in ranks}
        states = {rank.ballot.state for rank in ranks}

        assert len(stops) == 1, seed
        assert states == ({"void"} if stops == {None} else {"at"}), seed
        outcomes |= states
    assert outcomes == ({"at", "void"} if annulled else {"at"})


@pytest.mark.usefixtures("swift")
def test_a_handler_may_ask_and_raise_wherever_its_thread_closes(store: Store) -> None:
    """It interrupts the owner of a lock that cannot be taken twice: it must not want that."""
    said: list[str] = []
    for place in itertools.count(1):
        asked = Agreement(lambda: store, f"stop/{place}", 0, 2, Calls(), warn=said.append)
        interrupted = interrupt(asked.close, place, first=functools.partial(asked.request, "now"))
        closing = threading.Thread(target=asked.close, daemon=True)
        closing.start()
        closing.join(HANG_GUARD_S)

        assert not closing.is_alive()
        assert asked._ended.is_open
        if not interrupted:
            break
    assert place > 20


@pytest.mark.usefixtures("swift")
def test_what_handlers_raise_while_a_call_waits_changes_no_decision(store: Store) -> None:
    """In `Thread.is_alive` it makes the thread look ended: the rank went on without the others."""
    said: list[str] = []
    waits = Rank(0, 2, store, said)
    waits.agreement.request("asked")
    calls = waits.calls
    while calls.newest + 1 < calls.limit:
        assert not waits.step()
        time.sleep(0.001)
    calls.newest += 1  # this call waits: the other rank has not promised yet
    for place in range(1, 200):
        assert interrupt(lambda: waits.agreement.answer(calls.newest), place)
    other = Rank(1, 2, store, said)
    training = threading.Thread(target=other.train, args=(lambda: 0.001, None), daemon=True)
    training.start()
    while not waits.agreement.answer(calls.newest):
        calls.newest += 1
    training.join(HANG_GUARD_S)

    assert other.stopped_at == calls.newest
    assert said == []
    _close([waits, other])
