"""The flight recorder: the last steps at full rate, on disk when it matters."""

from __future__ import annotations

import json
import math
import signal
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from click.testing import CliRunner
from support.journals import read_entries
from support.runs import run_script, start_script
from support.trackers import journal_only

from fasttrack.cli.app import cli
from fasttrack.hotpath.records import LOSS
from fasttrack.hotpath.trail import SLACK, StepTrail
from fasttrack.journal.trouble import Flight
from fasttrack.notices import Notices
from fasttrack.runs.flights import read_flights
from fasttrack.worker.flight import FlightRecorder

if TYPE_CHECKING:
    from support.trackers import Trackers

    from fasttrack import ExperimentTracker

N = 25


def directory(tracker: ExperimentTracker) -> Path:
    """Return where the tracker's run lies."""
    run_dir = tracker.get_run_dir()
    assert run_dir is not None
    return run_dir


def read(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the head and the steps of a dump."""
    head, *steps = map(json.loads, path.read_text().splitlines())
    return head, steps


def train(tracker: ExperimentTracker, steps: range, bad: int | None = None) -> None:
    """Train a real model; its loss is NaN at the step `bad`."""
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in steps:
        loss = model(torch.ones(2, 4)).square().sum() * (math.nan if step == bad else 1.0)
        tracker.log_training_step(loss, step, 2, optimizer, extra={"noise": 0.5 * step})


@pytest.mark.parametrize("interval", [1, 10, 7])
def test_a_bad_loss_dumps_the_steps_that_led_to_it(interval: int, make: Trackers) -> None:
    """At full rate, with all that the calls were given; said in the journal and by `show`."""
    tracker = make(options=journal_only(flight_recorder=N), log_interval=interval)
    train(tracker, range(100), bad=68)
    tracker.finish()
    run_dir = directory(tracker)

    (dump,) = read_flights(run_dir)
    told = ("non_finite", "the loss became nan at step 68", 68, N, 1, 1)
    assert (dump.reason, dump.error, dump.step, dump.steps, dump.attempt, dump.number) == told
    head, steps = read(dump.path)
    assert (head["kind"], head["run_id"], head["unread"]) == ("flight", run_dir.name, 0)
    numbers = [step["step"] for step in steps]
    assert numbers == list(range(numbers[0], numbers[0] + N))
    assert 68 <= numbers[-1] <= 68 + N // 4
    for step in steps:
        number = step["step"]
        assert step["values"]["noise"] == 0.5 * number
        assert step["values"]["train/lr"] == 0.1
        assert (step["values"][LOSS] == "NaN") is (number == 68)
        assert step["logged"] is (number % interval == 0 or number == 68)
    for before, after in pairwise(steps):
        took_ms = (after["time"] - before["time"]) * 1e3
        assert after["step_time_ms"] == pytest.approx(took_ms, abs=1e-3)
    (entry,) = read_entries(run_dir, Flight)
    assert (entry.file, entry.step, entry.steps) == (dump.path.name, 68, N)
    shown = CliRunner().invoke(cli, ["show", str(run_dir)]).stdout
    said = f"non_finite at step 68: {dump.error}; the last 25 steps are in {dump.path.name}"
    assert f"1.1 {said}" in " ".join(shown.split())
    as_json = json.loads(CliRunner().invoke(cli, ["show", str(run_dir), "--json"]).stdout)
    assert as_json["flights"][0]["file"] == dump.path.name


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "out_of_memory"),
        (MemoryError("no more"), "out_of_memory"),
        (ValueError("api_key=sk-abcdefghijklmnop0123456789"), "exception"),
    ],
)
def test_an_exception_that_leaves_the_block_dumps(
    error: Exception, reason: str, make: Trackers
) -> None:
    """And goes on its way; what looks secret is redacted."""
    tracker = make(options=journal_only(flight_recorder=N), log_interval=10)

    def fail() -> None:
        with tracker:
            train(tracker, range(48))
            raise error

    with pytest.raises(type(error)):
        fail()

    (dump,) = read_flights(directory(tracker))
    assert (dump.reason, dump.step) == (reason, 47)
    assert (dump.error or "").startswith(type(error).__name__)
    assert "sk-abc" not in dump.path.read_text()
    assert [step["step"] for step in read(dump.path)[1]] == list(range(48 - N, 48))


def test_the_end_has_its_own_dump_with_the_last_rows_though_a_loss_went_bad_just_before(
    make: Trackers,
) -> None:
    """As where a program looks at its loss, and gives up."""
    tracker = make(options=journal_only(flight_recorder=N), log_interval=1)

    def fail() -> None:
        with tracker:
            train(tracker, range(30), bad=29)
            raise ArithmeticError("the loss is NaN")

    with pytest.raises(ArithmeticError):
        fail()

    dumps = read_flights(directory(tracker))
    assert [(dump.reason, dump.step) for dump in dumps] == [("non_finite", 29), ("exception", 29)]
    assert dumps[1].error == "ArithmeticError: the loss is NaN"
    assert [entry.number for entry in read_entries(directory(tracker), Flight)] == [1, 2]


def test_what_is_asked_for_at_the_end_waits_for_the_last_rows(tmp_path: Path) -> None:
    """A round that is under way when the run ends has not seen them."""
    recorder = FlightRecorder(N, StepTrail(N), tmp_path / "segment-0001.jsonl", Notices())
    recorder.ask_at_end(3, terminated=False)
    assert recorder.dump_if_asked() == []
    recorder.rows.append((7, 0.0, {}))

    (told,) = recorder.dump_if_asked(last=True)
    assert (told.reason, told.step) == ("exit_code", 7)
    assert recorder.dump_if_asked(last=True) == []


def test_a_run_that_ends_well_leaves_no_dump_and_few_steps_are_no_trouble(make: Trackers) -> None:
    """One that leaves because it was asked to ends well; a failed one says its code."""
    good, left, requeued, failed = (make(options=journal_only(flight_recorder=N)) for _ in range(4))
    for tracker in (good, left, requeued, failed):
        train(tracker, range(3))
    good.finish()
    left.finish(143, preempting=True)
    requeued.finish(75, preempting=True)  # near a time limit
    failed.finish(3)

    for tracker in (good, left, requeued):
        assert read_flights(directory(tracker)) == []
    (dump,) = read_flights(directory(failed))
    assert (dump.reason, dump.error, dump.steps) == ("exit_code", "exit code 3", 3)


def test_there_are_few_dumps_none_is_large_and_the_newest_steps_are_in_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two by losses, five in all; of an enormous one the beginning is left out."""
    trail = StepTrail(N)
    recorder = FlightRecorder(N, trail, tmp_path / "segment-0002.jsonl", Notices())
    for step in range(3 * (N + SLACK)):
        trail.note(step, 1, {LOSS: 1.0})
        recorder.rows.append((step, 0.0, {}))
    reasons = []
    for reason in ["non_finite"] * 4 + ["exception"] * 5:
        recorder.ask(reason)
        dumped = recorder.dump_if_asked()
        reasons.append(dumped[0].reason if dumped else None)

    assert reasons == ["non_finite"] * 2 + [None] * 2 + ["exception"] * 3 + [None] * 2
    names = [f"flight-0002-{number}.jsonl" for number in range(1, 6)]
    assert [dump.path.name for dump in read_flights(tmp_path)] == names
    large = FlightRecorder(4, StepTrail(4), tmp_path / "segment-0003.jsonl", Notices())
    for step in range(8):
        large.rows.append((step, float(step), {f"{n}".zfill(100): 0.1 for n in range(40_000)}))
    large.ask("exception")
    (told,) = large.dump_if_asked()
    (dump,) = (one for one in read_flights(tmp_path) if one.attempt == 3)
    assert dump.path.stat().st_size < 16 * 2**20
    assert [step["step"] for step in read(dump.path)[1]] == [6, 7]
    assert told.steps == dump.steps == 2
    gone = FlightRecorder(4, trail, tmp_path / "gone" / "segment-0001.jsonl", Notices())
    gone.ask("exception")
    assert gone.dump_if_asked() == []
    assert "the last steps could not be written" in capsys.readouterr().err


_TRAINER = """
import sys
from support.runs import make_tracker
from support.trackers import journal_only
tracker = make_tracker(options=journal_only(flight_recorder=25), log_interval=10)
for step in range(48):
    tracker.log_training_step(1.0 / (step + 1), step, 2)
print(tracker.get_run_dir(), flush=True)
"""


def test_sigterm_and_an_exception_that_nobody_catches_dump_on_the_way_out() -> None:
    """Without a `with` block, and without `finish()`."""
    with start_script(_TRAINER + "sys.stdin.read()") as process:
        assert process.stdout is not None
        terminated = process.stdout.readline().strip()
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    raised = run_script(_TRAINER + "raise KeyError('nobody catches it')", check=False)

    found = []
    for run_dir in (terminated, raised.stdout.strip()):
        (dump,) = read_flights(Path(run_dir))
        assert [step["step"] for step in read(dump.path)[1]] == list(range(23, 48))
        found.append((dump.reason, dump.error, dump.step))
    assert process.returncode == -signal.SIGTERM
    why = "KeyError: 'nobody catches it'"
    assert found == [("SIGTERM", None, 47), ("exception", why, 47)]


_HUNG = """
import os, torch
from support import toy_streams as toy
kept = toy.install()
from support.runs import make_tracker
from support.trackers import journal_only
options = journal_only(flight_recorder=25, finish_timeout_s=0.5)
tracker = make_tracker(options=options, log_interval=10)
loss = torch.ones(()).to("toy")
toy.Queue.standing = True  # the device hangs from here on
for step in range(48):
    tracker.log_training_step(loss * 2, step, 2, extra={"host": step})
print(tracker.get_run_dir(), flush=True)
tracker.finish(1)
os._exit(0)
"""


def test_where_the_device_hangs_the_dump_has_what_the_host_knows() -> None:
    """At the deadline; what is still on the device is null, and counted."""
    (dump,) = read_flights(Path(run_script(_HUNG, warnings="default").stdout.strip()))
    head, steps = read(dump.path)

    assert (dump.reason, head["unread"]) == ("exit_code", len(steps))
    assert [step["step"] for step in steps][-3:] == [45, 46, 47]
    assert {step["values"][LOSS] for step in steps} == {None}
    assert steps[-1]["values"]["host"] == 47
