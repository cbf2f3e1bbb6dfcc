"""How messages travel: torch.distributed's key-value store, over a connection of one's own.

The default store's client serves one caller at a time, and process groups need it: a connection
of one's own holds nobody up. Each rank has one key, with those of its messages that are not known
to be read, and one in which the reader says how many are. So the store does not grow (a rank whose
messages are not read stops sending), and all ranks' keys are read in a few round trips, however
many there are. There is no collective in this.

Of torch's calls of a store none has a deadline that holds where the server is there and does not
answer (`get` with a timeout of 3 s was stuck for longer). So all of this is called on a thread that
nobody waits for without one.
"""

from __future__ import annotations

import struct
from collections import deque
from typing import Any, Protocol

MOST_UNREAD = 8
"""Messages of one rank that wait in the store."""
_AT_ONCE = 2048  # keys in one round trip
_HEAD = struct.Struct("<QI")  # the first message's number, and how many there are


class Store(Protocol):
    """What this needs of a store of torch.distributed."""

    def has_extended_api(self) -> bool:
        """Return whether it has `append` and calls for several keys."""

    def set(self, key: str, value: str | bytes, /) -> None:
        """Set `key`."""

    def get(self, key: str, /) -> bytes:
        """Return what `key` holds; it holds something."""

    def check(self, keys: list[str], /) -> bool:
        """Return whether all `keys` hold something."""

    def add(self, key: str, value: int, /) -> int:
        """Add to the number that `key` holds, 0 where it holds nothing; return the sum."""

    def append(self, key: str, value: str, /) -> None:
        """Add to the end of what `key` holds."""

    def multi_get(self, keys: list[str], /) -> list[bytes]:
        """Return what `keys` hold; each holds something."""

    def multi_set(self, keys: list[str], values: list[str], /) -> None:
        """Set `keys`."""


class _OneByOne:
    """A store that does one key at a time, such as one in a file. Threads: one at a time."""

    def __init__(self, store: Any) -> None:
        """Make several calls of one."""
        self._store = store
        self.set, self.get = store.set, store.get
        self.check, self.add = store.check, store.add

    def has_extended_api(self) -> bool:
        """Return whether it has `append` and calls for several keys: now it has."""
        return True

    def append(self, key: str, value: str, /) -> None:
        """Add to the end of what `key` holds."""
        before, after = "", value
        while (found := self._store.compare_set(key, before, after).decode()) != after:
            before, after = found, found + value

    def multi_get(self, keys: list[str], /) -> list[bytes]:
        """Return what `keys` hold; each holds something."""
        return [self.get(key) for key in keys]

    def multi_set(self, keys: list[str], values: list[str], /) -> None:
        """Set `keys`."""
        for key, value in zip(keys, values, strict=True):
            self.set(key, value)


def _of_many(store: Store) -> Store:
    return store if store.has_extended_api() else _OneByOne(store)


class Outbox:
    """Send one rank's messages. Every method raises what the store raises.

    Threads: one at a time.
    """

    def __init__(self, store: Store, key: str, rank: int) -> None:
        """Send as `rank`; `key` is the same on all ranks, and nobody else's."""
        self._key = key
        self._rank = rank
        self._sent = 0
        self._unread: deque[bytes] = deque()  # as far as is known, oldest first
        self.move_to(store)

    def move_to(self, store: Store) -> None:
        """Go on with another connection: the one before was lost, and maybe what the store held."""
        self._store = _of_many(store)
        self._announced = False

    def try_send(self, message: bytes) -> bool:
        """Send a message; return False where too many wait to be read. One round trip, mostly."""
        if self._unread:
            read = self._store.add(_read_key(self._key, self._rank), 0)
            while self._unread and self._sent - len(self._unread) < read:
                self._unread.popleft()
        if len(self._unread) >= MOST_UNREAD:
            return False
        first = self._sent - len(self._unread)
        self._store.set(_slot(self._key, self._rank), _pack(first, [*self._unread, message]))
        if not self._announced:  # once there is something: whoever reads waits for what is not
            self._store.append(_members(self._key), f"{self._rank},")
            self._announced = True
        self._unread.append(message)
        self._sent += 1
        return True


class Inbox:
    """Read all ranks' messages. Every method raises what the store raises.

    Threads: one at a time.
    """

    def __init__(self, store: Store, key: str, ranks: list[int]) -> None:
        """Read what `ranks` send with the same `key`."""
        self._key = key
        self._next = dict.fromkeys(ranks, 0)
        self._found: list[tuple[int, bytes]] = []  # not handed on: the store has failed since
        self.move_to(store)

    def move_to(self, store: Store) -> None:
        """Go on with another connection: the one before was lost, and maybe what the store held."""
        self._store = _of_many(store)
        self._slots: dict[int, str] = {}  # of the ranks that have sent something
        # To be told, again: a rank that is not told stops sending.
        self._read_to = {
            _read_key(self._key, rank): str(number) for rank, number in self._next.items() if number
        }

    def read(self) -> list[tuple[int, bytes]]:
        """Return (rank, message) of what has come, each rank's in its order. Waits for none."""
        self._meet()
        ranks = list(self._slots)
        for at in range(0, len(ranks), _AT_ONCE):
            self._read(ranks[at : at + _AT_ONCE])
        if self._read_to:
            self._store.multi_set(list(self._read_to), list(self._read_to.values()))
            self._read_to.clear()
        found, self._found = self._found, []
        return found

    def _read(self, ranks: list[int]) -> None:
        packs = self._store.multi_get([self._slots[rank] for rank in ranks])
        for rank, pack in zip(ranks, packs, strict=True):
            first, count = _HEAD.unpack_from(pack)
            seen = self._next[rank] - first
            if seen < count:
                self._found += [(rank, message) for message in _unpack(pack, count)[max(0, seen) :]]
                self._next[rank] = first + count
                self._read_to[_read_key(self._key, rank)] = str(first + count)

    def _meet(self) -> None:
        """Learn which ranks have begun to send."""
        members = _members(self._key)
        if len(self._slots) == len(self._next) or not self._store.check([members]):
            return
        for rank in map(int, self._store.get(members).split(b",")[:-1]):
            if rank in self._next:
                self._slots[rank] = _slot(self._key, rank)


def _pack(first: int, messages: list[bytes]) -> bytes:
    sizes = struct.pack(f"<{len(messages)}I", *map(len, messages))
    return b"".join((_HEAD.pack(first, len(messages)), sizes, *messages))


def _unpack(pack: bytes, count: int) -> list[bytes]:
    begin = _HEAD.size + 4 * count
    messages = []
    for size in struct.unpack_from(f"<{count}I", pack, _HEAD.size):
        messages.append(pack[begin : begin + size])
        begin += size
    return messages


def _slot(key: str, rank: int) -> str:
    return f"{key}/{rank}"


def _read_key(key: str, rank: int) -> str:
    return f"{key}/{rank}/read"


def _members(key: str) -> str:
    return f"{key}/members"
