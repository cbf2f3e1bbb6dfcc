"""`python -m bench.scaling`, tiny: its parts are real; what they measure means nothing here."""

from __future__ import annotations

from bench.scaling.__main__ import made_up_tables, real_table
from bench.scaling.adding_up import measure_adding_up
from bench.scaling.through_store import measure_reading


def cells(table: str) -> list[list[str]]:
    """Return a table's rows below its head, which are as long as that."""
    head, _, *rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in table.split("\n")
    ]
    assert {len(row) for row in rows} == {len(head)}
    return rows


def test_made_up_ranks_are_heard_added_up_and_judged() -> None:
    """Every second a row of all; the slow one is named, and no other."""
    found = measure_adding_up(16, 9)

    assert (found["messages"], found["rows"], found["wrongly_named"]) == (16, 9, 0)
    assert found["named_after_s"] <= 9
    assert 200 < found["bytes"] / 16 < 600
    assert found["held_mb"] > 0


def test_messages_of_made_up_ranks_travel_through_a_store() -> None:
    """All that were sent, no more where some are silent: else it raises."""
    for silent in (0, 3):
        found = measure_reading(12, 2, silent)

        assert found["read_wall_s"] > 0
        assert found["server_sent_cpu_s"] >= 0


def test_tables_have_a_line_for_each_number_of_ranks() -> None:
    """Real ones: two, for three seconds; each with its own clocks."""
    ((ranks, messages, *_, delay_s, most_s),) = cells(real_table([2], 3))
    added, read, both = map(cells, made_up_tables([8], 2, 1))

    assert (ranks, float(messages) > 0) == ("2", True)
    assert 0 < float(delay_s) <= float(most_s)
    assert [row[0] for row in (*added, *read, *both)] == ["8"] * 4
