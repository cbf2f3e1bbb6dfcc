"""`python -m bench.scaling`, tiny: its parts are real; what they measure means nothing here."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from bench.lib.processes import importable
from bench.scaling import __main__ as scaling

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[dict[str, Any]]]:
    """What was measured, by the function that measures: here, not in a process for each.

    What goes to such a process and comes from it is JSON; test_bench_targets starts real ones.
    """
    all_found: dict[str, list[dict[str, Any]]] = {}

    def call_here(function: Callable[..., Any], *arguments: Any) -> Any:
        assert importable(function)
        result = json.loads(json.dumps(function(*json.loads(json.dumps(arguments)))))
        all_found.setdefault(function.__name__, []).append(result)
        return result

    monkeypatch.setattr(scaling, "call_in_new_process", call_here)
    return all_found


def cells(table: str) -> list[list[str]]:
    """Return a table's rows below its head, which are as long as that."""
    head, _, *rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in table.split("\n")
    ]
    assert {len(row) for row in rows} == {len(head)}
    return rows


def test_made_up_ranks_are_heard_added_up_and_judged(found: dict[str, Any]) -> None:
    """Every second a row of all; the slow one is named, and no other.

    Through a store come all messages that were sent, no more where some ranks are silent: else
    reading raises. The tables have a line for each number of ranks, the second for each silence.
    """
    added, read, both = map(cells, scaling.made_up_tables([16], 9, 2))

    (adding,) = found["measure_adding_up"]
    assert (adding["messages"], adding["rows"], adding["wrongly_named"]) == (16, 9, 0)
    assert adding["named_after_s"] <= 9
    assert 200 < adding["bytes"] / 16 < 600
    assert adding["held_mb"] > 0
    assert len(found["measure_reading"]) == 2
    for reading in found["measure_reading"]:
        assert reading["read_wall_s"] > 0
        assert reading["server_sent_cpu_s"] >= 0
    assert [row[0] for row in (*added, *read, *both)] == ["16"] * 4
    assert [row[1] for row in read] == ["0", "1"]


def test_nodes_of_made_up_ranks_are_told_for_and_the_slow_rank_is_named(
    found: dict[str, Any],
) -> None:
    """In one message of each; one that tells for others is a real one."""
    told, leads = map(cells, scaling.node_tables([24], 9))

    (fan_in,), (leading,) = found["measure_fan_in"], found["measure_leading"]
    assert (fan_in["messages"], fan_in["named"]) == (3, True)
    assert 500 < fan_in["bytes"] / 3 < 4_000
    assert leading["cpu_s"] > 0
    assert [row[0] for row in (*told, *leads)] == ["24"] * 2


def test_real_ranks_have_their_line() -> None:
    """Two, for three seconds; each with its own clocks."""
    ((ranks, messages, *_, delay_s, most_s),) = cells(scaling.real_table([2], 3))

    assert (ranks, float(messages) > 0) == ("2", True)
    assert 0 < float(delay_s) <= float(most_s)
