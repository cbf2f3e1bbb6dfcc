"""What the hot path may never do, as exact gates: lock, ask the system, import wandb, or grow."""

from __future__ import annotations

import json
import re
from importlib.metadata import packages_distributions, requires
from itertools import pairwise

import pytest
from support.runs import run_script
from support.system_calls import why_not

_HEAP = {  # whole chunks from the system before the trap, none after; nothing given back
    "PYTHONMALLOC": "malloc",
    "MALLOC_TOP_PAD_": str(64 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
}


def test_no_call_of_the_training_loop_takes_a_lock_or_may_wait() -> None:
    """Of all C functions that the calls lead to, none is a lock's, the system's, or sleep.

    Gradients too large to be normed inline are the exception: they wake the worker.
    """
    result = run_script(
        """
        from support.push_path import forbidden_calls, resting_tracker, training_calls

        for capture in ("snapshot", "reference"):
            with resting_tracker(capture=capture) as tracker:
                calls = training_calls(tracker)

                def train(steps):
                    for step in steps:
                        for call in calls:
                            call(step)

                train([0])
                print(forbidden_calls(lambda: train(range(1, 300))) or "none")
                assert forbidden_calls(tracker.flush)  # or the instrument is blind
            assert tracker.stats().rows_written == 600
        """,
    )

    assert result.stdout == "none\nnone\n"


@pytest.mark.skipif(why_not() is not None, reason=why_not() or "")
def test_no_call_of_the_training_loop_makes_a_system_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of calls behind a filter that lets nothing through to the kernel."""
    for name, value in _HEAP.items():
        monkeypatch.setenv(name, value)

    result = run_script(
        """
        import os

        from support.push_path import rest, resting_tracker, training_calls
        from support.system_calls import trap_system_calls

        trackers = [resting_tracker(capture=capture) for capture in ("snapshot", "reference")]
        calls = [call for tracker in trackers for call in training_calls(tracker)]

        def train():
            for step in range(1000):
                for call in calls:
                    call(step)

        train()
        rest(*trackers)
        trap_system_calls()
        train()
        os._exit(any(tracker.stats().rows_written != 2000 for tracker in trackers))
        """,
        check=False,
        fresh=True,
    )

    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.skipif(why_not() is not None, reason=why_not() or "")
def test_the_trap_shows_who_made_a_system_call() -> None:
    """The gate above can fail: each kind of call is seen, with its line."""
    result = run_script(
        """
        import contextlib, os, time

        from support.system_calls import trap_system_calls

        def culprit_that_asks():
            os.getppid()

        def culprit_that_sleeps():
            with contextlib.suppress(OSError):
                time.sleep(0)

        def culprit_that_writes():
            with contextlib.suppress(OSError):
                os.write(1, b"x")

        trap_system_calls()
        culprit_that_asks()
        culprit_that_sleeps()
        culprit_that_writes()
        os._exit(0)
        """,
    )

    assert result.stdout == ""
    for deed in ("asks", "sleeps", "writes"):
        assert f"in culprit_that_{deed}\n" in result.stderr


def test_training_never_imports_wandb_nor_what_wandb_needs() -> None:
    """After a whole run, `finish()` included, none of it is in `sys.modules`."""
    needed = {
        re.split(r"[^\w.-]", line, maxsplit=1)[0].lower()
        for line in requires("wandb") or []
        if "extra ==" not in line
    }
    theirs = {
        module
        for module, packages in packages_distributions().items()
        if {package.lower() for package in packages} & needed
    }
    assert {"pydantic", "requests", "google"} <= theirs
    theirs -= {"typing_extensions", "yaml"}  # torch's as well, and ours

    result = run_script(
        """
        import json, sys

        from support.runs import make_tracker, train_with_everything

        with make_tracker() as tracker:
            train_with_everything(tracker, 20, [])
            tracker.log_config({"lr": 0.1})
        assert tracker.stats().rows_delivered == 20
        print(json.dumps(sorted(sys.modules)))
        """,
        fresh=True,
    )

    loaded = {name.partition(".")[0] for name in json.loads(result.stdout)}
    assert sorted(loaded & (theirs | {"wandb", "sentry_sdk", "git"})) == []


def test_a_logged_step_allocates_the_same_for_ever_and_keeps_nothing() -> None:
    """Each step adds as many memory blocks as the one before; written rows leave none behind."""
    result = run_script(
        """
        import gc, itertools, json, sys, tracemalloc

        from support.push_path import rest, resting_tracker, training_calls

        numbers = itertools.count()

        def train(tracker, steps, drain_every):
            calls = training_calls(tracker)
            for number in itertools.islice(numbers, steps):
                for call in calls:
                    call(number)
                if number % drain_every == 0:
                    tracker.flush()

        def blocks():
            gc.collect()
            return sys.getallocatedblocks()

        training_calls(None)  # with its first optimizer torch imports much
        # Before the tracker: of what is in the interpreter's free lists it knows nothing.
        tracemalloc.start()
        kept = []
        with resting_tracker() as tracker:
            for steps in (1000, 500, 1000):  # in the first, what has a limit fills up
                train(tracker, steps, drain_every=200)
                rest(tracker)
                kept.append((blocks(), tracemalloc.get_traced_memory()[0]))
            assert tracker.stats().rows_written == 5000
        tracemalloc.stop()

        waiting = []
        with resting_tracker() as tracker:
            train(tracker, 1000, drain_every=200)
            for _ in range(4):
                train(tracker, 300, drain_every=10**9)
                waiting.append(blocks())
        print(json.dumps([waiting, kept]))
        """,
        fresh=True,
    )

    waiting, kept = json.loads(result.stdout)
    per_step = [round((later - earlier) / 300, 1) for earlier, later in pairwise(waiting)]
    assert per_step[0] > 2
    assert len(set(per_step)) == 1
    for blocks, size_bytes in kept[1:]:
        assert blocks - kept[0][0] < 40
        assert size_bytes - kept[0][1] < 4096
