"""Calls with garbage, and journals that somebody has changed."""

from __future__ import annotations

import pytest
from faults.checking import check

pytestmark = pytest.mark.server
FAMILIES = ("garbage", "tampered")


def test_what_is_good_arrives(faults_name: str, faults_seed: int) -> None:
    """Nothing raises or hangs, and every whole row arrives once."""
    check(faults_name, faults_seed)
