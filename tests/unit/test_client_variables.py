"""Settings of W&B's client that scripts and agents bring along hold for the tracker too."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.journals import read_headers

from fasttrack import Options

if TYPE_CHECKING:
    from support.trackers import Trackers


def test_wandb_disabled_records_nothing(make: Trackers, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was ignored: a run was recorded, online."""
    monkeypatch.setenv("WANDB_DISABLED", "true")
    tracker = make(mode=None)

    assert not tracker.is_active()
    assert tracker.get_run_dir() is None


def test_dryrun_is_offline(make: Trackers, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's older word for it was refused as unknown."""
    monkeypatch.setenv("WANDB_MODE", "dryrun")
    run_dir = make(mode=None).get_run_dir()

    assert run_dir is not None
    assert [header.mode for header in read_headers(run_dir)] == ["offline"]


def test_console_off_captures_nothing(make: Trackers, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was printed became the run's console log all the same."""
    monkeypatch.setenv("WANDB_CONSOLE", "off")
    run_dir = make(options=Options(backends=("none",))).get_run_dir()

    assert run_dir is not None
    assert [header.console for header in read_headers(run_dir)] == [False]


def test_the_run_is_the_one_that_the_variable_names(
    make: Trackers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client took it, and rows went to another run than `get_run_id()` said."""
    monkeypatch.setenv("WANDB_RUN_ID", "job-17")

    assert make().get_run_id() == "job-17"


def test_a_trial_is_the_run_that_its_agent_names(
    make: Trackers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a sweep, too, and it says which."""
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep-1")
    monkeypatch.setenv("WANDB_RUN_ID", "trial-1")
    tracker = make()
    run_dir = tracker.get_run_dir()

    assert tracker.get_run_id() == "trial-1"
    assert run_dir is not None
    assert [header.sweep_id for header in read_headers(run_dir)] == ["sweep-1"]
