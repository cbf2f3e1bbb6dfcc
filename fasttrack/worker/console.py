"""What the program printed, as lines of the journal, without secrets."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from fasttrack.journal import entries
from fasttrack.redaction import StreamRedactor

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fasttrack.hotpath.records import Console


class ConsoleEncoder:
    """Redact and encode what was printed. A line is held back until it is whole, or rests.

    Threads: one at a time.
    """

    def __init__(self) -> None:
        """Begin with nothing printed."""
        self._streams: dict[str, StreamRedactor] = {}
        self._held_s: dict[str, float] = {}
        """When what each stream holds back was printed, in unix time; of those that do."""

    @property
    def holds(self) -> bool:
        """Whether an unfinished line is held back, so that the next call may bring it."""
        return bool(self._held_s)

    def encode(self, printed: Iterable[Console]) -> list[bytes]:
        """Return the lines of the journal: one for all that one stream got without a break.

        Args:
            printed: since the last call. A stream's unfinished line is given out once another
                stream has printed, or a call has brought nothing more of it.
        """
        lines: list[bytes] = []
        stream = None
        for stream, run in itertools.groupby(printed, key=lambda piece: piece.stream):
            self._give_out(lines, but=stream)
            pieces = list(run)
            redactor = self._streams.setdefault(stream, StreamRedactor())
            began_s = self._held_s.pop(stream, pieces[0].time_s)
            shown = redactor.feed("".join([piece.text for piece in pieces]))
            if redactor.holds:
                self._held_s[stream] = pieces[-1].time_s if shown else began_s
            if shown:
                lines.append(_encode(stream, shown, began_s))
        self._give_out(lines, but=stream)
        return lines

    def end(self) -> list[bytes]:
        """Return what is held back; nothing more will be printed."""
        lines: list[bytes] = []
        self._give_out(lines, at_the_end=True)
        return lines

    def _give_out(
        self, lines: list[bytes], *, but: str | None = None, at_the_end: bool = False
    ) -> None:
        for stream in sorted(self._held_s.keys() - {but}):
            rest = self._streams[stream].rest(at_the_end=at_the_end)
            if rest:
                lines.append(_encode(stream, rest, self._held_s.pop(stream)))


def _encode(stream: str, text: str, time_s: float) -> bytes:
    clean = text.encode("utf-8", "replace").decode()  # lone surrogates cannot be written
    return entries.encode(entries.Console(stream, clean, time_s))
