"""What the tests of all families share."""

from __future__ import annotations

import pytest
from faults.catalogue import SCENARIOS
from faults.command import again
from faults.rig import run_one


def check(name: str, seed: int) -> None:
    """Run one seed of a scenario; fail unless what it promises holds."""
    scenario = SCENARIOS[name]
    outcome = run_one(scenario, seed)
    if outcome.skipped:
        pytest.skip(outcome.skipped)
    if scenario.promised:
        assert outcome.clean, "\n".join(["again: " + again(outcome), *outcome.remarks])
