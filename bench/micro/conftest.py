"""How a part is timed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from pytest_benchmark.fixture import BenchmarkFixture

    Measure: TypeAlias = Callable[..., Any]


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
