"""The parts of fasttrack, one by one, in tight loops: `pytest bench --benchmark-only`.

For finding what became slower, not for what training feels: in a training loop, where the caches
are cold, the same parts take several times as long (overhead.py). A name that ends in `_x100`,
`_x32` and so on says how many calls or rows one reading holds.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
import torch

from bench.measure import private_wandb
from bench.workload import Workload, five_scalars
from fasttrack import ExperimentTracker, Options
from fasttrack.delivery.supervisor import DeliveryState
from fasttrack.hotpath.capture import Capture
from fasttrack.hotpath.gradients import GradientSource, fused_norm
from fasttrack.hotpath.records import Record
from fasttrack.hotpath.ring import Ring
from fasttrack.journal.format import encode_row
from fasttrack.journal.reader import read_segment
from fasttrack.journal.writer import SegmentWriter
from fasttrack.tally import Tally
from fasttrack.worker.loop import Worker
from fasttrack.worker.resolve import Resolver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pytest_benchmark.fixture import BenchmarkFixture

_BATCH_ROWS = 32  # the worker's chunk
_VALUES = {"loss/total": 0.123456789, "train/lr": 1e-4, "a": 1.25, "b": 4096.0, "c": 0.5}


def _rounds(
    benchmark: BenchmarkFixture,
    function: Callable[..., object],
    rounds: int,
    setup: Callable[[], tuple[Any, ...]] = tuple,
) -> None:
    """Time one call of `function` per round, on what `setup` returns; `setup` is not timed."""

    def arguments() -> tuple[tuple[Any, ...], dict[str, Any]]:
        return setup(), {}

    benchmark.pedantic(function, setup=arguments, rounds=rounds)  # type: ignore[no-untyped-call]


def _refuse(metric: str, why: str) -> None:
    raise AssertionError(f"{metric}: {why}")


@pytest.fixture(scope="module")
def work() -> Workload:
    work = Workload()
    work.step(0)
    return work


def _records(capture: Capture) -> list[Record]:
    records = []
    for step in range(_BATCH_ROWS):
        values: dict[str, Any] = five_scalars(torch.tensor(0.5), step)
        pending = capture.mapping(values, _refuse)
        records.append(Record(step, time.time(), values, pending, None, None, ()))
    return records


def _resolver(capture: Capture) -> Resolver:
    tally = Tally()
    return Resolver(capture, GradientSource("off", 0, tally.warn), tally)


# --- caller's thread -----------------------------------------------------------------------------


def test_ring_push_x1000(benchmark: BenchmarkFixture) -> None:
    ring: Ring[int] = Ring(1024, 0.0)

    def push() -> None:
        for number in range(1000):
            ring.push(number)

    def drain() -> tuple[()]:
        ring.pop(1024)
        return ()

    _rounds(benchmark, push, 1000, drain)


@pytest.mark.parametrize("mode", ["snapshot", "reference"])
@pytest.mark.parametrize("value", [0.5, torch.tensor(0.5)], ids=["float", "tensor"])
def test_capture(benchmark: BenchmarkFixture, value: float | torch.Tensor, mode: str) -> None:
    benchmark(Capture(mode).scalar, "loss/total", value)


@pytest.mark.parametrize("mode", ["snapshot", "reference"])
def test_capture_five_scalars(benchmark: BenchmarkFixture, mode: str) -> None:
    capture, scalars = Capture(mode), five_scalars(torch.tensor(0.5), 1)
    benchmark(lambda: capture.mapping(dict(scalars), _refuse))


def test_capture_gradients(benchmark: BenchmarkFixture, work: Workload) -> None:
    benchmark(GradientSource("worker", 2**30, _refuse).capture, work.model)


@pytest.fixture
def tracker() -> Iterator[ExperimentTracker]:
    # The worker's own wake-ups would fall into the readings at random: it runs between them.
    options = Options(flush_interval_s=3600)
    with (
        private_wandb(),
        ExperimentTracker(
            mode="offline", required_tags=(), log_interval=10, options=options
        ) as tracker,
    ):
        yield tracker


def test_log_training_step_not_logged(
    benchmark: BenchmarkFixture, tracker: ExperimentTracker, work: Workload
) -> None:
    loss = torch.tensor(0.5)
    benchmark(tracker.log_training_step, loss, 1, 32, work.optimizer, work.model)


def test_log_training_step_logged_x100(
    benchmark: BenchmarkFixture, tracker: ExperimentTracker, work: Workload
) -> None:
    loss = torch.tensor(0.5)

    def log() -> None:
        for _ in range(100):
            tracker.log_training_step(loss, 10, 32, work.optimizer)

    def drain() -> tuple[()]:
        tracker.flush()
        return ()

    _rounds(benchmark, log, 100, drain)


def test_log_training_step_inert(benchmark: BenchmarkFixture, work: Workload) -> None:
    inert = ExperimentTracker(mode="disabled")
    benchmark(inert.log_training_step, torch.tensor(0.5), 10, 32, work.optimizer, work.model)


# --- worker thread -------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["snapshot", "reference"])
def test_resolve_x32(benchmark: BenchmarkFixture, mode: str) -> None:
    capture = Capture(mode)

    _rounds(benchmark, _resolver(capture).resolve, 1000, lambda: (_records(capture),))


def test_grad_norm(benchmark: BenchmarkFixture, work: Workload) -> None:
    gradients = [p.grad for p in work.model.parameters() if p.grad is not None]
    benchmark(fused_norm, gradients)


def test_encode_row(benchmark: BenchmarkFixture) -> None:
    benchmark(encode_row, 1000, 1000, time.time(), _VALUES)


def test_writer_append_x32(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    writer = SegmentWriter(tmp_path, {})
    lines = [encode_row(seq, seq, time.time(), _VALUES) for seq in range(_BATCH_ROWS)]

    _rounds(benchmark, writer.append, 1000, lambda: (lines,))

    writer.close()


class _NoDelivery:
    state = DeliveryState()

    def poll(self) -> None:
        pass

    def wait(self, timeout_s: float) -> bool:
        return True

    def leave(self) -> None:
        pass

    def close(self) -> None:
        pass


def test_worker_round_x32(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    ring: Ring[Record] = Ring(64, 0.0)
    capture = Capture("snapshot")
    writer = SegmentWriter(tmp_path, {})
    worker = Worker(
        ring,
        Ring(64, 0.0),
        _resolver(capture),
        writer,
        Tally(),
        delivery=_NoDelivery(),
        flush_interval_s=3600,
        gpu_stats_interval=50,
    )

    def fill() -> tuple[()]:
        for record in _records(capture):
            ring.push(record)
        return ()

    _rounds(benchmark, worker.run_once, 1000, fill)

    writer.close()


# --- delivery process ----------------------------------------------------------------------------


def test_reader_x1000(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    writer = SegmentWriter(tmp_path, {})
    writer.append([encode_row(seq, seq, time.time(), _VALUES) for seq in range(999)])
    writer.close()

    entries = benchmark(read_segment, writer.path)

    assert len(entries) == 1000
