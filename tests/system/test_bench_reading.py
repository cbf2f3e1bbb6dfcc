"""`python -m bench.reading` end to end, tiny; what it measures means nothing here."""

from __future__ import annotations

import subprocess
import sys

import pytest
from support.snippets import ROOT


@pytest.mark.usefixtures("quick_end")
def test_every_figure_is_there() -> None:
    """Also where the runs are short."""
    options = ["--rows", "300", "--runs", "3", "--rounds", "1"]
    result = subprocess.run(
        [sys.executable, "-m", "bench.reading", *options],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        cwd=ROOT,
    )
    lines = [line.split(" | ")[0] for line in result.stdout.splitlines()]

    assert "| 300 rows of 1: the last 50 into Arrow" in lines
    assert "| 300 rows of 5: all into Arrow" in lines
    assert "| 300 rows of 5: a page for a browser" in lines
    assert "| 300 rows of 5: the page's size" in lines
    assert "| a picture of 3 runs of 30 rows, the first time" in lines
