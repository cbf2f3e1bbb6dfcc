"""What calls may never do where every step is looked at: lock, ask the system, wait, or grow."""

from __future__ import annotations

import json

import pytest
from support.runs import run_script
from support.system_calls import why_not


def test_a_step_that_is_kept_takes_no_lock_and_may_not_wait() -> None:
    """Nor one of a run that looks for bad losses only."""
    result = run_script(
        """
        from support.push_path import forbidden_calls, resting_tracker, training_calls

        for options in ({"watch_nonfinite": True}, {"flight_recorder": 50}):
            with resting_tracker(**options) as tracker:
                calls = training_calls(tracker)

                def train(steps):
                    for step in steps:
                        for call in calls:
                            call(step)

                train([0])
                print(forbidden_calls(lambda: train(range(1, 300))) or "none")
            assert tracker.stats().rows_written == 600
        """,
    )

    assert result.stdout == "none\nnone\n"


@pytest.mark.skipif(why_not() is not None, reason=why_not() or "")
def test_a_step_that_is_kept_makes_no_system_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind a filter that lets nothing through to the kernel."""
    heap = {"MALLOC_TOP_PAD_": str(64 * 2**20), "MALLOC_TRIM_THRESHOLD_": str(2**30)}
    for name, value in {**heap, "PYTHONMALLOC": "malloc"}.items():
        monkeypatch.setenv(name, value)

    result = run_script(
        """
        import os

        from support.push_path import rest, resting_tracker, training_calls
        from support.system_calls import trap_system_calls

        tracker = resting_tracker(flight_recorder=50)
        calls = training_calls(tracker)

        def train():
            for step in range(1000):
                for call in calls:
                    call(step)

        train()
        rest(tracker)
        trap_system_calls()
        train()
        os._exit(tracker.stats().rows_written != 2000)
        """,
        check=False,
        fresh=True,
    )

    assert (result.returncode, result.stderr) == (0, "")


def test_what_is_kept_does_not_grow() -> None:
    """Once the ring is full, a step that is not logged leaves no memory block behind."""
    result = run_script(
        """
        import gc, json, sys

        from support.push_path import rest, resting_tracker, training_calls

        with resting_tracker(flight_recorder=50) as tracker:
            logged, not_logged, _ = training_calls(tracker)
            kept = []
            for _ in range(3):
                for step in range(1500):
                    not_logged(step)
                logged(step)  # takes the clock readings of the others
                tracker.flush()
                rest(tracker)
                gc.collect()
                kept.append(sys.getallocatedblocks())
        print(json.dumps(kept))
        """,
    )

    _, before, after = json.loads(result.stdout)
    assert abs(after - before) < 100
