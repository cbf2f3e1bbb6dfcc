"""Steps with tokens, pauses and phases at random: the meter tells what adding up cells tells."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fasttrack.hotpath.records import PausedSince, PhaseMark, WithTokens
from fasttrack.worker.meters import StepMeter

NAMES = ("data", "forward", "others")
PAUSE = "pause"
CELL_S = 1 / 64  # exact as a float


@dataclass(frozen=True)
class Timeline:
    """What a loop does: blocks that hold one another, and steps, each in a cell of its own."""

    ticks: list[tuple[float, Any]]
    cells: list[frozenset[str]]
    """What is open in each cell of time."""
    steps: list[tuple[int, int]]
    """Of each step the cell before which it ends, and its tokens."""


@st.composite
def timelines(draw: st.DrawFn) -> Timeline:
    """Draw what happens between one cell and the next. Pauses hold no logged step."""
    ticks: list[tuple[float, Any]] = []
    cells: list[frozenset[str]] = []
    steps: list[tuple[int, int]] = []
    blocks: list[tuple[str, float]] = []
    for _ in range(draw(st.integers(5, 60))):
        now_s = len(cells) * CELL_S
        kind = draw(st.sampled_from(("step", "step", "begin", "end", PAUSE)))
        paused = any(name == PAUSE for name, _ in blocks)
        if kind == "step" and not paused:
            tokens = draw(st.integers(0, 1000))
            ticks.append((now_s, WithTokens(1, tokens)))
            steps.append((len(cells), tokens))
        elif kind == "begin":
            name = draw(st.sampled_from(NAMES))
            blocks.append((name, now_s))
            ticks.append((now_s, PhaseMark(name, 1)))
        elif kind == PAUSE:
            blocks.append((PAUSE, now_s))
        elif kind == "end" and blocks:
            name, began_s = blocks.pop()
            ticks.append((now_s, PausedSince(began_s) if name == PAUSE else PhaseMark(name, -1)))
        for _ in range(draw(st.integers(1, 4))):
            cells.append(frozenset(name for name, _ in blocks))
    return Timeline(ticks, cells, steps)


@settings(max_examples=150, derandomize=True, deadline=None, database=None)
@given(timelines(), st.sampled_from((1, 2, 3, 10)))
def test_every_interval_is_what_its_cells_add_up_to(timeline: Timeline, interval: int) -> None:
    """Pauses, phases within them and without, over logged steps and over none."""

    def refuse(metric: str, why: str) -> None:
        raise AssertionError(f"{metric}: {why}")

    meter = StepMeter(lambda: 2, refuse, find_pauses=False)
    waiting: list[tuple[float, Any]] = []
    rows: list[dict[str, float]] = []
    numbers = itertools.count()
    for tick in timeline.ticks:
        waiting.append(tick)
        if type(tick[1]) is WithTokens and next(numbers) % interval == 0:
            rows.append(meter.measure(waiting))
            waiting = []

    assert rows[:1] in ([], [{}])
    logged = timeline.steps[::interval]
    for number, ((first, _), (last, _)) in enumerate(itertools.pairwise(logged)):
        row, cells = rows[number + 1], timeline.cells[first:last]
        trained = [cell for cell in cells if PAUSE not in cell]
        trained_s = len(trained) * CELL_S
        steps = timeline.steps[number * interval + 1 : (number + 1) * interval + 1]
        tokens = sum(each for _, each in steps)
        known = {name for cell in timeline.cells[:last] for name in cell} - {PAUSE}
        shares = {
            f"perf/phase_pct/{name}": 100 * sum(name in cell for cell in trained) / len(trained)
            for name in known
        }

        assert row.get("perf/pause_s", 0.0) == pytest.approx((len(cells) - len(trained)) * CELL_S)
        assert row["perf/tokens_per_sec"] == pytest.approx(2 * tokens / trained_s)
        assert row["perf/steps_per_sec"] == pytest.approx(interval / trained_s)
        found = {name: row[name] for name in row if name.startswith("perf/phase_pct/")}
        assert found == pytest.approx(shares)
