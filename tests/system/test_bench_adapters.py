"""`python -m bench.adapters` end to end, tiny; what it measures means nothing here."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest
from support.snippets import ROOT

from bench.adapters.calls import in_trainings

if TYPE_CHECKING:
    from bench.adapters.calls import Taken

_LINES = {
    "transformers": "of it the call that logs, `on_log`",
    "accelerate": "`accelerator.log` of 3 values, p50, limit 20 us",
    "lightning": "of it the call that logs, `log_metrics`",
    "deepspeed": "DeepSpeed's monitor, one event, `write_events`",
}
"""One that each framework's package brings."""


@pytest.mark.usefixtures("quick_end")
def test_every_framework_that_is_installed_is_measured() -> None:
    """Ours and its own both get something to do."""
    result = subprocess.run(
        [sys.executable, "-m", "bench.adapters", "--quick", "--steps", "20"],
        capture_output=True,
        text=True,
        check=True,
        timeout=240,
        cwd=ROOT,
    )
    lines = [line.strip("| ").split(" | ") for line in result.stdout.splitlines()]
    found = {line[0]: line[1:] for line in lines}

    missing = [package for package in _LINES if find_spec(package) is None]
    assert result.stdout.count("not installed, skipped") == len(missing)
    for package in _LINES.keys() - set(missing):
        ours, theirs, _ = (float(cell.replace(",", "")) for cell in found[_LINES[package]])
        assert ours > 0, package
        assert theirs > 0, package


def test_a_step_that_is_logged_counts_as_often_as_it_comes() -> None:
    """Its calls take longer than those of the others."""

    def train(every: int, first: bool) -> tuple[Taken, Taken]:
        each = ([1e-6] * (every - 1) + [11e-6]) * 20
        return {"each": each, "log": [5e-6] * (200 // every)}, {"log": [100e-6] * 20}

    every_step, every_tenth, log = in_trainings("Trainer", ("log",), train, quick=False)

    assert every_step.ours_us == pytest.approx([16, 16])
    assert every_step.theirs_us == pytest.approx([100, 100])
    assert every_tenth.ours_us == pytest.approx([2.5, 2.5])
    assert every_tenth.theirs_us == pytest.approx([10, 10])
    assert log.ours_us == pytest.approx([5] * 4)
