"""What a rank tells the recording one, about once a second, and how it is spelled.

A message is one JSON object of some hundred bytes. All its numbers are finite.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import orjson


@dataclass(slots=True)
class Window:
    """What one rank saw of the training steps `index * width` to below `(index + 1) * width`.

    Threads: nobody changes one.
    """

    turn: int
    """How often the steps have gone back before it: a trainer may count anew."""
    index: int
    last: int
    """The newest of its steps that was logged."""
    values: dict[str, float]
    """By metric: one number for the rank."""


@dataclass(slots=True)
class Span:
    """What the training thread was seen doing since the last message.

    In an average the numbers are no whole ones.

    Threads: one at a time.
    """

    elapsed_s: float = 0.0
    steps: float = 0
    """Training steps that ended."""
    samples: float = 0
    """How often it was looked at, pauses aside."""
    data: float = 0
    """How often it was found waiting for data."""
    own: float = 0
    """How often in what no other rank can have caused, waiting for data included."""

    def add(self, later: Span) -> None:
        """Make it one with the span that follows."""
        self.elapsed_s += later.elapsed_s
        self.steps += later.steps
        self.samples += later.samples
        self.data += later.data
        self.own += later.own

    def keep(self, share: float) -> None:
        """Let it count for `share` of what it did: what is past weighs less."""
        self.elapsed_s *= share
        self.steps *= share
        self.samples *= share
        self.data *= share
        self.own *= share


@dataclass(slots=True, kw_only=True)
class Message:
    """What one rank tells. Threads: one at a time."""

    width: int
    """Of its windows, in steps: the same on all ranks."""
    span: Span = field(default_factory=Span)
    windows: list[Window] = field(default_factory=list)
    """Those that are complete, oldest first."""
    host: str = ""
    gpu: str = ""
    """Empty where it trains on none."""
    ended: bool = False
    """Whether the rank says nothing more."""

    def encode(self) -> bytes:
        """Return it as it travels."""
        span = self.span
        windows = [[each.turn, each.index, each.last, each.values] for each in self.windows]
        told = [span.elapsed_s, span.steps, span.samples, span.data, span.own]
        body = {"width": self.width, "span": told, "windows": windows}
        return orjson.dumps({**body, "host": self.host, "gpu": self.gpu, "ended": self.ended})

    @classmethod
    def decode(cls, text: bytes) -> Message:
        """Return the message that `text` is.

        Raises:
            ValueError: it is none, such as another version's.
        """
        try:
            found: dict[str, Any] = orjson.loads(text)
            return cls(
                width=int(found["width"]),
                span=Span(*found["span"]),
                windows=[_window(*told) for told in found["windows"]],
                host=str(found["host"]),
                gpu=str(found["gpu"]),
                ended=bool(found["ended"]),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a message of a rank: {error!r}") from error


def _window(turn: int, index: int, last: int, values: dict[str, float]) -> Window:
    return Window(int(turn), int(index), int(last), dict(values))
