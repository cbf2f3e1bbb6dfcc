"""What the micro-benchmarks share. Who names this directory wants them run: `pytest bench`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
import torch

from bench.workload import five_scalars
from fasttrack.hotpath.capture import Capture

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from pytest_benchmark.fixture import BenchmarkFixture

    from fasttrack.hotpath.records import RawRecord

    Measure: TypeAlias = Callable[..., Any]

ROWS = 32  # of one reading in the worker's benchmarks


def pytest_configure(config: pytest.Config) -> None:
    """Undo what pyproject.toml sets for the tests: no benchmarks, and distribution with `-n`."""
    config.option.benchmark_skip = False
    if not config.getoption("tx", None):  # no `-n`: else `--dist` alone disables benchmarks
        config.option.dist = "no"


@pytest.fixture
def measure(benchmark: BenchmarkFixture) -> Measure:
    """Time a function: `measure(function, *arguments, of=1, prepare=None, rounds=500)`.

    Saved results have `per_one_us` in their extra_info: the median over `of`, the number of calls,
    rows or pushes in one reading. With `prepare` each of the `rounds` readings is one call on what
    that returned, a tuple of arguments; making it is not timed.
    """

    def run(
        function: Callable[..., Any],
        *arguments: Any,
        of: int = 1,
        prepare: Callable[[], tuple[Any, ...]] | None = None,
        rounds: int = 500,
    ) -> Any:
        if prepare is None:
            result = benchmark(function, *arguments)
        else:
            result = benchmark.pedantic(  # type: ignore[no-untyped-call]
                function, setup=lambda: (prepare(), {}), rounds=rounds, warmup_rounds=5
            )
        if benchmark.stats is not None:  # with --benchmark-disable there is nothing to tell
            benchmark.extra_info["per_one_us"] = benchmark.stats.stats.median * 1e6 / of
        return result

    return run


def refuse(metric: str, why: str) -> None:
    """Fail: everything that is benchmarked can be logged."""
    raise AssertionError(f"{metric}: {why}")


def make_records(capture: Capture) -> list[RawRecord]:
    """Return `ROWS` records of five scalars, as `ExperimentTracker.log_metrics` pushes them."""
    records = []
    for step in range(ROWS):
        values: dict[str, Any] = dict(five_scalars(torch.tensor(0.5), step))
        pending = capture.mapping(values, refuse)
        records.append((step, time.time(), values, pending, None, None, ()))
    return records
