"""Post many finished lines of history to wandb-core in one go.

`run.log` hands each row to the client's own asyncio thread, waits until the socket has it, and
wandb-core puts the line together, writes it, and a summary with it. Here lines are put together
beforehand (`lines.py`) and posted by the hundred; the summary, which wandb-core does not take from
such lines, is posted now and then. The run's last line goes through `run.log`, so that what the
client adds at the end of a run is as it always is.

It leans on names that wandb keeps to itself (seen with 0.31). Where one is missing there is no
outbox; where one behaves otherwise, `witness.py` finds out. Then rows go one by one by `run.log`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from fasttrack.delivery.backends.wandb.lines import Framing, Line, Lines

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping

    from fasttrack.journal.rows import Number, Row

_MOST_LINES = 1024  # that are held back at a time
_MOST_BYTES = 2**20
_MOST_SUMMARIES = 64  # kinds of rows whose last one is held for a summary
_SUMMARY_EVERY_S = 5.0


class Outbox:
    """What one run has logged and wandb-core has not got yet.

    Threads: one at a time, the one that logs.
    """

    def __init__(
        self,
        interface: Any,
        *,
        runtime_s: float = 0.0,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Stand beside `run.log`, of a run that has just been opened.

        Args:
            interface: the run's interface to wandb-core.
            runtime_s: how long the run had gone on before.
            wall: unix time in seconds.
            clock: seconds, for the pace of summaries.

        Raises:
            AttributeError: the client lacks what is needed here.
        """
        self._run_async = interface._asyncer.run
        self._writer = interface._client._writer
        self._drain = interface._client._drain_writer
        self._framing = Framing(interface._stream_id)
        self._began_s = wall() - runtime_s
        self._runtime_s = runtime_s
        self._clock = clock
        self._lines = Lines()
        self._frames: list[bytes] = []
        self._size_bytes = 0
        # Kinds of lines, the last one of each: its items, or what is there already.
        self._latest: dict[Hashable, bytes | Line] = {}
        self._last_kind: Hashable = None
        self._summary_at_s = clock()
        self.first: Line | None = None
        """The first line that was posted; with it, a summary."""

    def take(
        self, step: int, row: Row, part: Mapping[str, Number] | None, *, late: bool = False
    ) -> None:
        """Take in a row, or a part of it. See `post`."""
        line = self._lines.add(step, row, part, late=late)
        if line is not None:
            self._add(line)

    def recall(self, step: int, row: Row, part: Mapping[str, Number] | None) -> None:
        """Take in a row that an earlier session has handed over, for the summary.

        wandb-core may have died after it sent the line, and before the summary that belongs to it.
        """
        self._note(Line(step, row, part, late=False))

    def _add(self, line: Line) -> None:
        if self.first is None:
            self.first = line
        items = self._items(line)
        self._append(self._framing.history(items, line.step))
        self._note(line, items)
        if self.first is line:
            self._summarize()
        if len(self._frames) >= _MOST_LINES or self._size_bytes >= _MOST_BYTES:
            self.post()

    def _items(self, line: Line) -> bytes:
        logged_s = line.rows[-1][0].time_s
        return line.all_items(max(self._runtime_s, logged_s - self._began_s))

    def _note(self, line: Line, items: bytes | None = None) -> None:
        kind = line.kind
        if kind is not self._last_kind:
            self._latest.pop(kind, None)  # the order is that of the last ones
            self._last_kind = kind
        self._latest[kind] = line if items is None else items
        if len(self._latest) > _MOST_SUMMARIES:
            self._summarize()

    def _append(self, frame: bytes) -> None:
        self._frames.append(frame)
        self._size_bytes += len(frame)

    def _summarize(self) -> None:
        told = [self._items(one) if isinstance(one, Line) else one for one in self._latest.values()]
        self._append(self._framing.summary(b"".join(told)))
        self._latest.clear()
        self._summary_at_s = self._clock()

    def post(self) -> None:
        """Hand over the lines that are finished. Blocks while wandb-core takes no more.

        Raises:
            Exception: whatever the client's socket raises once wandb-core has died.
        """
        if self._latest and self._clock() - self._summary_at_s >= _SUMMARY_EVERY_S:
            self._summarize()
        if self._frames:
            frames, self._frames, self._size_bytes = self._frames, [], 0
            self._run_async(lambda: self._send(b"".join(frames)))

    async def _send(self, frames: bytes) -> None:
        self._writer.write(frames)
        await self._drain()

    def end(self) -> Line | None:
        """Hand over all but the last line; return that. Blocks and raises as `post`."""
        if self._latest:
            self._summarize()
        self.post()
        line, self._lines.open = self._lines.open, None
        return line
