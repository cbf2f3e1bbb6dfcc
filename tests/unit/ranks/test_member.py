"""A rank's thread and the store: one that does not answer, one that goes away and comes back."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

import pytest
from support.processes import is_stopped
from support.runs import HANG_GUARD_S, start_script, wait_until
from torch._C._distributed_c10d import TCPStore

from fasttrack.ranks import member
from fasttrack.ranks.exchange import MOST_UNREAD, Inbox
from fasttrack.ranks.member import Member
from fasttrack.ranks.messages import Message, Window
from fasttrack.ranks.node_message import NodeMessage
from fasttrack.ranks.own_time import OwnTime
from fasttrack.ranks.statistics import RankMeter, WindowStatistics

_SERVER = """
import time
from torch.distributed import TCPStore

store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
print(store.port, flush=True)
time.sleep(120)
"""


class Heard:
    """In place of an aggregator: what was heard."""

    def __init__(self) -> None:
        self.messages: list[tuple[int, Message]] = []
        self.all_ended = False

    def take(self, rank: int, message: Message) -> None:
        """Keep it."""
        self.messages.append((rank, message))

    def take_node(self, message: NodeMessage) -> None:
        """Keep what it holds."""
        self.messages += message.told

    def look(self) -> None:
        """Write no row."""


class Rank:
    """Rank 1 of 2, whose store is what is put there."""

    def __init__(self, sink: Heard | None = None) -> None:
        self.store: Any = None
        self.said: list[str] = []
        self.statistics = WindowStatistics(10, RankMeter(lambda: 2, print), lambda: None)
        self.member = Member(
            1,
            2,
            self.statistics,
            OwnTime(threading.get_ident(), [], lambda: False),
            key="ranks/0",
            describe_gpu=lambda: "",
            warn=lambda key, text: self.said.append(text),
            sink=sink,
            store=lambda: self.store,
        )


@pytest.mark.usefixtures("swift")
def test_store_that_does_not_answer_holds_up_neither_worker_nor_finish() -> None:
    """Its server is frozen. torch's calls have no deadline then: this is why there is a thread."""
    server = start_script(_SERVER, warnings=None)
    try:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        rank = Rank()
        rank.store = TCPStore("127.0.0.1", port, None, False, wait_for_workers=False)
        rank.member.start()
        wait_until(
            lambda: rank.member._outbox is not None and rank.member._outbox._sent == MOST_UNREAD
        )
        os.kill(server.pid, signal.SIGSTOP)
        wait_until(lambda: is_stopped(server.pid))

        ended = rank.member.close(timeout_s=0.5)

        assert not ended
    finally:
        server.kill()
        server.communicate(timeout=HANG_GUARD_S)
    assert rank.member._thread is not None
    rank.member._thread.join(HANG_GUARD_S)
    assert not rank.member._thread.is_alive()
    assert rank.said == []


@pytest.fixture
def swift(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank tells fifty times as often."""
    monkeypatch.setattr(member, "TELL_EVERY_S", 0.02)


def test_what_is_told_before_the_ranks_meet_and_at_the_end_arrives() -> None:
    """The windows of a rank whose tracker was made early; more than fit into one message."""
    rank = Rank()
    rank.member.start()
    told = [Window(0, index, 10 * index + 9, {"loss": 1.0 / (index + 1)}) for index in range(100)]
    rank.statistics.windows.extend(told)
    rank.store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    wait_until(lambda: rank.member._kept is not None)

    assert rank.member.close()

    inbox, messages = Inbox(rank.store, "ranks/0", [1]), list[Message]()

    def has_ended() -> bool:
        messages.extend(Message.decode(text) for _, text in inbox.read())
        return bool(messages) and messages[-1].ended

    wait_until(has_ended)
    assert [each for message in messages for each in message.windows] == told
    assert [message.ended for message in messages] == [False] * (len(messages) - 1) + [True]
    assert rank.member.close(), "again"


@pytest.mark.usefixtures("swift")
@pytest.mark.parametrize("records", [True, False])
def test_store_that_is_lost_is_said_by_the_recording_rank_alone_once(records: bool) -> None:
    """Its process died. The rank goes on alone: it is still heard of by itself."""
    server = start_script(_SERVER, warnings=None)
    try:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        heard = Heard() if records else None
        rank = Rank(heard)
        rank.store = TCPStore("127.0.0.1", port, None, False, wait_for_workers=False)
        rank.member.start()
        wait_until(lambda: rank.member._kept is not None)
    finally:
        server.kill()
        server.communicate(timeout=HANG_GUARD_S)
    wait_until(lambda: rank.member._failures > 0)
    rank.statistics.windows.append(Window(0, 0, 9, {"loss": 1.0}))

    assert rank.member.close()

    assert len(rank.said) == int(records)
    if heard is not None:
        assert "store does not serve" in rank.said[0]
        assert [each for _, message in heard.messages for each in message.windows]
        assert heard.messages[-1][1].ended


@pytest.mark.parametrize("records", [True, False])
def test_store_that_fails_now_and_then_is_tried_again_each_time(
    records: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over weeks: only failures in a row are counted."""
    monkeypatch.setattr(member, "TRY_AGAIN_S", 0.0)
    server = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    rank = Rank(Heard() if records else None)
    rank.store = TCPStore("127.0.0.1", server.port, None, False, wait_for_workers=False)
    for _ in range(2 * member._MOST_FAILURES):
        rank.member._tell()
        assert rank.member._kept is not None
        rank.member._lose(RuntimeError("timed out"))
        assert rank.member._kept is None
    rank.member._tell()

    assert rank.member._kept is not None
    assert len(set(rank.said)) == int(records)
