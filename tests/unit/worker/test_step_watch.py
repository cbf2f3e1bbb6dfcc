"""The first step whose loss is no finite number: exact, whatever the interval, and nobody waits."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from support.journals import read_rows
from support.runs import run_script
from support.trackers import journal_only

from fasttrack import ConfigurationError, Options
from fasttrack.alerts.judge import Judge
from fasttrack.alerts.settings import AlertSettings
from fasttrack.hotpath.records import FIRST_NONFINITE_STEP
from fasttrack.hotpath.step_logger import StepLogger

if TYPE_CHECKING:
    from support.trackers import Trackers

    from fasttrack import ExperimentTracker

BAD = 47


def train(tracker: ExperimentTracker, bad: set[int], steps: int = 100, **given: Any) -> list[Any]:
    """Train a real model whose loss is NaN at some steps; return step and loss of all rows."""
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(steps):
        loss = model(torch.ones(2, 4)).square().sum()
        if step in bad:
            loss = loss * math.nan
        tracker.log_training_step(loss, step, 2, optimizer, **given)
    tracker.finish()
    run_dir = tracker.get_run_dir()
    assert run_dir is not None
    return [(row.step, row.values) for row in read_rows(run_dir)]


@pytest.mark.parametrize("interval", [1, 7, 10])
def test_the_first_bad_step_is_exact_at_any_interval(
    interval: int, make: Trackers, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is a row of its own where it is not logged, in its place, and is said once."""
    tracker = make(options=journal_only(watch_nonfinite=True), log_interval=interval)
    rows = train(tracker, {BAD, BAD + 1, 50})

    told = [(s, v[FIRST_NONFINITE_STEP]) for s, v in rows if FIRST_NONFINITE_STEP in v]
    assert told == [(BAD, BAD)]
    steps = [step for step, _ in rows]
    assert steps == sorted({*range(0, 100, interval), BAD})
    assert math.isnan(dict(rows)[BAD]["loss/total"])
    said = capsys.readouterr().err
    assert said.count("the loss became nan") == 1
    assert f"the loss became nan at step {BAD}\n" in said
    assert "logged after step" not in said
    run_dir = tracker.get_run_dir()
    assert run_dir is not None
    alerts = Judge(AlertSettings(spike=False)).see(read_rows(run_dir))
    assert [alert.text for alert in alerts] == [f"loss/total became nan at step {BAD}"]


def test_the_last_steps_before_the_end_are_looked_at_and_a_second_time_is_news(
    make: Trackers,
) -> None:
    """Behind the last logged step no other follows; after 50 good steps it is bad anew."""
    tracker = make(options=journal_only(watch_nonfinite=True), log_interval=1000)
    rows = train(tracker, {2, 3, 20, 98, 99}, grad_norm=1.0)

    assert [(step, values.get(FIRST_NONFINITE_STEP)) for step, values in rows] == [
        (0, None),
        (2, 2),
        (98, None),
    ]


def test_by_default_nobody_looks_and_nothing_is_loaded() -> None:
    """The calls are as they were."""
    result = run_script(
        """
        import sys
        from support.runs import make_tracker
        from support.trackers import journal_only
        with make_tracker(options=journal_only()) as tracker:
            tracker.log_training_step(0.5, 0)
            print(type(tracker._logger).__name__, tracker._timed_from)
        ours = ("hotpath.trail", "hotpath.every_step", "worker.step_watch", "worker.flight")
        print([name for name in ours if f"fasttrack.{name}" in sys.modules])
        """
    )

    assert result.stdout == f"{StepLogger.__name__} 0\n[]\n"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"watch_nonfinite": "yes"}, "Options.watch_nonfinite must be one of True, False"),
        ({"flight_recorder": -1}, "Options.flight_recorder must be an integer of at least 0"),
        ({"flight_recorder": True}, "Options.flight_recorder must be an integer of at least 0"),
        ({"flight_recorder": 10**6}, "Options.flight_recorder must be at most 100000 steps"),
    ],
)
def test_what_is_wrong_is_said_by_its_option(given: dict[str, Any], told: str) -> None:
    """Before anything runs."""
    with pytest.raises(ConfigurationError, match=told):
        Options(**given)


_ON_DEVICE = """
import json, threading, torch
from support import toy_streams as toy
kept = toy.install()
from support.journals import read_rows
from support.runs import make_tracker
from support.trackers import journal_only

told = {}
for interval in (1, 7, 10, 1000):
    options = journal_only(watch_nonfinite=True, flush_interval_s=3600)
    tracker = make_tracker(options=options, log_interval=interval)
    loss = torch.ones(()).to("toy")
    toy.Queue.standing = True  # from here on, whoever waits on this thread gets an exception
    for step in range(200):
        loss.fill_(float("nan") if step in (147, 148) else 0.5)
        tracker.log_training_step(loss, step)
        loss.zero_()  # the next step's
    toy.Queue.run()
    tracker.finish()
    rows = read_rows(tracker.get_run_dir())
    stats = tracker.stats()
    told[interval] = [
        [row.step for row in rows if "train/first_nonfinite_step" in row.values],
        [row.step for row in rows if row.values["loss/total"] != 0.5],
        [stats.refused, stats.failed_calls, stats.worker_errors, stats.out_of_order],
    ]

def go_on_when_asked(stream, number):  # by the worker: nobody else waits
    if stream.done < number:
        toy.Queue.run_only(stream)

toy.Queue.wait_for = go_on_when_asked
sides = [toy.Stream("toy"), toy.Stream("toy")]
base = torch.ones(()).to("toy")
for ends in ("here", "in another thread"):
    options = journal_only(watch_nonfinite=True, flush_interval_s=3600)
    tracker = make_tracker(options=options, log_interval=1000)
    toy.Queue.standing = True
    for step in range(1, 100):
        with toy.Queue.on(sides[step % 2]):  # for which the default one does not wait
            loss = base * (float("nan") if step == 97 else 0.5)
            tracker.log_training_step(loss, step)
    if ends == "here":
        tracker.finish()
    else:
        thread = threading.Thread(target=tracker.finish)
        thread.start()
        thread.join()
    toy.Queue.run()
    told[ends] = [row.step for row in read_rows(tracker.get_run_dir())]
print(json.dumps(told))
"""


def test_a_loss_on_a_device_is_looked_at_behind_the_trainers_back() -> None:
    """As it was at its step, though it is overwritten; the trainer's thread never waits.

    Nor is it read before the streams that it was logged on have come to it, whatever stream and
    thread end the run.
    """
    told = json.loads(run_script(_ON_DEVICE, warnings="default").stdout)

    assert (told.pop("here"), told.pop("in another thread")) == ([97], [97])
    bad = {"1": [147, 148], "7": [147], "10": [147], "1000": [147]}
    assert told == {interval: [[147], steps, [0, 0, 0, 0]] for interval, steps in bad.items()}
