"""One run's id in two places."""

from __future__ import annotations

import pytest
from faults.checking import check

pytestmark = pytest.mark.server
FAMILIES = ("copies",)


def test_each_row_arrives_once_from_wherever(faults_name: str, faults_seed: int) -> None:
    """Two writers; copies that are synced elsewhere."""
    check(faults_name, faults_seed)
