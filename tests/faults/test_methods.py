"""Children that multiprocessing starts, by every method."""

from __future__ import annotations

import pytest
from faults.checking import check

pytestmark = pytest.mark.server
FAMILIES = ("methods",)


def test_a_child_leaves_its_rows_and_its_exit_code(faults_name: str, faults_seed: int) -> None:
    """Whether it finishes, returns, raises or exits."""
    check(faults_name, faults_seed)
