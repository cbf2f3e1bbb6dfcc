"""`python -m bench.ranks`, tiny, on two real ranks; what it measures means nothing here."""

from __future__ import annotations

from bench.ranks.__main__ import measure_all


def test_each_rank_measures_both_kinds_of_run() -> None:
    """The call, the worker, and the thread that only a run of all ranks has."""
    told = measure_all(ranks=2, pairs=2, steps=20)

    for each in told:
        (main, *own), (all_ranks, *shared) = each["rows"]
        assert (main, all_ranks) == ("main", "all")
        assert own[2] == 0.0 <= shared[2]
        assert {name: len(ratios) for name, ratios in each["ratios"].items()} == {
            "call": 2,
            "worker": 2,
            "threads": 2,
        }
