"""Who names this directory wants its benchmarks run: `pytest bench`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Undo what pyproject.toml sets for the tests: no benchmarks, and distribution with `-n`.

    Here, not in micro/: pytest reads a folder's conftest.py this early only where it was named.
    """
    config.option.benchmark_skip = False
    if not config.getoption("tx", None):  # no `-n`: else `--dist` alone disables benchmarks
        config.option.dist = "no"
