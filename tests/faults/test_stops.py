"""Processes that stand still, `fasttrack sync` that is killed, clocks that step."""

from __future__ import annotations

import pytest
from faults.checking import check

pytestmark = pytest.mark.server
FAMILIES = ("stops", "sync", "clock")


def test_whoever_stands_still_or_is_cut_off_goes_on(faults_name: str, faults_seed: int) -> None:
    """Nothing is lost, doubled or said wrongly, and nobody waits for ever."""
    check(faults_name, faults_seed)
