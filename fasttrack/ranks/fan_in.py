"""In a large job one rank of each node tells for all of it, so that the recording one reads less.

That one, the node's first, serves a store on loopback, which the node's other ranks send to as they
would to the job's. Where it is lost, or does not read, they go back to the job's. The recording
rank hears of each rank either way, and of some twice, which counts once.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from fasttrack.context.places import count_nodes, local_rank, node_name
from fasttrack.context.stores import connect
from fasttrack.ranks.exchange import Inbox, Outbox
from fasttrack.ranks.messages import Message
from fasttrack.ranks.node_message import NodeMessage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from fasttrack.ranks.exchange import Store

ABOVE_RANKS = 1024
"""In how large a job: up to that the recording rank reads all at a few percent of a core."""
SEEK_S = 10.0
"""How long a rank looks for its node's first before it tells the recording one by itself."""
MOST_UNREAD = 4
"""Messages that the node's first has not read after which it is taken for lost."""
_LOOPBACK = "127.0.0.1"
_NONE = "none"


@dataclass(frozen=True, slots=True)
class NodePlace:
    """Where in its job a rank is."""

    node: str
    """Which is this on the node's ranks only."""
    local: int
    """The rank's number among them."""

    @classmethod
    def here(cls, ranks: int, environment: Mapping[str, str] = os.environ) -> NodePlace | None:
        """Return this rank's, where a node of the job tells for its ranks; else None.

        Args:
            ranks: of the job.
            environment: the launcher's.
        """
        local, nodes = local_rank(ranks, environment), count_nodes(ranks, environment)
        if ranks <= ABOVE_RANKS or local is None or nodes is None or not 1 < nodes < ranks:
            return None
        number = environment.get("GROUP_RANK") or environment.get("SLURM_NODEID", "")
        return cls(f"{number}/{node_name(environment)}", local)


class Way(Protocol):
    """How a rank's messages get to the recording one, but by its own `Outbox`."""

    def move_to(self, store: Store) -> None:
        """Go on with another connection to the job's store."""

    def try_send(self, message: Message, *, last: bool) -> bool:
        """Send a message; return False where that is not possible now.

        Args:
            message: the rank's.
            last: whether the rank sends hardly more.
        """


def way_through(place: NodePlace, outbox: Outbox, store: Store, key: str, rank: int) -> Way | None:
    """Return the way of a rank's messages in a job with a fan-in; None where its node has none.

    Args:
        place: the rank's.
        outbox: the one to the job's store.
        store: the job's.
        key: of all ranks' messages.
        rank: the rank.
    """
    if place.local:
        return Follower(place, outbox, store, key, rank)
    try:
        return Leader(place, outbox, store, key, rank)
    except (OSError, RuntimeError):  # no port, no thread
        say_nobody_leads(place, store, key)
        return None


def say_nobody_leads(place: NodePlace, store: Store, key: str) -> None:
    """Have the ranks of the node tell by themselves."""
    store.set(_address_key(key, place), _NONE)


class Leader:
    """Tell for a node. Threads: one at a time."""

    def __init__(self, place: NodePlace, outbox: Outbox, store: Store, key: str, rank: int) -> None:
        """Serve the node; see `way_through`."""
        from torch._C._distributed_c10d import TCPStore

        self._place, self._outbox, self._key, self._rank = place, outbox, key, rank
        listener = socket.create_server((_LOOPBACK, 0))  # torch's own would be on all addresses
        self._server = TCPStore(
            _LOOPBACK,
            listener.getsockname()[1],
            None,
            True,
            wait_for_workers=False,
            master_listen_fd=listener.detach(),
        )
        self._secret = secrets.token_hex(8)
        self._server.set(_SECRET, self._secret)
        whoever = range(2**31)  # comes: a launcher may number them in any way
        self._inbox = Inbox(self._server, key, whoever)  # type: ignore[arg-type]  # its stub lacks half of it
        self._told: list[tuple[int, Message]] = []  # that was read, and is not sent on
        self._places: dict[int, tuple[str, str]] = {}  # that the recording rank knows
        self.move_to(store)

    def move_to(self, store: Store) -> None:
        """Go on with another connection: the ranks of the node find the way there."""
        store.set(_address_key(self._key, self._place), f"{self._server.port} {self._secret}")

    def try_send(self, message: Message, *, last: bool) -> bool:
        """Send a message with those that the node's ranks have sent since."""
        if not self._told:  # else the ranks are to see that nothing is read
            for rank, text in self._inbox.read():
                try:
                    self._told.append((rank, Message.decode(text)))
                except ValueError:  # of another version: it counts as one that is not heard of
                    continue
        told = [*self._told, (self._rank, message)]
        if not self._outbox.try_send(NodeMessage.of(told).encode(self._places)):
            return False
        self._told = []
        self._places.update((rank, (each.host, each.gpu)) for rank, each in told)
        return True


class Follower:
    """Tell a node's first, or the recording rank where that is lost. Threads: one at a time."""

    def __init__(
        self,
        place: NodePlace,
        outbox: Outbox,
        store: Store,
        key: str,
        rank: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Look for the node's first; see `way_through`."""
        self._outbox, self._key, self._rank = outbox, key, rank
        self._address = _address_key(key, place)
        self._clock = clock
        self._until_s = clock() + SEEK_S
        self._seeks = True
        self._node: Outbox | None = None
        self._store = store

    def move_to(self, store: Store) -> None:
        """Go on with another connection."""
        self._store = store

    def try_send(self, message: Message, *, last: bool) -> bool:
        """Send a message to the node's first, or by oneself."""
        if self._seeks:
            self._seek()
            if self._seeks and not last:
                return False
        text = message.encode()
        if self._node is not None and not last and self._tell_node(text):
            return True
        self._leave_node()
        return self._outbox.try_send(text)

    @property
    def by_itself(self) -> bool:
        """Whether it tells the recording rank without its node."""
        return self._node is None and not self._seeks

    def _seek(self) -> None:
        if self._store.check([self._address]):
            self._seeks = False
            found = self._store.get(self._address).decode()
            if found != _NONE:
                self._meet(*found.split())
        elif self._clock() >= self._until_s:
            self._seeks = False

    def _meet(self, port: str, secret: str) -> None:
        try:
            node = connect(_LOOPBACK, int(port))
            # Else it is another one's: two nodes are called the same.
            if node.check([_SECRET]) and node.get(_SECRET).decode() == secret:
                self._node = Outbox(node, self._key, self._rank)
        except Exception:  # the store's own exceptions have no common base; it is gone already
            return

    def _tell_node(self, text: bytes) -> bool:
        assert self._node is not None
        try:
            return self._node.count_unread() < MOST_UNREAD and self._node.try_send(text)
        except Exception:  # as above
            return False

    def _leave_node(self) -> None:
        """Tell the recording rank what the node's first may not have, which may be too much."""
        if self._node is None:
            return
        unread = self._node.unread
        self._node = None
        for text in unread:
            self._outbox.try_send(text)


_SECRET = "secret"


def _address_key(key: str, place: NodePlace) -> str:
    return f"{key}/node/{place.node}"
