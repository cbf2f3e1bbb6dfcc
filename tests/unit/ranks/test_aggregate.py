"""Windows of all ranks become rows: when all have told, or when the slowest is late."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fasttrack.ranks import aggregate
from fasttrack.ranks.aggregate import Aggregator, Row
from fasttrack.ranks.messages import Message, Span, Window

_WIDTH = 10


class Setup:
    """An aggregator, its clock, and what it said."""

    def __init__(self, ranks: int) -> None:
        self.now_s = 100.0
        self.said: list[str] = []
        self.aggregator = Aggregator(
            ranks, _WIDTH, warn=lambda key, text: self.said.append(text), clock=lambda: self.now_s
        )

    def tell(self, rank: int, *windows: Window, ended: bool = False, width: int = _WIDTH) -> None:
        """Let a rank tell something."""
        message = Message(
            width=width, windows=list(windows), host=f"n{rank // 2}", gpu="", ended=ended
        )
        self.aggregator.take(rank, Message.decode(message.encode()))

    def train(self, ranks: Iterable[int]) -> None:
        """Let ranks tell of a second, in which rank 1 was at work of its own, the others hardly."""
        for rank in ranks:
            own = 14 if rank == 1 else 1
            message = Message(width=_WIDTH, span=Span(1.0, 5, 16, own, own), host="n7", gpu="GPU 1")
            self.aggregator.take(rank, message)

    def look(self, after_s: float = 0.0) -> list[Row]:
        """Return the rows that are due then."""
        self.now_s += after_s
        return self.aggregator.look()


def window(index: int, turn: int = 0, **values: float) -> Window:
    """Return a whole window."""
    return Window(turn, index, index * _WIDTH + _WIDTH - 1, values)


def only(row: Row, metric: str) -> list[float]:
    """Return the figures of one metric."""
    return [row[f"ranks/{metric}/{name}"] for name in ("mean", "min", "max", "argmax")]


def test_row_is_written_once_all_ranks_have_told() -> None:
    """With mean, least, greatest and whose that is; metrics that only some have are of these."""
    setup = Setup(3)
    setup.tell(0, window(0, loss=1.0))
    setup.tell(2, window(0, loss=4.0, memory_peak_gb=2.0))
    assert setup.look(after_s=5.0) == []
    setup.tell(1, window(0, loss=2.5))

    (row,) = setup.look()

    assert only(row, "loss") == [2.5, 1.0, 4.0, 2]
    assert only(row, "memory_peak_gb") == [2.0, 2.0, 2.0, 2]
    assert (row["ranks/step"], row["ranks/missing"]) == (9, 0)
    assert setup.look(after_s=60.0)[0]["ranks/missing"] == 3, "and now nothing is heard of any"


def test_late_rank_is_missing_and_not_waited_for_and_what_it_tells_then_is_counted() -> None:
    """Rows stay in order, so that a later window that is whole waits for the deadline, too."""
    setup = Setup(2)
    setup.tell(0, window(0, loss=1.0), window(1, loss=1.0))
    assert setup.look() == []
    setup.tell(1, window(1, loss=3.0))
    assert setup.look(after_s=aggregate.DEADLINE_S - 0.1) == []

    first, second = setup.look(after_s=0.1)

    assert [row["ranks/step"] for row in (first, second)] == [9, 19]
    assert [row["ranks/missing"] for row in (first, second)] == [1, 0]
    assert only(second, "loss") == [2.0, 1.0, 3.0, 1]
    setup.tell(1, window(0, loss=9.0), window(2, loss=5.0))
    setup.tell(0, window(2, loss=5.0))
    (third,) = setup.look()
    assert (third["ranks/step"], third["ranks/late_windows"]) == (29, 1)


def test_rank_that_falls_silent_is_named_at_once_and_waited_for_no_more() -> None:
    """One that ended is neither; one that comes back is there again."""
    setup = Setup(4)
    for rank in range(4):
        setup.tell(rank, window(0, loss=1.0), ended=rank == 3)
    assert len(setup.look()) == 1
    setup.now_s += aggregate.SILENT_S
    for rank in (0, 1):
        setup.tell(rank, window(1, loss=1.0))

    (row,) = setup.look()

    assert (row["ranks/step"], row["ranks/missing"]) == (19, 2)
    assert setup.said == [
        f"nothing was heard of rank 2 (n1) for {aggregate.SILENT_S:g} s; nobody waits for that"
    ]
    setup.tell(2)
    (back,) = setup.look()
    assert back["ranks/missing"] == 0
    assert "ranks/step" not in back


def test_ranks_that_were_never_heard_of_are_said_with_what_may_be_wrong() -> None:
    """They have other options, say. A long list is cut."""
    setup = Setup(100)
    setup.tell(0)
    assert setup.look(after_s=aggregate.NEVER_HEARD_S - 1.0)[0]["ranks/missing"] == 1

    (row,) = setup.look(after_s=1.0)

    assert row["ranks/missing"] == 100
    assert "rank 8 and 91 more within 60 s (has each Options(ranks='all')?)" in setup.said[-1]


def test_rank_with_other_windows_is_left_out_and_named() -> None:
    """Their steps would not be the same ones."""
    setup = Setup(2)
    setup.tell(0, window(0, loss=1.0))
    setup.tell(1, window(0, loss=3.0), width=50)

    assert setup.look() == []
    (row,) = setup.look(after_s=aggregate.DEADLINE_S)
    assert only(row, "loss") == [1.0, 1.0, 1.0, 0]
    assert "rank 1 has another log_interval" in setup.said[0]


def test_steps_that_begin_anew_are_windows_of_their_own() -> None:
    """A trainer that counts each epoch from 0: nothing is late, nothing is mixed."""
    setup = Setup(2)
    for turn in range(2):
        for rank in range(2):
            setup.tell(rank, window(0, turn, loss=float(turn)), window(1, turn, loss=float(turn)))

    rows = setup.look()

    assert [row["ranks/loss/mean"] for row in rows] == [0.0, 0.0, 1.0, 1.0]
    assert all(row["ranks/missing"] == 0 for row in rows)


def test_straggler_is_named_with_its_host_in_a_row_of_its_own() -> None:
    """At once: the next window may be minutes away."""
    setup = Setup(3)
    rows = []
    for _ in range(6):
        setup.train(range(3))
        rows += setup.look(after_s=1.0)

    (row,) = rows
    assert (row["ranks/straggler"], row["ranks/stragglers"]) == (1, 1)
    assert setup.aggregator.straggler == "rank 1 (n7, GPU 1)"
    assert setup.said[0].startswith("rank 1 (n7, GPU 1) holds the other ranks up: it is at work of")


@pytest.mark.parametrize("goes", ["ends", "falls silent"])
def test_straggler_that_is_gone_holds_nobody_up(goes: str) -> None:
    """Whether it has ended or died, the others go on without it; one that comes back is judged."""
    setup = Setup(3)
    for _ in range(6):
        setup.train(range(3))
        setup.look(after_s=1.0)
    slow = setup.aggregator.standing(0.0)
    assert list(slow.stragglers) == ["rank 1 (n7, GPU 1)"]
    assert slow.stragglers["rank 1 (n7, GPU 1)"].startswith("it is at work of its own 8")
    changes = setup.aggregator.changes

    rows = []
    for second in range(10):
        setup.train((0, 2))
        if goes == "ends" and not second:
            setup.tell(1, ended=True)
        rows += setup.look(after_s=1.0)

    gone = setup.aggregator.standing(0.0)
    assert setup.aggregator.changes == changes + 1
    missing = () if goes == "ends" else ("rank 1 (n7, GPU 1)",)
    assert (gone.stragglers, gone.missing, gone.missing_ranks) == ({}, missing, len(missing))
    (row,) = rows
    assert (row["ranks/stragglers"], row["ranks/missing"]) == (0, len(missing))
    assert "ranks/straggler" not in row
    if goes == "falls silent":
        assert row["ranks/own_time_ms/argmax"] != 1
        for _ in range(6):
            setup.train(range(3))
            setup.look(after_s=1.0)
        back = setup.aggregator.standing(0.0)
        assert (list(back.stragglers), back.missing) == (["rank 1 (n7, GPU 1)"], ())


def test_last_rank_that_trains_holds_nobody_up() -> None:
    """All others have ended."""
    setup = Setup(2)
    for _ in range(6):
        setup.train(range(2))
        setup.look(after_s=1.0)
    setup.tell(0, ended=True)

    (row,) = setup.look()

    assert row["ranks/stragglers"] == 0
    assert setup.aggregator.standing(0.0).stragglers == {}


@settings(max_examples=40, deadline=None, database=None, derandomize=True)
@given(st.integers(2, 5), st.integers(1, 6), st.integers(0, 10_000))
def test_rows_are_those_of_the_windows_in_whatever_order_messages_come(
    ranks: int, windows: int, seed: int
) -> None:
    """Each window once, in order, with every rank's value; told twice, it counts once."""
    chance = random.Random(seed)
    setup = Setup(ranks)
    values = {(r, w): chance.uniform(-5, 5) for r in range(ranks) for w in range(windows)}
    waiting = {rank: list(range(windows)) for rank in range(ranks)}
    rows: list[Row] = []
    while any(waiting.values()):
        rank = chance.choice([rank for rank, left in waiting.items() if left])
        count = chance.randint(1, len(waiting[rank]))
        told = [window(index, loss=values[rank, index]) for index in waiting[rank][:count]]
        del waiting[rank][: chance.choice([0, count])]  # the store failed: it is told once more
        setup.tell(rank, *told)
        rows += setup.look(after_s=chance.uniform(0, 0.01))

    assert [row["ranks/step"] for row in rows] == [9 + 10 * index for index in range(windows)]
    for index, row in enumerate(rows):
        mine = [values[rank, index] for rank in range(ranks)]
        assert only(row, "loss")[1:3] == [min(mine), max(mine)]
        assert row["ranks/loss/mean"] == pytest.approx(sum(mine) / ranks)
        assert row["ranks/missing"] == 0


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b'{"width":1,"span":[1],"windows":[[1]]}'])
def test_what_is_no_message_is_refused(text: bytes) -> None:
    """A newer version's, say."""
    with pytest.raises(ValueError, match=r".+"):
        Message.decode(text)


def test_message_comes_back_as_it_was() -> None:
    """Numbers to the last digit."""
    windows: Iterable[Window] = [window(3, loss=1 / 3), window(4, turn=2, non_finite=1.0)]
    message = Message(
        width=50, span=Span(1.1, 7, 16, 2, 3), windows=list(windows), host="n1", gpu="GPU 0"
    )

    assert Message.decode(message.encode()) == message
