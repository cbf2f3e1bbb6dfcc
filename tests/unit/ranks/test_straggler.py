"""Who holds the others up: by what their training threads were seen doing, not by step times."""

from __future__ import annotations

import random

import pytest

from fasttrack.ranks.messages import Span
from fasttrack.ranks.straggler import Stragglers

_LOOKS = 10  # in a second


def seen(share: float, chance: random.Random, elapsed_s: float = 1.0, steps: int = 10) -> Span:
    """Return what is seen of a thread that spends `share` of its time in what is its own."""
    looks = round(_LOOKS * elapsed_s)
    own = sum(chance.random() < share for _ in range(looks))
    return Span(elapsed_s, steps, looks, own // 2, own)


def watch(shares: list[float], seconds: int, chance: random.Random, judge: Stragglers) -> None:
    """Let all ranks tell once a second."""
    for _ in range(seconds):
        for rank, share in enumerate(shares):
            judge.take(rank, seen(share, chance))
        judge.judge()


@pytest.mark.parametrize("ranks", [2, 3, 4, 64])
@pytest.mark.parametrize("seed", range(5))
def test_rank_that_works_while_others_wait_is_named_within_ten_seconds_and_no_other(
    ranks: int, seed: int
) -> None:
    """Looks are random; the slow one is at work of its own most of the time, the others wait."""
    chance, judge = random.Random(seed), Stragglers()
    slow = chance.randrange(ranks)

    watch([0.8 if rank == slow else 0.1 for rank in range(ranks)], 9, chance, judge)

    assert (judge.chronic, judge.worst) == ({slow}, slow)
    assert judge.one_offs == 0
    figures = judge.figures()
    assert figures["ranks/own_time_ms/argmax"] == slow
    assert figures["ranks/own_time_ms/max"] == pytest.approx(80, abs=20)


@pytest.mark.parametrize("share", [0.05, 0.4, 0.95])
def test_nobody_is_named_where_all_are_alike(share: float) -> None:
    """Whether they compute all the time, or all wait for the network: ten minutes of 64 ranks."""
    chance, judge = random.Random(0), Stragglers()

    watch([share] * 64, 600, chance, judge)

    assert judge.chronic == set()


def test_among_thousands_chance_names_nobody_from_the_first_second_on() -> None:
    """Of so many some are found at work of their own much more often, in few looks."""
    chance, judge = random.Random(0), Stragglers()

    for _ in range(12):
        watch([0.4] * 3000, 1, chance, judge)
        assert judge.chronic == set()


def test_two_slow_ranks_are_both_named_and_the_slower_is_the_worst() -> None:
    """Each is compared with the middle of the others."""
    chance, judge = random.Random(0), Stragglers()

    watch([0.1, 0.6, 0.1, 0.9, 0.1], 10, chance, judge)

    assert (judge.chronic, judge.worst) == ({1, 3}, 3)


def test_one_long_step_is_counted_once_and_names_nobody() -> None:
    """A checkpoint of rank 0 that the others wait for half a minute, every two minutes."""
    chance, judge = random.Random(0), Stragglers()
    for _ in range(3):
        watch([0.1] * 4, 90, chance, judge)
        for _ in range(30):  # nobody ends a step meanwhile
            for rank in range(4):
                judge.take(rank, seen(1.0 if rank == 0 else 0.0, chance, steps=0))
            judge.judge()
            assert judge.chronic == set()

    watch([0.1] * 4, 5, chance, judge)

    assert (judge.chronic, judge.one_offs) == (set(), 3)


def test_slow_rank_that_recovers_is_no_straggler_any_more() -> None:
    """Its data came from a cold cache, say."""
    chance, judge = random.Random(0), Stragglers()
    watch([0.1, 0.8, 0.1], 15, chance, judge)
    assert judge.chronic == {1}

    watch([0.1, 0.1, 0.1], 15, chance, judge)

    assert (judge.chronic, judge.worst) == (set(), None)


def test_steps_of_many_seconds_are_judged_by_whole_steps() -> None:
    """Between two of its ends a rank tells several times; only together they mean something."""
    chance, judge = random.Random(0), Stragglers()

    for second in range(1, 61):
        for rank in range(4):
            # All end a step every fifth second; the slow one is at its own work in the first three.
            share = 1.0 if rank == 2 and second % 5 in (1, 2, 3) else 0.0
            judge.take(rank, seen(share, chance, steps=int(second % 5 == 0)))
        judge.judge()

    assert judge.chronic == {2}


def test_pauses_tell_nothing() -> None:
    """A rank that is looked at in none of a span, because it pauses, is not judged by it."""
    judge = Stragglers()

    for _ in range(20):
        for rank in range(3):
            judge.take(rank, Span(1.0, 1, 0, 0, 0))
        judge.judge()

    assert (judge.chronic, judge.figures()) == (set(), {})
