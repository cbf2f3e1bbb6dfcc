"""Keys that all ranks of one process group share, and no group before or after it.

The store of torch.distributed's ranks may outlive them: torchrun's agent has it, and the group that
it starts after a failure finds the keys of the one before. What agents tell their ranks names no
group: `TORCHELASTIC_RESTART_COUNT` is each agent's own, and does not count that a node joins or
leaves.

So the group is named by one of its ranks, the leader, and the others ask it, for what is in the
store already may be of ranks that are gone. Who asks takes the next number from the store, which
nobody had before: who answers to that number lives now. The name is a part of all keys.

A rank of a group that is gone may live, too: where the agent itself was killed, nobody ends its
ranks. It is not to answer. It hears of it by its parent, the agent, and by the store: a server that
is there again at the same address is another group's, so a connection that is lost ends the talk.

No collective, and nobody waits: a thread of each rank asks and ends; the leader's looks for
questions as long as the process group is there, when none come twice a second.
"""

from __future__ import annotations

import atexit
import os
import threading
import uuid
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any

from fasttrack.context.distributed import get_rank, get_world_size
from fasttrack.context.elastic_jobs import agent_of_this_process
from fasttrack.context.stores import default_store, own_connection
from fasttrack.latch import Bell, Latch
from fasttrack.notices import Notices

if TYPE_CHECKING:
    from collections.abc import Callable

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.01, 0.5
_TRY_AGAIN_S = 1.0
_LAST_WORDS_S = 5.0
_groups: dict[tuple[int, int], _Group] = {}  # by the leader and the store's id, while it is there


def group_store(leader: int = 0) -> Any:
    """Return the ranks' store as this process group has it for itself; None: not known yet.

    Waits for nobody: ask again. The first call starts a thread, which asks the leader.

    Args:
        leader: the rank that names the group, the same for all who are to share keys. It must call
            this, too.
    """
    store = default_store()
    group = None if store is None else _group(store, leader)
    if group is None or group.name is None:
        return None
    from torch._C._distributed_c10d import PrefixStore  # as torch.distributed has it

    return PrefixStore(f"fasttrack/{group.name}", store)


def when_group_is_known(callback: Callable[[], object], leader: int = 0) -> None:
    """Call `callback` once `group_store` has something to return: now, or later on a thread.

    Never, where there is no process group or the leader does not answer.
    """
    store = default_store()
    if store is not None:
        _group(store, leader).when_known(callback)


def _group(store: Any, leader: int) -> _Group:
    key = (leader, id(store))
    group = _groups.get(key)
    if group is None:
        made = _Group(store, leader)
        group = _groups.setdefault(key, made)
        if group is made:
            group.start()
    return group


class _Group:
    """What one process knows of the name of its group.

    Threads: any; `_run` on its own.
    """

    def __init__(self, store: Any, leader: int) -> None:
        """Know nothing yet, or make up the name."""
        key = (leader, id(store))
        # Its server may be this process's, and is to end with it.
        self._store = weakref.ref(store, lambda _: _groups.pop(key, None))
        self._leads = get_rank() == leader
        self._key = f"fasttrack/groups/{leader}"
        self.name = uuid.uuid4().hex if self._leads else None
        """The group's; None: not known yet."""
        self._callbacks: deque[Callable[[], object]] = deque()
        self._pid = os.getpid()
        self._agent = agent_of_this_process(os.environ)
        self._closing = False
        self._wake = Bell()
        self._ended = Latch()

    def start(self) -> None:
        """Start the thread, where there is anyone to speak to."""
        if get_world_size() < 2:
            return
        thread = threading.Thread(target=self._run, name="fasttrack-group", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # the system has none left
            Notices().warn("threads", f"the ranks cannot meet: {error}")
            self._ended.open()
        atexit.register(self._close)  # a thread inside torch at the interpreter's end aborts it

    def when_known(self, callback: Callable[[], object]) -> None:
        """Call it as soon as the name is known."""
        self._callbacks.append(callback)
        if self.name is not None:
            self._call_back()

    def _call_back(self) -> None:
        while self._callbacks:
            try:
                callback = self._callbacks.popleft()
            except IndexError:  # another thread was quicker
                return
            callback()

    def _close(self) -> None:
        if os.getpid() == self._pid:
            self._closing = True
            self._wake.ring()
            self._ended.wait(_LAST_WORDS_S)

    # --- own thread -----------------------------------------------------------------------------

    @property
    def _over(self) -> bool:
        store = self._store()
        if self._closing or store is None or default_store() is not store:
            return True
        return self._agent is not None and os.getppid() != self._agent

    def _run(self) -> None:
        try:
            while (connection := self._connect()) is not None:
                try:
                    if self._leads:
                        self._answer(connection)
                    else:
                        self.name = self._ask(connection)
                    break
                except Exception as error:  # the store's own exceptions have no common base
                    # Another connection might reach the server of another group; one that is
                    # shared, before torch 2.9, is this group's whatever it says.
                    if connection is not self._store():
                        self._say_lost(error)
                        break
                    self._wake.wait(_TRY_AGAIN_S)
            if self.name is not None:
                self._call_back()
        finally:
            self._ended.open()

    def _say_lost(self, error: Exception) -> None:
        """Say that this rank learns no name; most often the server went with the training's end."""
        if self.name is None and not self._over:
            why = str(error).strip().split("\n", 1)[0][:200]
            Notices().warn("group", f"this rank's store was lost ({why}): it meets no other rank")

    def _connect(self) -> Any:
        while not self._over:
            try:
                return own_connection(self._store())
            except Exception as error:  # the store's own exceptions have no common base
                if isinstance(error.__cause__, ConnectionRefusedError):  # the server has gone
                    return None
                self._wake.wait(_TRY_AGAIN_S)
        return None

    def _answer(self, connection: Any) -> None:
        assert self.name is not None
        pause_s = _FIRST_PAUSE_S
        while not self._over:
            answered = connection.add(f"{self._key}/answered", 0)
            asked = connection.add(f"{self._key}/asked", 0)
            for number in range(answered + 1, asked + 1):
                connection.set(f"{self._key}/answer/{number}", self.name)
            if asked > answered:
                connection.add(f"{self._key}/answered", asked - answered)
                pause_s = _FIRST_PAUSE_S
            self._wake.wait(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _ask(self, connection: Any) -> str | None:
        key = f"{self._key}/answer/{connection.add(f'{self._key}/asked', 1)}"
        pause_s = _FIRST_PAUSE_S
        while not self._over:
            if connection.check([key]):
                name: str = connection.get(key).decode()
                connection.delete_key(key)
                return name
            self._wake.wait(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        return None
