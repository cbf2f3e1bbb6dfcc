"""What a node's ranks tell together makes the rows that it makes told apart, to the last digit."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fasttrack.ranks.aggregate import DEADLINE_S, Aggregator, Row
from fasttrack.ranks.messages import Message, Span, Window
from fasttrack.ranks.node_message import NodeMessage, is_of_node

_RANKS = 12
_OF_NODE = 4
_SLOW = 6


class Recording:
    """The recording rank's side, on a clock of its own."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.said: list[str] = []
        self.rows: list[Row] = []
        self.aggregator = Aggregator(
            _RANKS, 10, warn=lambda key, text: self.said.append(text), clock=lambda: self.now_s
        )

    def look(self) -> None:
        """Write what is due, a second later."""
        self.now_s += 1.0
        self.rows += self.aggregator.look()


def tell(rank: int, second: int, chance: random.Random) -> Message | None:
    """Return what a rank tells in a second, which may be late, or wrong, or nothing."""
    if rank == 3 and second > 8:
        return None  # dead
    values = {"loss": chance.uniform(-1, 1) * 10 ** chance.randint(-9, 9)}
    if chance.random() < 0.7:
        values["grad_norm"] = chance.random()
    index = second if rank != 5 or second % 4 else max(0, second - 3)
    own = sum(chance.random() < (0.95 if rank == _SLOW else 0.2) for _ in range(10))
    return Message(
        width=10 if rank != 9 else 20,
        span=Span(1.0 + chance.random() / 8, 50, 10, own // 2, own),
        windows=[Window(0, index, 10 * index + 9, values)] * chance.randint(1, 2),
        host=f"node{rank // _OF_NODE}",
        gpu=f"GPU {rank % _OF_NODE}" if second > 2 else "",
        ended=rank == 11 and second > 12,
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32))
def test_rows_and_names_are_those_without_nodes(seed: int) -> None:
    """With a slow rank, a dead one, one that comes late and one that has other windows."""
    apart, together = Recording(), Recording()
    chance, places = random.Random(seed), dict[int, dict[int, tuple[str, str]]]()
    for second in range(int(DEADLINE_S) + 12):
        told = [(rank, tell(rank, second, chance)) for rank in range(_RANKS)]
        heard = [(rank, message) for rank, message in told if message is not None]
        for rank, message in heard:
            apart.aggregator.take(rank, Message.decode(message.encode()))
        for first in range(0, _RANKS, _OF_NODE):
            of_node = [each for each in heard if first <= each[0] < first + _OF_NODE]
            known = places.setdefault(first, {})
            text = NodeMessage.of(of_node).encode(known)
            known.update((rank, (each.host, each.gpu)) for rank, each in of_node)
            assert is_of_node(text)
            assert not is_of_node(of_node[0][1].encode())
            together.aggregator.take_node(NodeMessage.decode(text))
        apart.look()
        together.look()

    assert together.rows == apart.rows
    assert together.said == apart.said
    assert any(f"rank {_SLOW} (node1, GPU 2) holds" in text for text in apart.said)
    assert any("nothing was heard of rank 3 (node0, GPU 3)" in text for text in apart.said)
    assert any("rank 9 has another" in text for text in apart.said)


def test_rank_that_is_told_of_in_two_ways_counts_once() -> None:
    """Its node's first was slow, not dead: the rank has told by itself meanwhile."""
    recording = Recording()
    told = [
        (rank, Message(width=10, windows=[Window(0, 0, 9, {"loss": float(rank)})]))
        for rank in range(_RANKS)
    ]
    recording.aggregator.take(*told[5])
    for first in (0, 4, 8):
        recording.aggregator.take_node(NodeMessage.of(told[first : first + 4]))
    recording.look()

    (row,) = recording.rows
    assert (row["ranks/loss/mean"], row["ranks/missing"]) == (sum(range(_RANKS)) / _RANKS, 0)


@pytest.mark.parametrize("text", [b"[]", b'{"node":3}', b'{"node":[[1]],"windows":[]}', b"\xff"])
def test_what_is_no_message_is_refused(text: bytes) -> None:
    """Such as another version's."""
    with pytest.raises(ValueError, match=r".+"):
        NodeMessage.decode(text)
