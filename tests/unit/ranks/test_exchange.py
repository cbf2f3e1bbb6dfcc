"""Messages over torch's own store: in order, deleted when read, never more than a few waiting."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch._C._distributed_c10d import FileStore, HashStore, PrefixStore, TCPStore

from fasttrack.ranks.exchange import MOST_UNREAD, Inbox, Outbox, own_connection


@pytest.fixture
def server() -> TCPStore:
    """The ranks' store, as rank 0 has it."""
    return TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)


def test_each_message_is_read_once_in_its_ranks_order_and_then_gone(server: TCPStore) -> None:
    """Whoever is late is read later; nobody is waited for."""
    store = own_connection(PrefixStore("default_pg/0", server))
    before = server.num_keys()
    one, two = (Outbox(own_connection(server), "ranks/0", rank) for rank in (1, 2))
    inbox = Inbox(store, "ranks/0", [1, 2])
    assert inbox.read() == []
    assert one.try_send(b"a\x00")
    assert one.try_send(b"b")

    assert inbox.read() == [(1, b"a\x00"), (1, b"b")]
    assert two.try_send(b"c")
    assert one.try_send(b"d")
    assert inbox.read() == [(1, b"d"), (2, b"c")]
    assert inbox.read() == []
    assert server.num_keys() == before


def test_store_does_not_grow_where_nobody_reads(server: TCPStore) -> None:
    """The recording rank is gone, or has no such option: sending goes on once it reads."""
    outbox = Outbox(own_connection(server), "ranks/0", 1)
    sent = [outbox.try_send(b"%d" % number) for number in range(2 * MOST_UNREAD)]
    assert sent == [True] * MOST_UNREAD + [False] * MOST_UNREAD

    inbox = Inbox(own_connection(server), "ranks/0", [1])
    read = inbox.read() + inbox.read() + inbox.read()

    assert read == [(1, b"%d" % number) for number in range(MOST_UNREAD)]
    assert outbox.try_send(b"again")
    assert inbox.read() == [(1, b"again")]


def test_connection_goes_to_the_server_of_the_ranks_store(server: TCPStore) -> None:
    """Whatever prefixes stand before it."""
    connection = own_connection(PrefixStore("a", PrefixStore("b", server)))
    connection.set("told", b"1")

    assert server.get("told") == b"1"


def test_stores_without_a_server_serve_as_well(tmp_path: Path) -> None:
    """One in a file has a second connection since torch 2.9."""
    for store in (HashStore(), FileStore(str(tmp_path / "meeting"), 2)):
        if not hasattr(store, "clone"):
            continue
        outbox = Outbox(own_connection(store), "ranks/0", 1)
        assert outbox.try_send(b"a")

        assert Inbox(own_connection(store), "ranks/0", [1]).read() == [(1, b"a")]


def test_store_with_one_connection_only_is_refused() -> None:
    """Process groups need it."""
    with pytest.raises(RuntimeError, match="has one connection only"):
        own_connection(object())


class Faulty:
    """A connection that is lost once a key was deleted, before it says so."""

    def __init__(self, store: TCPStore) -> None:
        self.store = store
        self.deletes = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self.store, name)

    def delete_key(self, key: str) -> bool:
        """Delete it; the second time nobody hears of it."""
        deleted: bool = self.store.delete_key(key)
        self.deletes += 1
        if self.deletes == 2:
            raise RuntimeError("the connection was lost")
        return deleted


def test_what_was_read_when_the_connection_was_lost_is_told_later_once(server: TCPStore) -> None:
    """And the rank is heard on: nobody waits for a message that is gone."""
    outbox = Outbox(own_connection(server), "ranks/0", 1)
    inbox = Inbox(Faulty(server), "ranks/0", [1])  # type: ignore[arg-type]
    before = server.num_keys()
    for message in (b"a", b"b", b"c"):
        assert outbox.try_send(message)
    with pytest.raises(RuntimeError):
        inbox.read()
    inbox.connection = own_connection(server)

    assert inbox.read() == [(1, b"a"), (1, b"b"), (1, b"c")]
    assert outbox.try_send(b"d")
    assert inbox.read() == [(1, b"d")]
    assert server.num_keys() == before
