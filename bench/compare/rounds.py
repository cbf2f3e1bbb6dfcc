"""Ways of logging beside each other: one process per way and round, interleaved.

Every round runs every way once, in an order shuffled anew (from a fixed seed), each in a process of
its own (child.py). A ratio is taken within its round and then the median over the rounds, so that a
slow minute of the machine meets all ways alike. Even so processes differ by 5% on small machines:
for fasttrack's own share of a step, `bench.overhead` is the finer instrument.
"""

from __future__ import annotations

import contextlib
import random
import statistics
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.compare import child
from bench.compare.child import KINDS
from bench.lib.processes import busy_process, call_in_new_process

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypeAlias

    Figures: TypeAlias = dict[str, Any]

BASELINE = "none"
DESCRIPTIONS = {key: kind.description for key, kind in KINDS.items()}
_SEED = 20
_CHILD_TIMEOUT_S = 300.0


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What every way is measured with."""

    step_ms: str
    """Key of `SIZES` in lib/workload.py."""
    metrics: int
    steps: int
    """At most, in each measured loop."""
    limit_s: float
    """The loop ends after it, too: some trackers' call takes longer than many steps."""
    rounds: int
    ways: tuple[str, ...] = tuple(DESCRIPTIONS)
    busy: bool = False
    """Whether another process keeps a core busy meanwhile."""

    def title(self) -> str:
        """Return what distinguishes it from others."""
        beside = ", beside a busy process" if self.busy else ""
        return f"step of about {self.step_ms} ms, {self.metrics} metrics per step{beside}"


_MAIN_ONLY = (
    "fasttrack-reference",
    "fasttrack-thread",
    "fasttrack-training",
    "fasttrack-grads",
    "mlflow-async",
)
_FEWER = tuple(key for key in DESCRIPTIONS if key not in _MAIN_ONLY)
SCENARIOS = {
    "1ms-5": Scenario(step_ms="1", metrics=5, steps=4000, limit_s=5, rounds=5),
    "0.1ms-5": Scenario(step_ms="0.1", metrics=5, steps=10_000, limit_s=2, rounds=3, ways=_FEWER),
    "20ms-5": Scenario(step_ms="20", metrics=5, steps=100, limit_s=3, rounds=3, ways=_FEWER),
    "1ms-50": Scenario(step_ms="1", metrics=50, steps=1500, limit_s=2, rounds=3, ways=_FEWER),
    "1ms-500": Scenario(step_ms="1", metrics=500, steps=1000, limit_s=2, rounds=3, ways=_FEWER),
}
"""The first is the main one; the others vary the step's length, then the number of metrics."""

QUICK = Scenario(
    step_ms="1",
    metrics=5,
    steps=1000,
    limit_s=2,
    rounds=1,
    ways=tuple(key for key in _FEWER if key not in ("swanlab", "aim", "comet")),
)


class Result:
    """What a scenario's rounds gave: for each way a list of figures, None where a child failed."""

    def __init__(self, scenario: Scenario, keys: Sequence[str]) -> None:
        """Hold no rounds yet."""
        self.scenario = scenario
        self.rounds: dict[str, list[Figures | None]] = {key: [] for key in keys}
        self.failures: list[str] = []

    def measured(self) -> list[str]:
        """Return the ways that have figures to be compared."""
        return [key for key in self.rounds if self.pairs(key)]

    def pairs(self, key: str) -> list[tuple[Figures, Figures]]:
        """Return, for each round that has both, the figures of a way and of no logging."""
        return self.beside(key, BASELINE)

    def beside(self, key: str, other: str) -> list[tuple[Figures, Figures]]:
        """Return, for each round that has both, the figures of two ways; none were not run."""
        both = zip(self.rounds.get(key, ()), self.rounds.get(other, ()), strict=False)
        return [(own, theirs) for own, theirs in both if own and theirs]

    def ratios(self, key: str, name: str) -> list[float]:
        """Return each round's figure over that of no logging."""
        return [own[name] / base[name] for own, base in self.pairs(key)]

    def above(self, key: str, name: str) -> float:
        """Return the median, over the rounds, of the figure less that of no logging."""
        return float(statistics.median(own[name] - base[name] for own, base in self.pairs(key)))

    def median(self, key: str, name: str) -> float:
        """Return the median of a figure over the rounds."""
        return float(statistics.median(own[name] for own, _ in self.pairs(key)))

    def fewest_rows(self, key: str) -> tuple[int, int] | None:
        """Return (arrived, expected) of the worst round; None where none are written."""
        counted = [
            (own["rows_arrived"], own["rows_expected"])
            for own, _ in self.pairs(key)
            if own["rows_arrived"] is not None
        ]
        return min(counted, key=lambda rows: rows[0] / rows[1]) if counted else None


def run(scenario: Scenario, keys: Sequence[str]) -> Result:
    """Measure `keys` in as many rounds as the scenario has; says on stderr where it is.

    A child that fails costs its figures and no more.
    """
    result = Result(scenario, keys)
    with busy_process() if scenario.busy else contextlib.nullcontext():
        _run_rounds(result)
    return result


def _run_rounds(result: Result) -> None:
    shuffler = random.Random(_SEED)
    scenario, keys = result.scenario, list(result.rounds)
    for number in range(1, scenario.rounds + 1):
        for key in shuffler.sample(keys, len(keys)):
            where = f"{scenario.title()}, round {number}/{scenario.rounds}: {key}"
            print(where, file=sys.stderr, flush=True)
            figures: Figures | None = None
            try:
                figures = call_in_new_process(
                    child.measure,
                    key,
                    scenario.step_ms,
                    scenario.metrics,
                    scenario.steps,
                    scenario.limit_s,
                    timeout_s=_CHILD_TIMEOUT_S,
                )
            except RuntimeError as error:
                result.failures.append(f"{where}: {error}")
                print(f"{where} failed: {error}", file=sys.stderr, flush=True)
            result.rounds[key].append(figures)
