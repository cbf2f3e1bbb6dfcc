"""How messages travel: torch.distributed's key-value store, over a connection of one's own.

The default store's client serves one caller at a time, and process groups need it: a connection
of one's own holds nobody up. A message is one key, deleted when it is read, so that the store does
not grow: a rank whose messages are not read stops sending. There is no collective in this.

Of torch's calls of a store none has a deadline that holds where the server is there and does not
answer (`get` with a timeout of 3 s was stuck for longer). So all of this is called on a thread that
nobody waits for without one.
"""

from __future__ import annotations

import datetime
from typing import Any, Protocol

_CONNECT_S = 2.0
MOST_UNREAD = 8
"""Messages of one rank that wait in the store."""
_MOST_AT_ONCE = 4  # of one rank that are read in one round


class Store(Protocol):
    """What this needs of a store of torch.distributed."""

    def set(self, key: str, value: str | bytes, /) -> None:
        """Set `key`."""

    def get(self, key: str, /) -> bytes:
        """Return what `key` holds; it holds something."""

    def check(self, keys: list[str], /) -> bool:
        """Return whether all `keys` hold something."""

    def delete_key(self, key: str, /) -> bool:
        """Let `key` hold nothing; return whether it did hold something."""


def own_connection(store: Any) -> Store:
    """Return a connection of one's own to the server of `store`. Blocks up to some seconds.

    Raises:
        RuntimeError: there is no such server, or it cannot be reached.
    """
    from torch._C._distributed_c10d import TCPStore  # as torch.distributed has it

    base = store
    while hasattr(base, "underlying_store"):
        base = base.underlying_store
    timeout = datetime.timedelta(seconds=_CONNECT_S)
    if isinstance(base, TCPStore):
        return TCPStore(  # type: ignore[return-value]  # its stub knows text only
            base.host, base.port, None, False, timeout=timeout, wait_for_workers=False
        )
    if not hasattr(base, "clone"):  # before torch 2.9
        raise RuntimeError(f"a {type(base).__name__} has one connection only")
    connection: Store = base.clone()
    return connection


class Outbox:
    """Send one rank's messages. Every method raises what the store raises.

    Threads: one at a time.
    """

    def __init__(self, store: Store, key: str, rank: int) -> None:
        """Send as `rank`; `key` is the same on all ranks, and nobody else's."""
        self.connection = store
        """Replaced where it was lost: the messages go on to be counted."""
        self._key = key
        self._rank = rank
        self._next = 0

    def try_send(self, message: bytes) -> bool:
        """Send a message; return False where too many wait to be read. Two round trips at most."""
        unread = self._next - MOST_UNREAD
        if unread >= 0 and self.connection.check([_slot(self._key, self._rank, unread)]):
            return False
        self.connection.set(_slot(self._key, self._rank, self._next), message)
        self._next += 1
        return True


class Inbox:
    """Read all ranks' messages. Every method raises what the store raises.

    Threads: one at a time.
    """

    def __init__(self, store: Store, key: str, ranks: list[int]) -> None:
        """Read what `ranks` send with the same `key`."""
        self.connection = store
        """Replaced where it was lost: the messages go on to be counted."""
        self._key = key
        self._next = dict.fromkeys(ranks, 0)
        self._found: list[tuple[int, bytes]] = []  # not handed on: the store has failed since
        self._read_keys: list[str] = []  # that may not be deleted yet

    def read(self) -> list[tuple[int, bytes]]:
        """Return (rank, message) of what has come, each rank's in its order. Waits for none."""
        self._delete_read()
        asked = list(self._next)
        for _ in range(_MOST_AT_ONCE):
            asked = self._arrived(asked)
            for rank in asked:
                key = _slot(self._key, rank, self._next[rank])
                self._found.append((rank, self.connection.get(key)))
                self._next[rank] += 1
                self._read_keys.append(key)
                self._delete_read()
            if not asked:
                break
        found, self._found = self._found, []
        return found

    def _delete_read(self) -> None:
        # Where the store fails meanwhile, nobody knows whether it has deleted the key.
        while self._read_keys:
            self.connection.delete_key(self._read_keys[-1])
            self._read_keys.pop()

    def _arrived(self, ranks: list[int]) -> list[int]:
        """Return those of `ranks` whose next message is there: one round trip where all are."""
        keys = {rank: _slot(self._key, rank, self._next[rank]) for rank in ranks}
        if not keys or self.connection.check(list(keys.values())):
            return ranks
        return [rank for rank, key in keys.items() if self.connection.check([key])]


def _slot(key: str, rank: int, number: int) -> str:
    return f"{key}/{rank}/{number}"
