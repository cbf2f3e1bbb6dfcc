"""Kills while a run is finishing."""

from __future__ import annotations

import pytest
from faults.checking import check

pytestmark = pytest.mark.server
FAMILIES = ("kills-finishing",)


def test_what_was_on_disk_arrives_once(faults_name: str, faults_seed: int) -> None:
    """Whoever is killed: each row that was on disk arrives once, and nothing stays behind."""
    check(faults_name, faults_seed)
