"""Faults of the network while a run is finishing."""

from __future__ import annotations

import pytest
from faults.checking import check

pytestmark = pytest.mark.server
FAMILIES = ("network-finishing",)


def test_passing_trouble_is_survived(faults_name: str, faults_seed: int) -> None:
    """Whatever a request meets, each row arrives once in the end."""
    check(faults_name, faults_seed)
