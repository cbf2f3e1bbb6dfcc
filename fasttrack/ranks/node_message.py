"""What one rank of a node tells for all ranks of it: their messages, without saying things twice.

Values are not summed up. The recording rank adds up a window of all ranks at once, which is faster
than merging sums, and takes a rank that was told of on two ways for one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from fasttrack.ranks.messages import Message, Span, Window

if TYPE_CHECKING:
    from collections.abc import Iterator

_MARK = b'{"node":'


@dataclass(slots=True)
class NodeWindow:
    """What some ranks of a node saw of the same steps. Threads: nobody changes one."""

    width: int
    """In steps."""
    turn: int
    index: int
    last: int
    """The newest step that one of them logged."""
    ranks: list[int]
    values: dict[str, list[float | None]]
    """By metric: each rank's, None where it has none."""

    def apart(self) -> Iterator[tuple[int, Window]]:
        """Yield each rank with its window."""
        for at, rank in enumerate(self.ranks):
            values = {name: each[at] for name, each in self.values.items()}
            told = {name: value for name, value in values.items() if value is not None}
            yield rank, Window(self.turn, self.index, self.last, told)


@dataclass(slots=True)
class NodeMessage:
    """The messages of a node's ranks. Threads: one at a time."""

    told: list[tuple[int, Message]]
    """In each rank's order; their windows are in `windows`."""
    windows: list[NodeWindow]

    @classmethod
    def of(cls, told: list[tuple[int, Message]]) -> NodeMessage:
        """Return the one that tells what messages of single ranks do; it shares them."""
        found: dict[tuple[int, int, int], dict[int, Window]] = {}
        for rank, message in told:
            for each in message.windows:
                key = (message.width, each.turn, each.index)
                found.setdefault(key, {}).setdefault(rank, each)
        return cls(told, [_together(*key, of_ranks) for key, of_ranks in sorted(found.items())])

    def encode(self, places: dict[int, tuple[str, str]]) -> bytes:
        """Return it as it travels.

        Args:
            places: by rank the host and GPU that need not be told again.
        """
        ranks = []
        for rank, each in self.told:
            span = each.span
            place = () if places.get(rank) == (each.host, each.gpu) else (each.host, each.gpu)
            numbers = (span.elapsed_s, span.steps, span.samples, span.data, span.own)
            ranks.append([rank, each.width, each.ended, numbers, *place])
        windows = [
            [each.width, each.turn, each.index, each.last, each.ranks, each.values]
            for each in self.windows
        ]
        return orjson.dumps({"node": ranks, "windows": windows})

    @classmethod
    def decode(cls, text: bytes) -> NodeMessage:
        """Return the message that `text` is.

        Raises:
            ValueError: it is none, such as another version's.
        """
        try:
            found: dict[str, Any] = orjson.loads(text)
            return cls(
                [_message(*told) for told in found["node"]],
                [NodeWindow(*told) for told in found["windows"]],
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a message of a node: {error!r}") from error


def is_of_node(text: bytes) -> bool:
    """Return whether a message is one of a node's ranks together."""
    return text.startswith(_MARK)


def _message(
    rank: int, width: int, ended: bool, span: list[float], host: str = "", gpu: str = ""
) -> tuple[int, Message]:
    return rank, Message(width=width, span=Span(*span), host=host, gpu=gpu, ended=ended)


def _together(width: int, turn: int, index: int, of_ranks: dict[int, Window]) -> NodeWindow:
    names = dict.fromkeys(name for each in of_ranks.values() for name in each.values)
    values = {name: [each.values.get(name) for each in of_ranks.values()] for name in names}
    last = max(each.last for each in of_ranks.values())
    return NodeWindow(width, turn, index, last, list(of_ranks), values)
