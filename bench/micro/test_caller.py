"""The caller's thread, part by part, in tight loops: `pytest bench`.

For finding what became slower, not for what training feels: in a training loop, where the caches
are cold, the same parts take several times as long (`bench.overhead`). A name that ends in `_x1000`
and so on says how many calls or pushes one reading holds.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
import torch

from bench.lib.internals import Capture, GradientSource, Ring, refuse
from bench.lib.isolation import private_home
from bench.lib.scalars import TAGS, five_scalars
from bench.lib.workload import Workload
from fasttrack import ExperimentTracker, Options

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.micro.conftest import Measure

_CALLS = 20  # all that is logged is delivered when the run ends, so not many
_PUSHES = 1000
_BLOCKS = 200
_PRODUCERS = 8


def test_ring_push_x1000(measure: Measure) -> None:
    ring: Ring[int] = Ring(1024, 0.0)

    def push() -> None:
        for number in range(_PUSHES):
            ring.push(number)

    def empty() -> tuple[()]:
        ring.pop(1024)
        return ()

    measure(push, of=_PUSHES, prepare=empty)


def test_ring_push_by_8_producers_x8000(measure: Measure) -> None:
    """From the first thread's start signal to the last one's end; the threads exist already."""
    ring: Ring[int] = Ring(8192, 0.0)
    begin, end = (threading.Barrier(_PRODUCERS + 1) for _ in range(2))
    over = False

    def produce() -> None:
        while begin.wait() >= 0 and not over:
            for number in range(_PUSHES):
                ring.push(number)
            end.wait()

    def push() -> None:
        begin.wait()
        end.wait()

    def empty() -> tuple[()]:
        ring.pop(8192)
        return ()

    threads = [threading.Thread(target=produce) for _ in range(_PRODUCERS)]
    for thread in threads:
        thread.start()
    try:
        measure(push, of=_PUSHES * _PRODUCERS, prepare=empty)
    finally:
        over = True
        begin.wait()
        for thread in threads:
            thread.join()

    assert ring.dropped == 0


@pytest.mark.parametrize("mode", ["snapshot", "reference"])
@pytest.mark.parametrize("value", [0.5, torch.tensor(0.5)], ids=["float", "tensor"])
def test_capture(measure: Measure, value: float | torch.Tensor, mode: str) -> None:
    measure(Capture(mode).scalar, "loss/total", value)


@pytest.mark.parametrize("mode", ["snapshot", "reference"])
def test_capture_five_scalars(measure: Measure, mode: str) -> None:
    capture, scalars = Capture(mode), five_scalars(torch.tensor(0.5), 1)
    measure(lambda: capture.mapping(dict(scalars), refuse))


@pytest.mark.parametrize("parameters", [10, 300, 2000])
@pytest.mark.parametrize("mode", ["worker", "inline"])
def test_capture_gradients(measure: Measure, mode: str, parameters: int) -> None:
    """`worker` takes references; `inline` computes the norm, here of gradients of 64 numbers."""
    model = torch.nn.ParameterList(torch.zeros(64) for _ in range(parameters))
    for parameter in model:
        parameter.grad = torch.ones(64)

    assert measure(GradientSource(mode, 2**30, refuse).capture, model) is not None


@pytest.fixture
def tracker() -> Iterator[ExperimentTracker]:
    # The worker's own wake-ups would fall into the readings at random: it runs between them.
    options = Options(flush_interval_s=3600)
    with (
        private_home(),
        ExperimentTracker(tags=TAGS, mode="offline", log_interval=10, options=options) as tracker,
    ):
        yield tracker


@pytest.fixture(scope="module")
def work() -> Workload:
    work = Workload()
    work.step(0)
    return work


def test_step_not_logged(measure: Measure, tracker: ExperimentTracker, work: Workload) -> None:
    measure(tracker.log_training_step, torch.tensor(0.5), 1, 32, work.optimizer, work.model)


@pytest.mark.parametrize("steps", [0, 200], ids=["watched", "recorded"])
def test_step_not_logged_but_looked_at(measure: Measure, work: Workload, steps: int) -> None:
    """For the first bad loss, or for the flight recorder."""
    options = Options(
        flush_interval_s=3600, backends=("none",), watch_nonfinite=True, flight_recorder=steps
    )
    with private_home(), ExperimentTracker(tags=TAGS, log_interval=10, options=options) as tracker:
        measure(tracker.log_training_step, torch.tensor(0.5), 1, 32, work.optimizer, work.model)


def test_step_with_tokens_not_logged(measure: Measure, tracker: ExperimentTracker) -> None:
    tracker.log_training_step(0.5, 0, 32, tokens=4096)  # what came before went the quick way
    measure(lambda: tracker.log_training_step(0.5, 1, 32, tokens=4096))


@pytest.mark.parametrize("records", [True, False], ids=["recording", "inert"])
@pytest.mark.parametrize("kind", ["phase", "pause"])
def test_block(measure: Measure, tracker: ExperimentTracker, kind: str, records: bool) -> None:
    """`with tracker.phase("data"):`, and `pause()` beside it."""
    made = tracker if records else ExperimentTracker(mode="disabled")

    def phase() -> None:
        with made.phase("data"):
            pass

    def pause() -> None:
        with made.pause():
            pass

    def drain() -> tuple[()]:
        tracker.log_training_step(0.5, 10)
        tracker.flush()
        return ()

    block = {"phase": phase, "pause": pause}[kind]

    def blocks() -> None:
        for _ in range(_BLOCKS):
            block()

    measure(blocks, of=_BLOCKS, prepare=drain, rounds=100)


@pytest.mark.parametrize("with_model", [False, True], ids=["without-model", "with-model"])
def test_step_logged_x20(
    measure: Measure, tracker: ExperimentTracker, work: Workload, with_model: bool
) -> None:
    loss, model = torch.tensor(0.5), work.model if with_model else None

    def log() -> None:
        for _ in range(_CALLS):
            tracker.log_training_step(loss, 10, 32, work.optimizer, model)

    def drain() -> tuple[()]:
        tracker.flush()
        return ()

    measure(log, of=_CALLS, prepare=drain, rounds=100)


@pytest.mark.parametrize("metrics", [5, 50, 500])
def test_log_metrics_x20(measure: Measure, tracker: ExperimentTracker, metrics: int) -> None:
    values = {f"group/metric_{number}": float(number) for number in range(metrics)}

    def log() -> None:
        for step in range(_CALLS):
            tracker.log_metrics(values, step)

    def drain() -> tuple[()]:
        tracker.flush()
        return ()

    measure(log, of=_CALLS, prepare=drain, rounds=100)


def test_step_on_an_inert_tracker(measure: Measure, work: Workload) -> None:
    inert = ExperimentTracker(mode="disabled")
    measure(inert.log_training_step, torch.tensor(0.5), 10, 32, work.optimizer, work.model)
