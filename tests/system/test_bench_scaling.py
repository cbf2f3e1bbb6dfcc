"""`python -m bench.scaling`, tiny: its parts are real; what they measure means nothing here."""

from __future__ import annotations

from bench.scaling.__main__ import adding_up_table, reading_table, real_table
from bench.scaling.adding_up import measure_adding_up
from bench.scaling.through_store import measure_reading


def cells(table: str) -> list[list[str]]:
    """Return a table's rows below its head."""
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]


def test_made_up_ranks_are_heard_added_up_and_judged() -> None:
    """Every second a row of all; the slow one is named, and no other."""
    found = measure_adding_up(16, 9)

    assert (found["messages"], found["rows"], found["wrongly_named"]) == (16, 9, 0)
    assert found["named_after_s"] is not None
    assert 200 < found["bytes"] / 16 < 600
    assert found["held_mb"] > 0


def test_messages_of_made_up_ranks_travel_through_a_store() -> None:
    """All that were sent, no more where some ranks are silent; else it raises."""
    for silent in (0, 3):
        found = measure_reading(12, 2, silent=silent)

        assert set(found) == {
            "read_wall_s",
            "read_cpu_s",
            "server_read_cpu_s",
            "server_sent_cpu_s",
        }
    assert [row[:2] for row in cells(reading_table([12], 1))] == [["12", "0"], ["12", "1"]]


def test_real_ranks_are_measured_by_their_own_clocks() -> None:
    """Two of them, for three seconds; a row of made-up ones has as many cells as its head."""
    ((ranks, messages, *_, delay_s, most_s),) = cells(real_table([2], 3))

    assert (ranks, float(messages) > 0) == ("2", True)
    assert 0 < float(delay_s) <= float(most_s)
    head, _, row = adding_up_table([8], 2).splitlines()
    assert head.count("|") == row.count("|")
