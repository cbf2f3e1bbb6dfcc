"""The key-value store of torch.distributed's ranks, and connections to it."""

from __future__ import annotations

import datetime
import socket
import sys
from typing import Any

_REACH_S = 2.0
_ANSWER_S = 10.0


def default_store() -> Any:
    """Return the store of torch.distributed's ranks; None where that is not initialised."""
    distributed: Any = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return None
    try:
        return distributed.distributed_c10d._get_default_store()
    except ValueError:  # another thread has destroyed the group just now
        return None


def own_connection(store: Any) -> Any:
    """Return a connection of one's own to the server of `store`, with the same prefix of its keys.

    A store's client serves one caller at a time, and a process group may wait in its own for long.
    Before torch 2.9 that cannot be had: `store` itself is returned.

    Blocks up to 2 s where the server cannot be reached. torch asks the resolver for the name of
    each address that it connects to, for its messages; where that is not answered (5 s a try is
    usual), this takes as long. A call of the connection ends with an error after 10 s in which a
    key is not there; where the server is there and does not answer, none has a deadline.

    Raises:
        RuntimeError: the server cannot be reached.
    """
    from torch._C._distributed_c10d import TCPStore  # as torch.distributed has it

    if not hasattr(store, "clone"):
        return store
    base = store
    while hasattr(base, "underlying_store"):
        base = base.underlying_store
    if isinstance(base, TCPStore):
        _reach(base.host, base.port)  # torch would go on trying for all of the store's time
    connection = store.clone()
    connection.set_timeout(datetime.timedelta(seconds=_ANSWER_S))
    return connection


def _reach(host: str, port: int) -> None:
    try:
        socket.create_connection((host, port), _REACH_S).close()
    except OSError as error:
        raise RuntimeError(f"nothing answers at {host}:{port}: {error}") from error
