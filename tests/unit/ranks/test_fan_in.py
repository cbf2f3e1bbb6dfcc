"""One rank of a node tells for all of it, over real stores; where it is lost, each by itself."""

from __future__ import annotations

import pytest
from torch._C._distributed_c10d import TCPStore

from fasttrack.context.stores import own_connection
from fasttrack.ranks import exchange, fan_in
from fasttrack.ranks.exchange import Inbox, Outbox
from fasttrack.ranks.fan_in import (
    MOST_UNREAD,
    SEEK_S,
    Follower,
    Leader,
    NodePlace,
    say_nobody_leads,
    way_through,
)
from fasttrack.ranks.messages import Message, Span, Window
from fasttrack.ranks.node_message import NodeMessage, is_of_node

KEY = "ranks/0"


class Job:
    """Rank 0 records, 8 and 9 are of a node of their own."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.server = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self.inbox = Inbox(own_connection(self.server), KEY, range(1, 20))

    def leader(self) -> Leader:
        """Return rank 8."""
        store = own_connection(self.server)
        way = way_through(NodePlace("1/n", 0), Outbox(store, KEY, 8), store, KEY, 8)
        assert isinstance(way, Leader)
        self.server.add("settled", 0)
        store.add("settled", 0)
        return way

    def follower(self) -> Follower:
        """Return rank 9."""
        store = own_connection(self.server)
        place = NodePlace("1/n", 1)
        return Follower(place, Outbox(store, KEY, 9), store, KEY, 9, lambda: self.now_s)

    def heard(self, *ways: Leader | Follower) -> list[tuple[int, int]]:
        """Return (rank, window's index) of what the recording rank has heard by now."""
        for way in ways:
            way._outbox._store.add("settled", 0)
        found: list[tuple[int, int]] = []
        for rank, text in self.inbox.read():
            if is_of_node(text):
                node = NodeMessage.decode(text)
                found += [(each, told.index) for told in node.windows for each in told.ranks]
            else:
                found += [(rank, told.index) for told in Message.decode(text).windows]
        return found


def message(index: int) -> Message:
    """Return one with a window."""
    return Message(width=10, span=Span(1.0, 1, 1, 0, 0), windows=[Window(0, index, 9, {"a": 1.0})])


def settle(follower: Follower) -> None:
    """Wait until what it has sent to its node's first is there."""
    assert follower._node is not None
    follower._node._store.add("settled", 0)


def test_a_node_is_told_for_by_its_first_and_each_tells_the_last_by_itself() -> None:
    """One message in the job's store for both; what was not read on the way comes again."""
    job = Job()
    leader, follower = job.leader(), job.follower()
    assert follower.try_send(message(0), last=False)
    settle(follower)
    assert leader.try_send(message(0), last=False)
    assert sorted(job.heard(leader, follower)) == [(8, 0), (9, 0)]
    assert not job.server.check([f"{KEY}/9"])
    leader._inbox._store.add("settled", 0)
    assert follower.try_send(message(1), last=False)

    assert follower.try_send(message(2), last=True)

    assert job.heard(follower) == [(9, 1), (9, 2)]


def test_where_the_first_does_not_read_the_others_tell_by_themselves() -> None:
    """It is stuck, or its process is gone: nothing is lost."""
    for gone in (False, True):
        job = Job()
        leader, follower = job.leader(), job.follower()
        for index in range(MOST_UNREAD):
            assert follower.try_send(message(index), last=False)
        if gone:
            del leader
        assert follower.by_itself is False

        assert follower.try_send(message(MOST_UNREAD), last=False)

        assert follower.by_itself
        assert job.heard(follower) == [(9, index) for index in range(MOST_UNREAD + 1)]


def test_a_first_that_cannot_tell_reads_no_more() -> None:
    """So that the node's ranks see it; what it has read it tells later."""
    job = Job()
    leader, follower = job.leader(), job.follower()
    for index in range(exchange.MOST_UNREAD):
        assert leader.try_send(message(index), last=False)
    assert follower.try_send(message(0), last=False)
    settle(follower)
    assert not leader.try_send(message(8), last=False)
    assert follower.try_send(message(1), last=False)
    settle(follower)
    assert not leader.try_send(message(8), last=False)
    assert follower._node is not None
    leader._inbox._store.add("settled", 0)
    assert follower._node.count_unread() == 1
    assert job.heard(leader) == [(8, index) for index in range(exchange.MOST_UNREAD)]
    job.inbox._store.add("settled", 0)

    assert leader.try_send(message(8), last=False)

    assert sorted(job.heard(leader)) == [(8, 8), (9, 0)]


def test_rank_without_a_first_waits_for_it_some_seconds_at_most() -> None:
    """It may come later than the rank; or it is the recording rank, which says so."""
    job = Job()
    late, told, other = job.follower(), job.follower(), job.follower()
    assert not late.try_send(message(0), last=False)
    assert not late.by_itself
    job.now_s += SEEK_S
    assert late.try_send(message(0), last=False)
    assert late.by_itself
    say_nobody_leads(NodePlace("1/n", 0), job.server, KEY)
    job.server.add("settled", 0)

    assert told.try_send(message(1), last=False)

    assert told.by_itself
    job.server.set(f"{KEY}/node/1/n", f"{job.server.port} of another node")
    job.server.set(f"{KEY}/node/1/n", f"{job.server.port} another")
    job.server.add("settled", 0)
    assert other.try_send(message(2), last=False)
    assert other.by_itself


def test_first_that_cannot_serve_its_node_leaves_each_by_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It says so: nobody waits for it."""
    job = Job()
    monkeypatch.setattr(fan_in, "_LOOPBACK", "203.0.113.1")
    store, follower = own_connection(job.server), job.follower()

    assert way_through(NodePlace("1/n", 0), Outbox(store, KEY, 8), store, KEY, 8) is None

    store.add("settled", 0)
    assert follower.try_send(message(0), last=False)
    assert follower.by_itself


def test_only_a_large_job_of_several_nodes_with_several_ranks_has_firsts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As torchrun and Slurm tell it."""
    torchrun = {"LOCAL_RANK": "3", "GROUP_RANK": "7", "GROUP_WORLD_SIZE": "1250"}
    slurm = {"SLURM_LOCALID": "0", "SLURM_NODEID": "2", "SLURMD_NODENAME": "n2"}
    slurm |= {"SLURM_STEP_NUM_TASKS": "10000", "SLURM_STEP_NUM_NODES": "1250"}

    found = NodePlace.here(10_000, {**torchrun, "SLURMD_NODENAME": "n7"})

    assert found == NodePlace("7/n7", 3)
    assert NodePlace.here(10_000, slurm) == NodePlace("2/n2", 0)
    assert NodePlace.here(fan_in.ABOVE_RANKS, torchrun) is None
    assert NodePlace.here(10_000, {}) is None
    monkeypatch.setattr(fan_in, "ABOVE_RANKS", 2)
    assert NodePlace.here(4, {**torchrun, "GROUP_WORLD_SIZE": "1"}) is None
    assert NodePlace.here(4, {**torchrun, "GROUP_WORLD_SIZE": "4"}) is None
