"""How much is measured."""

from __future__ import annotations

from typing import NamedTuple


class Plan(NamedTuple):
    """How much a round measures, of each build."""

    rounds: int
    call_turns: int
    call_steps: int
    pair_turns: int
    burst_turns: int
    burst_steps: int
    backlog_rows: int
    memory_steps: int
    import_turns: int
    finish_rows: int
    start_s: float
    block_s: float
    cycles: int
    repeats: int
    """How often in a round long blocks are measured, with fresh processes each time."""


FULL = Plan(
    rounds=6,
    call_turns=40,
    call_steps=24,
    pair_turns=60,
    burst_turns=20,
    burst_steps=150,
    backlog_rows=20_000,
    memory_steps=2000,
    import_turns=6,
    finish_rows=2000,
    start_s=5.0,
    block_s=1.5,
    cycles=3,
    repeats=2,
)
QUICK = Plan(
    rounds=1,
    call_turns=6,
    call_steps=12,
    pair_turns=6,
    burst_turns=3,
    burst_steps=60,
    backlog_rows=1000,
    memory_steps=200,
    import_turns=2,
    finish_rows=200,
    start_s=1.0,
    block_s=0.4,
    cycles=1,
    repeats=1,
)
