"""`python -m bench.nodes` end to end, tiny; what it measures means nothing here."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from support.snippets import ROOT


@pytest.mark.usefixtures("quick_end")
def test_it_tells_what_samples_cost() -> None:
    """Every node is in the run."""
    options = ["--nodes", "4", "--seconds", "1", "--rounds", "1"]
    command = [sys.executable, "-m", "bench.nodes", *options]
    printed = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, timeout=120, cwd=ROOT
    )

    assert re.match(r"4 nodes: \d+ samples of 122 metrics; ", printed.stdout)
