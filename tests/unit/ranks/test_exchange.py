"""Messages over torch's own store: in order, each once, never more than a few waiting."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from support.runs import HANG_GUARD_S, start_script
from torch._C._distributed_c10d import FileStore, HashStore, PrefixStore, TCPStore

from fasttrack.context.stores import own_connection
from fasttrack.ranks import exchange
from fasttrack.ranks.exchange import MOST_UNREAD, Inbox, Outbox

_STORES_OWN_S = 300.0  # that torch goes on trying to connect
SERVER = """
import time
from torch.distributed import TCPStore

store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
print(store.port, flush=True)
time.sleep(120)
"""


def settle(*ends: Inbox | Outbox) -> None:
    """Wait for what they have sent: `set`, `append` and `multi_set` are not answered, `add` is."""
    for end in ends:
        end._store.add("settled", 0)


@pytest.fixture
def server() -> TCPStore:
    """The ranks' store, as rank 0 has it."""
    return TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)


def test_each_message_is_read_once_in_its_ranks_order(server: TCPStore) -> None:
    """Whoever is late is read later; nobody is waited for; the store does not grow with them."""
    store = own_connection(server)
    one, two = (Outbox(own_connection(server), "ranks/0", rank) for rank in (1, 2))
    inbox = Inbox(store, "ranks/0", [1, 2])
    assert inbox.read() == []
    assert one.try_send(b"a\x00")
    assert one.try_send(b"")
    settle(one)

    assert inbox.read() == [(1, b"a\x00"), (1, b"")]
    assert two.try_send(b"c")
    assert one.try_send(b"d")
    settle(one, two)
    assert sorted(inbox.read()) == [(1, b"d"), (2, b"c")]
    assert inbox.read() == []
    settle(inbox)
    keys, size = server.num_keys(), len(store.get("ranks/0/1"))
    for number in range(20):
        assert one.try_send(b"%d" % (number % 10))
        settle(one)
        assert inbox.read() == [(1, b"%d" % (number % 10))]
        settle(inbox)
    assert (server.num_keys(), len(store.get("ranks/0/1"))) == (keys, size)


def test_store_does_not_grow_where_nobody_reads(server: TCPStore) -> None:
    """The recording rank is gone, or has no such option: sending goes on once it reads."""
    outbox = Outbox(own_connection(server), "ranks/0", 1)
    sent = [outbox.try_send(b"%d" % number) for number in range(2 * MOST_UNREAD)]
    settle(outbox)
    assert sent == [True] * MOST_UNREAD + [False] * MOST_UNREAD

    inbox = Inbox(own_connection(server), "ranks/0", [1])

    assert inbox.read() == [(1, b"%d" % number) for number in range(MOST_UNREAD)]
    settle(inbox)
    assert outbox.try_send(b"again")
    settle(outbox)
    assert inbox.read() == [(1, b"again")]


def test_many_ranks_are_read_at_once_and_strangers_not_at_all(
    server: TCPStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In several pieces, where there are more than go into one."""
    monkeypatch.setattr(exchange, "_AT_ONCE", 7)
    connection = own_connection(server)
    outboxes = [Outbox(connection, "ranks/0", rank) for rank in range(1, 40)]
    inbox = Inbox(own_connection(server), "ranks/0", list(range(1, 39)))
    for number in range(3):
        for outbox in outboxes[number:]:
            assert outbox.try_send(b"%d" % outbox._rank)
        settle(*outboxes)

        assert inbox.read() == [(rank, b"%d" % rank) for rank in range(1 + number, 39)]
        settle(inbox)


def test_store_that_was_lost_and_is_there_again_empty_is_gone_on_with(server: TCPStore) -> None:
    """Nothing is told twice, and what was not read yet is told again."""
    outbox = Outbox(own_connection(server), "ranks/0", 1)
    inbox = Inbox(own_connection(server), "ranks/0", [1])
    assert outbox.try_send(b"read")
    settle(outbox)
    assert inbox.read() == [(1, b"read")]
    assert outbox.try_send(b"lost, unless it is kept")

    other = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    outbox.move_to(own_connection(other))
    inbox.move_to(own_connection(other))

    assert inbox.read() == []
    assert outbox.try_send(b"new")
    settle(outbox)
    assert inbox.read() == [(1, b"lost, unless it is kept"), (1, b"new")]


def test_server_that_is_gone_is_told_at_once() -> None:
    """torch would go on trying for minutes."""
    server = start_script(SERVER, warnings=None)
    try:
        assert server.stdout is not None
        store = TCPStore(
            "127.0.0.1", int(server.stdout.readline()), None, False, wait_for_workers=False
        )
        own_connection(store).set("told", b"1")
    finally:
        server.kill()
        server.communicate(timeout=HANG_GUARD_S)
    began_s = time.monotonic()

    with pytest.raises(RuntimeError, match=f"nothing answers at 127.0.0.1:{store.port}"):
        own_connection(store)

    assert time.monotonic() - began_s < _STORES_OWN_S / 2


def test_connection_goes_to_the_server_of_the_ranks_store(server: TCPStore) -> None:
    """With its prefixes: the server may be that of several groups."""
    store = PrefixStore("a", PrefixStore("b", server))
    connection = own_connection(store)
    connection.set("told", b"1")

    assert connection is not store
    assert store.get("told") == server.get("b/a/told") == b"1"


def test_stores_without_a_server_serve_as_well(tmp_path: Path) -> None:
    """One in a file, which does one key at a time, has a second connection since torch 2.9."""
    for store in (HashStore(), FileStore(str(tmp_path / "meeting"), 2)):
        if not hasattr(store, "clone"):
            continue
        inbox = Inbox(own_connection(store), "ranks/0", [1, 2])
        outboxes = [Outbox(own_connection(store), "ranks/0", rank) for rank in (1, 2)]
        for text in (b"a", b"b"):
            assert [outbox.try_send(text) for outbox in outboxes] == [True, True]

            assert inbox.read() == [(1, text), (2, text)]


def test_store_with_one_connection_only_is_shared() -> None:
    """All are before torch 2.9."""
    store = object()

    assert own_connection(store) is store


class Faulty:
    """A connection that is lost before the reader has told that it read."""

    def __init__(self, store: TCPStore) -> None:
        self.store = store

    def __getattr__(self, name: str) -> object:
        return getattr(self.store, name)

    def multi_set(self, keys: list[str], values: list[str]) -> None:
        """Fail."""
        raise RuntimeError("the connection was lost")


def test_what_was_read_when_the_connection_was_lost_is_told_later_once(server: TCPStore) -> None:
    """And the rank, whose outbox is full by then, is heard on."""
    outbox = Outbox(own_connection(server), "ranks/0", 1)
    inbox = Inbox(Faulty(server), "ranks/0", [1])  # type: ignore[arg-type]
    messages = [b"%d" % number for number in range(MOST_UNREAD)]
    for message in messages:
        assert outbox.try_send(message)
    assert not outbox.try_send(b"too many")
    with pytest.raises(RuntimeError):
        inbox.read()
    inbox.move_to(own_connection(server))

    assert inbox.read() == [(1, message) for message in messages]
    settle(inbox)
    assert outbox.try_send(b"more")
    settle(outbox)
    assert inbox.read() == [(1, b"more")]


def test_full_outbox_goes_on_at_a_store_that_knows_nothing(server: TCPStore) -> None:
    """All that it holds was read, which the store that was lost alone knew."""
    outbox = Outbox(own_connection(server), "ranks/0", 1)
    inbox = Inbox(own_connection(server), "ranks/0", [1])
    for _ in range(MOST_UNREAD):
        assert outbox.try_send(b"read")
    settle(outbox)
    assert len(inbox.read()) == MOST_UNREAD

    other = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    outbox.move_to(own_connection(other))
    inbox.move_to(own_connection(other))
    assert inbox.read() == []
    settle(inbox)

    assert outbox.try_send(b"new")
    settle(outbox)
    assert inbox.read() == [(1, b"new")]
