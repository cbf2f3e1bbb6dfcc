"""Full disks, directories that vanish or are read-only, limits."""

from __future__ import annotations

import pytest
from faults.checking import check

pytestmark = pytest.mark.server
FAMILIES = ("disk", "directories", "limits")


def test_what_was_kept_arrives_and_the_rest_is_counted(faults_name: str, faults_seed: int) -> None:
    """Training goes on, and what is lost is said."""
    check(faults_name, faults_seed)
