"""Checkpoints that are rotated, cut, overwritten or deleted after they were logged."""

from __future__ import annotations

import pytest
from faults.checking import check

pytestmark = pytest.mark.server
FAMILIES = ("checkpoints",)


def test_each_version_is_what_was_logged(faults_name: str, faults_seed: int) -> None:
    """Whatever becomes of the trainer's own file."""
    check(faults_name, faults_seed)
