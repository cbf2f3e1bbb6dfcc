"""Signals, once and twice, with and without a handler of the script's."""

from __future__ import annotations

import pytest
from faults.checking import check

pytestmark = pytest.mark.server
FAMILIES = ("signals",)


def test_the_script_ends_as_it_would_without_us(faults_name: str, faults_seed: int) -> None:
    """What was logged is kept and arrives."""
    check(faults_name, faults_seed)
