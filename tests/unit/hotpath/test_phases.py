"""`tokens=`, `tracker.phase()` and `tracker.data()`: what they leave, and what they may not do."""

from __future__ import annotations

import gc
import itertools
import json
import threading
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from support.runs import run_script
from support.step_loggers import Bench
from support.trackers import HANG_GUARD_S, Trackers, journal_only, written_values

from fasttrack.hotpath import pause, phases, step_logger
from fasttrack.hotpath.records import MOST_TICKS, FellOut, OddSize, PhaseMark, WithTokens
from fasttrack.quick_calls import QuickCalls
from fasttrack.timing_calls import TimingCalls


def sizes(bench: Bench) -> list[list[Any]]:
    """Return what is noted of how much was in the steps of each logged one."""
    return [[size for _, size in record[4]] for record in bench.pop() if record[4] is not None]


class Tracker(QuickCalls, TimingCalls):
    """What of a tracker has to do with phases."""


def a_tracker_of(bench: Bench) -> Tracker:
    """Return a tracker whose calls go where the bench's go."""
    tracker = Tracker()
    tracker._logger, tracker._phases = bench.logger, bench.hot._phases
    return tracker


class Clock:
    """A clock that is set by hand, in place of the one that the calls read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Begin at 100 s."""
        self.now_s = 100.0
        for module in (phases, pause, step_logger):
            monkeypatch.setattr(module, "perf_counter", lambda: self.now_s)


# --- tokens ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [0, 3])
@pytest.mark.parametrize("interval", [1, 4])
def test_tokens_of_every_step_are_noted_from_the_first_call_on(interval: int, first: int) -> None:
    """Also of steps that are not logged, which the quick way would take."""
    bench = Bench(log_interval=interval)
    for step in range(first, 100):
        bench.log(step, batch_size=2, tokens=step)

    noted = [size for group in sizes(bench) for size in group]
    assert noted == [WithTokens(2, step) for step in range(first, 100)][: len(noted)]
    assert len(noted) >= 96 - first


def test_steps_without_tokens_go_the_quick_way_again() -> None:
    """At the second such step at the latest."""
    bench = Bench(log_interval=1000)
    for step in range(1, 40):
        bench.log(step, batch_size=2, tokens=7)
    long_way, steps = bench.logger.training_step, itertools.count()

    def count(*args: Any, **given: Any) -> None:
        next(steps)
        long_way(*args, **given)

    bench.hot._logger = type("Counting", (), {"training_step": staticmethod(count)})()
    for step in range(40, 56):
        bench.log(step, batch_size=2)

    assert next(steps) <= 2


def test_only_some_calls_with_tokens_are_timed() -> None:
    """As of those without."""
    bench = Bench(log_interval=10_000)
    for step in range(1, 341):
        bench.log(step, tokens=1)

    assert len(bench.calls.timed) == 20


@pytest.mark.parametrize(
    ("passed", "kept"),
    [
        (7, 7),
        (7.5, 7.5),
        (np.int64(7), 7),
        (torch.tensor(7), 7),
        (torch.tensor([7.0], requires_grad=True), 7.0),
        (torch.ones(2), OddSize("Tensor")),
        (torch.ones((), device="meta"), OddSize("Tensor")),
        ("7", OddSize("str '7'")),
    ],
    ids=range(8),
)
def test_a_number_of_tokens_is_read_only_in_the_hosts_memory(passed: Any, kept: Any) -> None:
    """On a device that would wait; a batch of them is not kept."""
    bench = Bench(log_interval=1)
    bench.log(0, tokens=passed)

    ((noted,),) = sizes(bench)
    assert noted == WithTokens(None, kept)
    assert type(noted.tokens) is type(kept) or isinstance(passed, np.integer)


def test_a_batch_that_is_passed_as_its_size_beside_tokens_is_not_kept() -> None:
    """It may be large; and thousands of calls are not looked through again at each."""
    bench = Bench(log_interval=10**6)
    batch = torch.ones(4, 4)
    kept = weakref.ref(batch)
    bench.hot._timed_from = 10**6
    for step in range(1, 50):
        bench.log(step, batch_size=batch)
    bench.hot._timed_from = 0
    for step in range(50, 200):
        bench.log(step, batch_size=batch, tokens=3)
    del batch
    gc.collect()

    assert kept() is None
    assert len(bench.hot._ticks) == 199


def test_tokens_on_a_device_are_refused_by_name(
    make: Trackers, capsys: pytest.CaptureFixture[str]
) -> None:
    """All else of the row is there."""
    tracker = make()
    for step in range(3):
        tracker.log_training_step(0.5, step, 8, tokens=torch.ones((), device="meta"))

    rows = written_values(tracker)
    assert all("perf/samples_per_sec" in row for row in rows[1:])
    assert not any("perf/tokens_per_sec" in row for row in rows)
    assert capsys.readouterr().err.count("perf/tokens_per_sec: tokens must be") == 1


@pytest.mark.parametrize("options", [{"watch_nonfinite": True}, {"flight_recorder": 8}], ids=str)
def test_runs_that_look_at_every_step_count_its_tokens(
    make: Trackers, options: dict[str, Any]
) -> None:
    """Their unlogged steps go another way."""
    tracker = make(log_interval=4, options=journal_only(**options))
    for step in range(3, 50):
        tracker.log_training_step(torch.tensor(0.5), step, 4, tokens=100 + step)

    rows = [row for row in written_values(tracker) if "perf/tokens_per_sec" in row]
    assert len(rows) == 12
    ratios = [row["perf/tokens_per_sec"] / row["perf/steps_per_sec"] for row in rows]
    # The first interval is of one step; the others end with steps 8, 12, ...
    assert ratios == pytest.approx([104.0, *(102.5 + 4 * number for number in range(1, 12))])


# --- phases ---------------------------------------------------------------------------------------


def test_phases_and_tokens_are_in_the_row_by_the_clock_of_the_calls(
    monkeypatch: pytest.MonkeyPatch, make: Trackers
) -> None:
    """Two steps an interval: waits of 1 and 2 of 10 s, an evaluation of 100 s, 300 tokens each."""
    clock = Clock(monkeypatch)
    tracker = make(log_interval=2)

    def batches(*waits_s: float) -> Any:
        for wait_s in waits_s:
            clock.now_s += wait_s
            yield wait_s

    data = tracker.data(batches(1.0, 1.0, 2.0, 1.0, 2.0))
    for step, wait_s in enumerate(data):
        clock.now_s += 10.0 - wait_s
        if step == 3:
            with tracker.pause():
                for _ in tracker.data(batches(40.0, 60.0)):
                    pass
        tracker.log_training_step(0.5, step, 4, tokens=300, grad_norm=1.0)

    rows = written_values(tracker)
    assert "perf/tokens_per_sec" not in rows[0]
    for row, paused_s in zip(rows[1:], (0.0, 100.0), strict=True):
        assert row["perf/tokens_per_sec"] == pytest.approx(30.0)
        assert row["perf/samples_per_sec"] == pytest.approx(0.4)
        assert row["perf/phase_pct/data"] == pytest.approx(15.0)
        assert row.get("perf/pause_s", 0.0) == pytest.approx(paused_s)


def test_a_loaders_batches_come_as_they_are_and_are_not_kept() -> None:
    """`del batch` frees it, as in a loop without us."""
    bench = Bench()
    hot = a_tracker_of(bench)
    seen = []

    class Batch:
        """Something that can be watched."""

    for batch in hot.data(Batch() for _ in range(3)):
        seen.append(weakref.ref(batch))
        del batch
        assert seen[-1]() is None

    assert len(seen) == 3
    changes = [mark.change for _, mark in bench.hot._ticks]
    assert changes == [1, -1] * 5  # the iterator's start, three batches, and the end


def test_what_a_loader_raises_is_raised_and_ends_the_phase() -> None:
    """So does what a block raises."""
    bench = Bench()
    hot = a_tracker_of(bench)

    def broken() -> Any:
        yield 1
        raise KeyError("torn")

    with pytest.raises(KeyError, match="torn"):
        list(hot.data(broken()))
    with pytest.raises(ZeroDivisionError), a_tracker_of(bench).phase("forward"):
        _ = 1 / 0

    assert sum(mark.change for _, mark in bench.hot._ticks) == 0


def test_what_a_handler_raises_as_a_block_begins_leaves_no_phase_open() -> None:
    """Ctrl-C in a notebook, whose run goes on."""
    bench = Bench()

    class Ticks(list[Any]):
        """As if a signal came just behind the note."""

        def append(self, tick: Any) -> None:
            super().append(tick)
            if tick[1].change == 1:
                raise KeyboardInterrupt

    ticks = Ticks()
    phase = phases.Phase("data", ticks)
    with pytest.raises(KeyboardInterrupt), phase:
        raise AssertionError

    assert [mark.change for _, mark in ticks] == [1, -1]
    assert bench.hot._ticks == []


@pytest.mark.parametrize("name", ["", "x" * 65, 5, None, ["data"], b"data"], ids=range(6))
def test_what_is_no_name_is_said_and_the_block_runs(
    capsys: pytest.CaptureFixture[str], name: Any
) -> None:
    """Nothing raises into training."""
    bench = Bench()
    ran = []
    for _ in range(2):
        with a_tracker_of(bench).phase(name):
            ran.append(True)

    assert len(ran) == 2
    assert bench.hot._ticks == []
    assert bench.notices.counts()["refused"] == 2
    assert capsys.readouterr().err.count("phase: its name must be text") == 1


def test_there_are_only_so_many_names(capsys: pytest.CaptureFixture[str]) -> None:
    """One for each step would be a metric for each."""
    bench = Bench()
    for number in range(1000):
        with a_tracker_of(bench).phase(f"step {number}"):
            pass

    assert len({mark.name for _, mark in bench.hot._ticks}) == 32
    assert "give those of all steps the same names" in capsys.readouterr().err


def test_phases_that_nobody_takes_do_not_fill_the_memory() -> None:
    """A loop that calls no `log_training_step`."""
    bench = Bench()
    phase = a_tracker_of(bench).phase("data")
    for _ in range(MOST_TICKS):
        with phase:
            pass

    assert len(bench.hot._ticks) <= MOST_TICKS
    assert bench.hot._ticks[0][1] is FellOut
    assert type(bench.hot._ticks[-1][1]) is PhaseMark


def test_phases_may_end_while_the_worker_takes_what_was_noted() -> None:
    """All of it, between one look and the next: nothing is raised into the block."""

    class Taken(list[Any]):
        """One that the worker empties as soon as its length is known."""

        def __len__(self) -> int:
            self.clear()
            return MOST_TICKS

    with phases.Phase("data", Taken()):
        pass


def test_phases_of_several_threads_come_to_one_row(make: Trackers) -> None:
    """A loader's thread, too, may say what it does."""
    tracker = make()
    tracker.log_training_step(0.5, 0)
    inside, leave = threading.Event(), threading.Event()

    def load() -> None:
        with tracker.phase("data"):
            inside.set()
            assert leave.wait(HANG_GUARD_S)

    thread = threading.Thread(target=load)
    thread.start()
    assert inside.wait(HANG_GUARD_S)
    with tracker.phase("data"), tracker.phase("forward"):
        pass
    tracker.log_training_step(0.5, 1)
    leave.set()
    thread.join(HANG_GUARD_S)
    tracker.log_training_step(0.5, 2)
    tracker.log_training_step(0.5, 3)

    rows = written_values(tracker)
    assert rows[1]["perf/phase_pct/data"] > rows[1]["perf/phase_pct/forward"] > 0
    assert rows[2]["perf/phase_pct/data"] > 0
    assert rows[3]["perf/phase_pct/data"] == 0.0


@pytest.mark.parametrize("finished", [True, False])
def test_a_tracker_that_does_not_record_has_no_phases(finished: bool, make: Trackers) -> None:
    """Disabled, or finished: blocks run, and batches come."""
    tracker = make(enabled=finished)
    tracker.finish()
    with tracker.phase("data"), tracker.phase(""):
        ran = True
    with pytest.raises(KeyError), tracker.phase("data"):
        raise KeyError("x")

    assert ran
    assert list(tracker.data([1, 2, 3])) == [1, 2, 3]
    assert (tracker.stats().late_calls, tracker.stats().refused) == (0, 0)
    tracker.log_training_step(0.5, 0, tokens=5)


def test_the_new_calls_take_no_lock_and_keep_nothing() -> None:
    """Phases, a loader's batches, tokens at logged steps and others: as the gates have it."""
    result = run_script(
        """
        import gc, itertools, json, sys

        from support.push_path import forbidden_calls, rest, resting_tracker

        with resting_tracker() as tracker:
            steps = itertools.count()

            def train(number):
                for batch in tracker.data(range(number)):
                    with tracker.phase("forward"), tracker.phase("inner"):
                        pass
                    tracker.log_training_step(0.5, next(steps), 32, tokens=100)

            train(200)
            print(sorted(forbidden_calls(lambda: train(200))))
            kept = []
            for steps_between in (2500, 500, 1000):  # in the first, what has a limit fills up
                train(steps_between)
                rest(tracker)
                gc.collect()
                kept.append(sys.getallocatedblocks())
            print(json.dumps([later - kept[0] for later in kept[1:]]))
            print(len(tracker._ticks))
        """,
        fresh=True,
    )

    forbidden, kept, waiting = result.stdout.splitlines()
    assert forbidden == "[]"
    assert max(json.loads(kept)) < 40
    assert int(waiting) < 100
