"""One rank's part: a thread that looks at the training, tells what it saw, and listens.

It is a thread of its own, beside the worker's, because torch's store has calls without a deadline,
and because the worker waits for the device: a rank that hangs there is still to be heard of.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

from fasttrack.context.group_store import group_store
from fasttrack.context.places import node_name
from fasttrack.context.stores import default_store, own_connection
from fasttrack.latch import Bell, Latch
from fasttrack.ranks.exchange import Inbox, Outbox
from fasttrack.ranks.messages import Message, Span, Window
from fasttrack.worker.bursts import Bursts

if TYPE_CHECKING:
    from collections.abc import Callable

    from fasttrack.ranks.exchange import Store
    from fasttrack.ranks.own_time import OwnTime
    from fasttrack.ranks.statistics import WindowStatistics

TELL_EVERY_S = 1.0
"""How often each rank sends a message, and the recording one reads; see `tell_every_s`."""
MANY_RANKS = 4096
"""Above which that is half as often, so that it takes little of the recording rank's core."""
LOOK_EVERY_S = 0.1
"""How often, on average, a rank looks at what its training thread is doing."""
TRY_AGAIN_S = 5.0
"""After which a store that was lost is tried again; each time after twice as long."""
_MOST_FAILURES = 4
NO_STORE_S = 60.0
"""How long the ranks may stay unknown to one another before that is said."""
LAST_WORDS_S = 2.0
"""How long the end of the run waits for the last messages."""
_POLL_S = 0.02
_MOST_WINDOWS = 64  # in one message
_MOST_UNSENT = 256  # windows that wait for the store; the newest, if there are more
_BACKLOG = 1000  # messages of one round from which being done matters more than short bursts


def tell_every_s(ranks: int) -> float:
    """Return how often each of so many ranks sends a message, and the recording one reads."""
    return TELL_EVERY_S * (2 if ranks > MANY_RANKS else 1)


def hear(
    found: list[tuple[int, bytes]],
    take: Callable[[int, Message], None],
    warn: Callable[[str, str], None],
    bursts: Bursts,
) -> None:
    """Have messages taken in, in short bursts: meanwhile training may wait for the GIL.

    Args:
        found: the ranks that have sent them, and the messages.
        take: called with each.
        warn: called with (key, text) for what the user should hear once.
        bursts: has begun.
    """
    if len(found) > _BACKLOG:
        bursts.lengthen()
    for rank, text in found:
        try:
            message = Message.decode(text)
        except ValueError as error:
            warn("ranks_message", f"ranks='all': rank {rank} tells nonsense: {error}")
            continue
        take(rank, message)
        bursts.rest_if_due()


class Sink(Protocol):
    """What the recording rank does with messages: an `Aggregator`'s side of the run."""

    @property
    def all_ended(self) -> bool:
        """Whether nobody will say more."""

    def take(self, rank: int, message: Message) -> None:
        """Take in what one rank tells."""

    def look(self) -> None:
        """Write the rows that are due."""


class Member:
    """A rank among all ranks.

    Threads: built and closed on any; the rest is done on a thread of its own.
    """

    def __init__(
        self,
        rank: int,
        ranks: int,
        statistics: WindowStatistics,
        own_time: OwnTime,
        *,
        key: str,
        describe_gpu: Callable[[], str],
        warn: Callable[[str, str], None],
        sink: Sink | None = None,
        store: Callable[[], Any] = group_store,
    ) -> None:
        """Prepare; nothing runs before `start`.

        Args:
            rank: of this process.
            ranks: how many there are.
            statistics: what the worker sums up.
            own_time: looks at the training thread.
            key: the same on all ranks, and nobody else's.
            describe_gpu: returns what it trains on; "" for no GPU.
            warn: called with (key, text) for what the user should hear once.
            sink: takes all ranks' messages, on the rank that records.
            store: returns the ranks' store, the group's own; None while they have not met.
        """
        self._tell_every_s = tell_every_s(ranks)
        self._rank = rank
        self._ranks = ranks
        self._statistics = statistics
        self._own_time = own_time
        self._key = key
        self._describe_gpu = describe_gpu
        self._warn = warn
        self._sink = sink
        self._store = store
        self._pid = os.getpid()
        self._closing = False
        self._wake = Bell()
        self._ended = Latch()
        self._thread: threading.Thread | None = None
        # own thread
        self._host = node_name()
        self._kept: Any = None  # the ranks' store: its server may be this object's
        self._outbox: Outbox | None = None
        self._inbox: Inbox | None = None
        self._connect_at_s = 0.0
        self._failures = 0
        self._began_s = time.monotonic()
        self._span = Span()
        self._span_began_s = time.perf_counter()
        self._steps_told = 0
        self._unsent: deque[Window] = deque(maxlen=_MOST_UNSENT)
        self._bursts = Bursts()
        self._chance = random.Random(f"{key}/{rank}")

    def start(self) -> None:
        """Start the thread. Where the system has none left, that is said, and the rank left out."""
        thread = threading.Thread(target=self._run, name="fasttrack-ranks", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            self._ended.open()
            self._warn("ranks_thread", f"ranks='all': {error}; this rank is left out")
            return
        self._thread = thread

    def close(self, timeout_s: float = LAST_WORDS_S + 1.0) -> bool:
        """Tell the last, and end the thread; return whether it ended. Idempotent.

        Waits up to `timeout_s`: the store may never answer.
        """
        if self._thread is None or os.getpid() != self._pid:
            return True
        self._closing = True
        self._wake.ring()
        ended = self._ended.wait(timeout_s)
        if ended:
            self._thread.join(timeout_s)
        return ended

    # --- own thread -----------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._loop()
            self._meet_at_last()
            self._tell(ended=True)
            if self._sink is not None:
                self._hear_the_last()
        except Exception as error:  # nothing may be raised into the interpreter's end
            self._warn("ranks_met", f"ranks='all': this rank met {error!r} and tells no more")
        finally:
            self._outbox = self._inbox = self._kept = None
            self._ended.open()

    def _loop(self) -> None:
        look_at_s = tell_at_s = time.monotonic()
        while not self._closing:
            now_s = time.monotonic()
            if now_s >= look_at_s:
                self._own_time.look(self._span)
                if self._kept is None and not self._failures:
                    self._meet_once()
                # At random: steps may take as long as a fixed interval, or its half.
                look_at_s = now_s + LOOK_EVERY_S * self._chance.uniform(0.5, 1.5)
            if now_s >= tell_at_s:
                self._tell()
                wait_s = self._tell_every_s
                tell_at_s = max(tell_at_s + wait_s, now_s + wait_s / 2)
            self._wake.wait(max(0.0, min(look_at_s, tell_at_s) - time.monotonic()))

    def _tell(self, *, ended: bool = False) -> None:
        """Do one round: send what is new; on the rank that records, read and write rows."""
        windows = self._statistics.windows
        while windows:
            self._unsent.append(windows.popleft())
        self._end_span()
        message = Message(
            width=self._statistics.width,
            span=self._span,
            host=self._host,
            gpu=self._describe_gpu(),
            ended=ended,
        )
        if self._sink is not None:
            message.windows = list(self._unsent)
            self._unsent.clear()
            self._span = Span()
            self._sink.take(self._rank, message)
            self._read()
            self._sink.look()
            return
        while self._send(message) and self._unsent and ended:
            pass

    def _send(self, message: Message) -> bool:
        """Send a message with the oldest windows; keep all where that is not possible now."""
        message.windows = list(self._unsent)[:_MOST_WINDOWS]
        message.ended = self._closing and len(message.windows) == len(self._unsent)
        try:
            if not self._connect() or self._outbox is None:
                return False
            sent = self._outbox.try_send(message.encode())
            self._failures = 0
            if not sent:
                return False
        except Exception as error:  # the store's own exceptions have no common base
            self._lose(error)
            return False
        for _ in message.windows:
            self._unsent.popleft()
        self._span = message.span = Span()
        return True

    def _read(self) -> None:
        try:
            if not self._connect() or self._inbox is None:
                return
            found = self._inbox.read()
            self._failures = 0
        except Exception as error:  # as above
            self._lose(error)
            return
        assert self._sink is not None
        self._bursts.begin(hurried=self._closing)
        hear(found, self._sink.take, self._warn, self._bursts)

    def _hear_the_last(self) -> None:
        """Read until all ranks have ended, or for `LAST_WORDS_S`."""
        assert self._sink is not None
        until_s = time.monotonic() + LAST_WORDS_S
        while self._kept is not None and not self._sink.all_ended:
            if time.monotonic() >= until_s:
                break
            time.sleep(_POLL_S)
            self._read()

    def _end_span(self) -> None:
        now_s, steps = time.perf_counter(), self._statistics.steps
        self._span.elapsed_s += now_s - self._span_began_s
        self._span.steps += steps - self._steps_told
        self._span_began_s, self._steps_told = now_s, steps

    def _meet_once(self) -> None:
        """Connect as soon as the ranks have met: the run may be short."""
        try:
            self._connect()
        except Exception as error:  # the store's own exceptions have no common base
            self._lose(error)

    def _meet_at_last(self) -> None:
        """Give a very short run's ranks the time to meet; not where they have no process group."""
        until_s = time.monotonic() + LAST_WORDS_S / 2
        while self._kept is None and not self._failures and default_store() is not None:
            self._meet_once()
            if self._kept is not None or time.monotonic() >= until_s:
                return
            time.sleep(_POLL_S)

    def _connect(self) -> bool:
        """Return whether the ranks are connected, now or by this call."""
        if self._kept is not None and (self._outbox or self._inbox) is not None:
            return True
        now_s = time.monotonic()
        if now_s < self._connect_at_s or self._failures >= _MOST_FAILURES:
            return False
        store = self._store()
        if store is None:
            if now_s - self._began_s >= NO_STORE_S and self._sink is not None:
                self._warn(
                    "ranks_store",
                    "ranks='all': torch.distributed is not initialised, or rank 0 has no such "
                    "tracker, so that the other ranks cannot be heard; call init_process_group",
                )
            return False
        self._meet(own_connection(store))
        self._kept = store
        return True

    def _meet(self, connection: Store) -> None:
        if self._sink is None:
            self._outbox = self._outbox or Outbox(connection, self._key, self._rank)
            self._outbox.move_to(connection)
        else:
            others = [rank for rank in range(self._ranks) if rank != self._rank]
            self._inbox = self._inbox or Inbox(connection, self._key, others)
            self._inbox.move_to(connection)

    def _lose(self, error: Exception) -> None:
        """Let go of a store that has failed; say so where it matters and is not the usual end."""
        if self._sink is not None and self._store() is not None:
            text = str(error).strip().split("\n", 1)[0][:200]
            self._warn(
                "ranks_store",
                f"ranks='all': torch.distributed's store does not serve ({text}); the run goes on, "
                "and the other ranks are tried again",
            )
        self._kept = None
        self._connect_at_s = time.monotonic() + TRY_AGAIN_S * 2**self._failures
        self._failures += 1
