"""Which scenarios and seeds the tests run."""

from __future__ import annotations

import pytest
from faults.catalogue import SCENARIOS


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--faults-seeds`, for `pytest tests/faults`."""
    help_text = "seeds of each fault scenario; default: the few of CI"
    parser.addoption("--faults-seeds", type=int, default=None, help=help_text)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make one test of each seed of each scenario of the module's `FAMILIES`."""
    if "faults_name" not in metafunc.fixturenames:
        return
    asked = metafunc.config.getoption("--faults-seeds", default=None)
    pairs = [
        pytest.param(name, seed, id=f"{name}-{seed}")
        for name, scenario in SCENARIOS.items()
        if scenario.family in metafunc.module.FAMILIES
        for seed in range(scenario.fast if asked is None else asked)
    ]
    metafunc.parametrize(("faults_name", "faults_seed"), pairs)
