"""The worker: from the rings to lines on disk, and what it survives."""

from __future__ import annotations

import contextlib
import math
import resource
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from fasttrack.delivery.events import Progress
from fasttrack.hotpath.call_meter import CallMeter
from fasttrack.hotpath.capture import Capture
from fasttrack.hotpath.gradients import GradientSource
from fasttrack.hotpath.records import LEARNING_RATE, LOSS, Console, RawRecord, ResolvedRecord
from fasttrack.hotpath.ring import Ring
from fasttrack.journal import entries
from fasttrack.journal.entries import Artifact, Config, Finish, Header, Metadata, decode
from fasttrack.journal.reader import read_segment
from fasttrack.journal.rows import Row
from fasttrack.journal.writer import SegmentWriter
from fasttrack.notices import Notices
from fasttrack.worker.bursts import Bursts
from fasttrack.worker.delivery_report import DeliveryReport
from fasttrack.worker.gpu import GpuSampler
from fasttrack.worker.loop import Worker
from fasttrack.worker.overhead import Overhead
from fasttrack.worker.resolve import Resolver
from fasttrack.worker.supervisor import NoDelivery

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from fasttrack.hotpath.records import Scalar

HANG_GUARD_S = 60.0
CHUNK = 64  # records that the worker handles at a time


class CountingDelivery(NoDelivery):
    """A delivery that only counts how often it was looked after."""

    def __init__(self) -> None:
        """Start with nothing delivered."""
        self.report = DeliveryReport(("memory",))
        self.polls = 0
        self.broken: Exception | None = None

    def poll(self) -> None:
        """Count, and fail if told to."""
        self.polls += 1
        if self.broken is not None:
            raise self.broken


class StageResolver(Resolver):
    """A resolver that does something before it resolves a batch: waits, fails, or logs more."""

    before: Callable[[list[RawRecord]], Any] = staticmethod(lambda records: None)

    def resolve(self, records: list[RawRecord]) -> list[ResolvedRecord]:
        """Do what was planned, then resolve."""
        self.before(records)
        return super().resolve(records)


class WarmGpu(GpuSampler):
    """A GPU that is always there, and always equally warm."""

    def sample(self, device_index: int | None) -> dict[str, float]:
        """Return its temperature."""
        return {"gpu/temperature": 40.0}


class Setup:
    """A worker with real rings, resolver and segment, and a delivery in memory."""

    def __init__(
        self,
        run_dir: Path,
        flush_interval_s: float = 0.01,
        capacity: int = 256,
        held_limit_bytes: int = 2**20,
        gpu: GpuSampler | None = None,
        bursts: Bursts | None = None,
    ) -> None:
        """Wire everything; no thread runs yet."""
        self.notices = Notices()
        self.ring: Ring[RawRecord] = Ring(capacity, 0.0)
        self.console: Ring[Console] = Ring(256, 0.0)
        self.capture = Capture("snapshot")
        gradients = GradientSource("worker", 2**30, self.notices.warn)
        self.resolver = StageResolver(self.capture, gradients, self.notices)
        self.writer = SegmentWriter(run_dir, Header(run_id="r1"), held_limit_bytes=held_limit_bytes)
        self.delivery = CountingDelivery()
        self.worker = Worker(
            self.ring,
            self.console,
            self.resolver,
            self.writer,
            self.notices,
            delivery=self.delivery,
            overhead=Overhead(
                CallMeter(),
                budget=None,
                log_interval=1,
                set_interval=lambda steps: None,
                warn=self.notices.warn,
            ),
            flush_interval_s=flush_interval_s,
            gpu_stats_interval=50,
            gpu=gpu,
            bursts=bursts,
        )

    def log(self, step: int, ticks: Any = None, **metrics: Any) -> None:
        """Log as the tracker does."""
        self.log_mapping(step, metrics, ticks)

    def log_mapping(self, step: int, metrics: dict[Any, Any], ticks: Any = None) -> None:
        """Log names that are no identifiers."""
        pending = self.capture.mapping(metrics, self.notices.refuse)
        assert self.ring.push((step, 100.0 + step, metrics, pending, ticks, None, ()))

    def say(self, stream: str, text: str) -> None:
        """Print as the captured program does."""
        assert self.console.push(Console(stream, text, 5.0))

    def rows(self) -> list[Row]:
        """Return the rows on disk, as another process sees them."""
        return [entry for entry in read_segment(self.writer.path) if isinstance(entry, Row)]

    def values(self) -> list[dict[str, float]]:
        """Return the values of the rows on disk."""
        return [row.values for row in self.rows()]

    def printed(self) -> list[entries.Console]:
        """Return the console lines on disk."""
        found = read_segment(self.writer.path)
        return [entry for entry in found if isinstance(entry, entries.Console)]


@pytest.fixture
def setup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Setup]:
    """A worker that is stopped after the test; its warnings are kept in memory, not in a file."""
    setup = Setup(tmp_path / "run")
    yield setup
    setup.resolver.before = lambda records: None
    assert setup.worker.stop(HANG_GUARD_S)


@pytest.fixture
def slow_setup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Setup]:
    """A worker that looks only when it is woken."""
    setup = Setup(tmp_path / "run", flush_interval_s=HANG_GUARD_S)
    yield setup
    setup.resolver.before = lambda records: None
    assert setup.worker.stop(HANG_GUARD_S)


class TickingClock:
    """A clock of which each reading takes 10 us; and how often the GIL was given up."""

    def __init__(self) -> None:
        """Begin at zero."""
        self.now_s = 0.0
        self.rests = 0

    def read(self) -> float:
        """Return the time, later at every reading."""
        self.now_s += 10e-6
        return self.now_s

    def rest(self, seconds: float) -> None:
        """Give up the GIL."""
        self.rests += 1


def wait_until(condition: Callable[[], bool]) -> bool:
    """Poll until `condition` holds; return whether it did before the hang guard."""
    deadline = time.monotonic() + HANG_GUARD_S
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.001)
    return True


def fail_on(step: int, error: BaseException) -> Callable[[list[RawRecord]], None]:
    """Return a stage that raises when the batch holds `step`."""

    def stage(records: list[RawRecord]) -> None:
        if any(record[0] == step for record in records):
            raise error

    return stage


@contextlib.contextmanager
def disk_with_room_for(size_bytes: int) -> Iterator[None]:
    """Have the kernel refuse to let any file of this process grow beyond `size_bytes` (EFBIG)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))  # Python ignores SIGXFSZ
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# --- rows ---------------------------------------------------------------------------------------


def test_rows_land_in_the_journal_in_order(setup: Setup) -> None:
    """Numbers and tensors, more than one chunk, numbered from 0."""
    for step in range(3 * CHUNK + 5):
        setup.log(step, a=step + 0.5, b=torch.tensor(step))
    handled = setup.worker.run_once()

    rows = setup.rows()
    assert handled == len(rows) == 3 * CHUNK + 5
    assert [row.seq for row in rows] == list(range(handled))
    assert [row.step for row in rows] == list(range(handled))
    assert [row.time_s for row in rows] == [100.0 + step for step in range(handled)]
    assert [row.values for row in rows] == [{"a": s + 0.5, "b": s} for s in range(handled)]
    assert setup.worker.rows_written == handled
    assert setup.worker.ring_high_water == handled
    assert setup.notices.counts() == {}


def test_a_round_without_records_writes_nothing(setup: Setup) -> None:
    """Nothing logged, nothing on disk but the header; the high-water mark stays."""
    setup.log(1, a=1)
    setup.worker.run_once()
    size = setup.writer.path.stat().st_size

    assert setup.worker.run_once() == 0
    assert setup.writer.path.stat().st_size == size
    assert setup.worker.ring_high_water == 1


def test_non_finite_values_come_back_from_the_journal(setup: Setup) -> None:
    """NaN and infinities are truth, though JSON has no word for them."""
    setup.log(1, nan=float("nan"), up=float("inf"), down=torch.tensor(-float("inf")), null=1)
    setup.worker.run_once()

    (values,) = setup.values()
    assert [str(value) for value in values.values()] == ["nan", "inf", "-inf", "1"]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("as_tensor", [True, False])
def test_the_first_loss_that_is_not_finite_is_kept_and_said_once_with_its_step(
    setup: Setup, capsys: pytest.CaptureFixture[str], bad: float, as_tensor: bool
) -> None:
    """Non-finite values are truth; the user hears when it began."""
    setup.log_mapping(1, {LOSS: 0.5})
    for step in range(2, 5):
        setup.log_mapping(step, {LOSS: torch.tensor(bad) if as_tensor else bad})
        if step % 2:
            setup.worker.run_once()
    setup.worker.run_once()

    assert [str(values[LOSS]) for values in setup.values()] == ["0.5", *[str(float(bad))] * 3]
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"the loss became {bad} at step 2" in said


def test_other_metrics_may_be_non_finite_in_silence(
    setup: Setup, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only the loss means that training has broken."""
    setup.log_mapping(1, {"a": math.nan, LOSS: 1.0})
    setup.worker.run_once()

    assert math.isnan(setup.values()[0]["a"])
    assert capsys.readouterr().err == ""


def test_a_loss_beyond_all_floats_takes_no_other_row_along(setup: Setup) -> None:
    """`math.isfinite` raises OverflowError for an int that no float holds.

    One such loss took the whole chunk of rows along.
    """
    setup.log_mapping(1, {LOSS: 10**400, "a": 1.0})
    setup.log_mapping(2, {LOSS: 0.5})
    setup.worker.run_once()

    assert setup.values() == [{"a": 1.0}, {LOSS: 0.5}]
    assert setup.notices.counts() == {"refused": 1}


@pytest.mark.parametrize("name", ["step", "_step", "_runtime", "_timestamp", "_wandb"])
def test_reserved_names_are_refused_and_the_rest_of_the_row_stays(
    setup: Setup, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """W&B and we keep these; a metric called so would spoil the axis."""
    setup.log_mapping(1, {name: 5, "good": 1.0})
    setup.log_mapping(2, {name: 6})
    setup.worker.run_once()

    assert setup.values() == [{"good": 1.0}]
    assert setup.notices.counts() == {"refused": 2}
    assert capsys.readouterr().err.count(f"{name}: ") == 1


def test_rows_behind_the_last_step_are_counted_and_kept(
    setup: Setup, capsys: pytest.CaptureFixture[str]
) -> None:
    """The user hears once, with both steps; equal steps are in order."""
    for step in (5, 5, 3, 4, 2):
        setup.log(step, a=step)
    setup.worker.run_once()

    assert [row.step for row in setup.rows()] == [5, 5, 3, 4, 2]
    assert setup.notices.counts() == {"out_of_order": 2}
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "step 3 was logged after step 5" in said


def test_names_and_numbers_that_json_cannot_hold_are_refused_alone(
    setup: Setup, capsys: pytest.CaptureFixture[str]
) -> None:
    """A key that is no string, an integer beyond 64 bits, a name that is no Unicode."""
    setup.log_mapping(
        1, {"good": 1.0, 7: 2.0, "huge": 2**64, "bad\ud800": 3.0, "nan": float("nan")}
    )
    setup.log_mapping(2, {"largest": 2**64 - 1, "smallest": -(2**63)})
    setup.worker.run_once()

    first, second = setup.values()
    assert list(first) == ["good", "nan"]
    assert second == {"largest": 2**64 - 1, "smallest": -(2**63)}
    assert setup.notices.counts() == {"refused": 3}
    said = capsys.readouterr().err
    assert all(f"{name}: " in said for name in ("7", "huge", "'bad\\ud800'"))


@pytest.mark.parametrize("values", [{5: 1.0}, {"a": 2**64}, {"step": 1.0}], ids=repr)
def test_a_call_of_which_every_value_is_refused_leaves_no_row(
    setup: Setup, values: dict[Any, Any]
) -> None:
    """Nor does its step count as one: what is told of the order is told of rows."""
    for step, logged in ((5, {"a": 1}), (9, values), (6, {"a": 2}), (4, values), (5, {"a": 3})):
        setup.log_mapping(step, dict(logged))
    setup.worker.run_once()
    setup.log_mapping(3, dict(values))
    setup.log_mapping(5, {"a": 4})
    setup.worker.run_once()

    assert [(row.seq, row.step) for row in setup.rows()] == [(0, 5), (1, 6), (2, 5), (3, 5)]
    assert setup.values() == [{"a": number} for number in range(1, 5)]
    assert setup.notices.counts() == {"refused": 3, "out_of_order": 1}


def test_names_are_told_alike_whoever_refuses_them(setup: Setup) -> None:
    """Those that are no text to print as Python spells them."""
    setup.log_mapping(1, {"": 1.0, np.str_("a"): 2**64, "b": None, "c\n": 2**64})
    setup.worker.run_once()

    told = [reason.split(": ", 1)[0] for reason in setup.notices.reasons()]
    assert sorted(told) == ["''", "'c\\n'", "a", "b"]


@pytest.mark.parametrize("step", [2**64, -(2**63) - 1])
def test_a_step_beyond_64_bits_takes_no_other_row_along(setup: Setup, step: int) -> None:
    """The journal cannot hold it: that call is lost and counted, its neighbours are not.

    The error left the whole chunk unwritten, and a hole in the sequence numbers.
    """
    setup.log(1, a=1)
    setup.log(step, a=2)
    setup.log(3, a=3)
    with contextlib.suppress(TypeError):
        setup.worker.run_once()
    setup.log(4, a=4)
    setup.worker.run_once()

    assert setup.values() == [{"a": 1}, {"a": 3}, {"a": 4}]
    assert [row.seq for row in setup.rows()] == [0, 1, 2]
    assert sum(setup.notices.counts().values()) >= 1


def test_short_records_become_the_rows_that_whole_ones_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is usual and what is not, in one order; all that is told of it, too."""
    short: list[Any] = []
    for number in range(4 * CHUNK):
        at_s = number * 0.01 + (0.7 if number % 9 == 0 else 0)
        if number % 3:
            loss = math.nan if number == 50 else number / 7
            batch_size = {5: None, 10: -1, 25: 2**70, 40: True}.get(number, 32)
            short.append((number, at_s, loss, None if number < 20 else 0.1, batch_size))
        else:
            odd: dict[int, Any] = {3: {}, 6: {5: 1.0, "a": 1}, 9: {"step": 1, "a": 2}}
            odd |= {60: {"_step": 1}, 63: {"a": 2**64}, 66: {"a": math.inf}}
            step = number - 7 if number % 30 == 0 else number
            short.append((step, at_s, odd.get(number, {"a": number, "b": 0.5})))

    def whole(record: Any) -> Any:
        step, at_s, what, *rest = record
        if not rest:
            return (step, at_s, dict(what), {}, None, None, ())
        values = {LOSS: what} if rest[0] is None else {LOSS: what, LEARNING_RATE: rest[0]}
        return (step, at_s, values, {}, ((at_s, rest[1]),), None, ())

    def outcome(name: str, records: list[Any]) -> Any:
        setup = Setup(tmp_path / name, gpu=WarmGpu(lambda text: None))
        setup.worker._rows._own_metrics = dict  # they hold times
        for record in records:
            assert setup.ring.push(record)
        setup.worker.run_once()
        rows = [(row.seq, row.step, repr(list(row.values.items()))) for row in setup.rows()]
        steps = setup.worker.training_steps, setup.worker.rows_written
        told = sorted(capsys.readouterr().err.splitlines())
        return rows, steps, told, sorted(setup.notices.reasons()), setup.notices.counts()

    by_short = outcome("short", [(*r[:2], dict(r[2])) if len(r) == 3 else r for r in short])
    assert len(by_short[0]) > 3 * CHUNK
    assert by_short == outcome("whole", [whole(record) for record in short])


def test_training_steps_get_their_perf_metrics(setup: Setup) -> None:
    """The meter's numbers join the row; the first step has none."""
    setup.log(0, ((10.0, 4),), loss=1.0)
    setup.log(
        10,
        (
            (10.5, 4),
            (11.0, 4),
        ),
        loss=0.5,
    )
    setup.worker.run_once()

    first, second = setup.values()
    assert "perf/steps_per_sec" not in first
    assert second["perf/steps_per_sec"] == pytest.approx(2.0)
    assert second["perf/samples_per_sec"] == pytest.approx(8.0)
    assert second["loss"] == 0.5


def test_gpu_statistics_join_the_first_row_of_each_interval(
    tmp_path: Path,
) -> None:
    """Every 50 steps, wherever in the interval the first logged step lies."""
    setup = Setup(tmp_path / "run", gpu=WarmGpu(pytest.fail))
    for step in (0, 10, 49, 60, 99, 100):
        setup.log(step, ((float(step), 1),), loss=1.0)
    setup.log(150, loss=1.0)  # log_metrics: no training step
    setup.worker.run_once()

    sampled = [row.step for row in setup.rows() if "gpu/temperature" in row.values]
    assert sampled == [0, 60, 100]


def test_what_is_sampled_in_one_round_is_sampled_once(setup: Setup) -> None:
    """A round may hold many intervals: the worker's share of a microsecond would mean nothing."""
    for step in range(0, 500, 10):
        setup.log(step, ((float(step), 1),), loss=1.0)
    setup.worker.run_once()

    told = [values for values in setup.values() if "fasttrack/worker_cpu_pct" in values]
    assert len(told) == 9
    assert len({values["fasttrack/worker_cpu_pct"] for values in told}) == 1


def test_many_numbers_are_encoded_in_pieces_and_none_is_missed(setup: Setup) -> None:
    """The GIL is not kept for a chunk of rows of many metrics each."""
    metrics = {f"layer{number}": number / 7 for number in range(200)}
    for step in range(CHUNK + 5):
        setup.log_mapping(step, {**metrics, "step/same": step})
    setup.worker.run_once()

    assert [row.seq for row in setup.rows()] == list(range(CHUNK + 5))
    assert setup.values() == [{**metrics, "step/same": step} for step in range(CHUNK + 5)]
    assert setup.worker.rows_written == CHUNK + 5


def test_one_round_ends_though_the_caller_logs_as_fast_as_the_worker_writes(
    setup: Setup,
) -> None:
    """A round drains the ring as it was, not for ever: flushes and delivery have their turn.

    `run_once` went on for as long as records came in.
    """
    limit = 50_000

    def log_more(records: list[RawRecord]) -> None:
        for record in records:
            if record[0] < limit:
                setup.log(record[0] + CHUNK, a=1.0)

    for step in range(CHUNK):
        setup.log(step, a=1.0)
    setup.resolver.before = log_more

    assert setup.worker.run_once() < limit


def test_fasttracks_own_metrics_join_the_row_that_samples_the_gpu(setup: Setup) -> None:
    """What was lost and what waits; not with the first row, when there is nothing to tell."""
    setup.log(0, ((0.0, 1),), loss=1.0)
    setup.log(1, ((1.0, 1),), loss=1.0)
    setup.worker.run_once()
    setup.delivery.report.apply(Progress(backend="memory", rows=1), setup.notices.warn)
    setup.log(50, ((2.0, 1),), loss=1.0)
    setup.worker.run_once()

    *early, last = setup.values()
    assert not any(name.startswith("fasttrack/") for values in early for name in values)
    assert last.pop("fasttrack/worker_cpu_pct") > 0
    assert {name: value for name, value in last.items() if name.startswith("fasttrack/")} == {
        "fasttrack/ring_high_water": 2,
        "fasttrack/dropped": 0,
        "fasttrack/stale": 0,
        "fasttrack/delivery_lag_rows": 1,
    }


def test_a_record_that_fails_costs_itself_and_leaves_no_hole_in_the_numbers(setup: Setup) -> None:
    """One batch size that no number can hold took the rows around it along.

    Delivery counts on numbers without holes.
    """
    setup.log(1, a=1)
    setup.log(2, ticks=(("no time", 1),), a=2)
    setup.log(3, a=3)
    setup.worker.run_once()

    assert [(row.seq, row.step) for row in setup.rows()] == [(0, 1), (1, 3)]
    assert setup.notices.counts() == {"worker_errors": 1}


def test_a_record_that_cannot_be_resolved_costs_itself(setup: Setup) -> None:
    """Those of its batch are resolved one by one."""
    setup.resolver.before = fail_on(2, ValueError("no such thing"))
    for step in (1, 2, 3):
        setup.log(step, a=step)
    setup.worker.run_once()

    assert [(row.seq, row.step) for row in setup.rows()] == [(0, 1), (1, 3)]
    assert setup.notices.counts() == {"worker_errors": 1}


# --- other entries ------------------------------------------------------------------------------


def test_rows_of_no_call_stand_at_the_newest_step_and_wait_for_one_in_bounds(
    setup: Setup, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where this process logs nothing, as on a pipeline's first stage, they do not fill memory."""
    beside = setup.worker.beside
    beside.extend({"ranks/step": float(step)} for step in range(5000))
    setup.worker.run_once()
    assert len(beside) == 1024
    assert "the oldest are dropped" in capsys.readouterr().err
    setup.log(7, loss=1.0)
    setup.worker.run_once()

    rows = setup.rows()
    assert [row.step for row in rows] == [7] * 1025
    assert [row.values["ranks/step"] for row in rows[1:]] == list(range(5000 - 1024, 5000))
    assert not beside


def test_entries_that_are_no_rows_are_written_with_the_next_round(setup: Setup) -> None:
    """In their order, before the rows that wait, and they are numbered apart from rows."""
    setup.log(1, a=1)
    written: list[Config | Metadata | Artifact] = [
        Config({"lr": 0.1}, 1.0),
        Metadata({"git": None}, 2.0),
        Artifact(number=1, type="model", name="m", directory="artifacts/segment-0001/0001"),
    ]
    for entry in written:
        setup.worker.write(entry)
    setup.worker.run_once()

    assert read_segment(setup.writer.path)[1:] == [*written, Row(0, 1, 101.0, {"a": 1})]


def test_an_entry_that_json_cannot_hold_is_refused_at_the_call(setup: Setup) -> None:
    """Whoever wrote it hears of it; the worker and its rows do not."""
    with pytest.raises(TypeError):
        setup.worker.write(Config({"huge": 2**64}))
    setup.log(1, a=1)
    setup.worker.run_once()

    assert read_segment(setup.writer.path)[1:] == setup.rows()
    assert setup.values() == [{"a": 1}]


# --- console ------------------------------------------------------------------------------------


def test_pieces_of_one_stream_become_one_line(setup: Setup) -> None:
    """print() writes text and newline apart; the journal holds them together, in order."""
    for stream, text in [
        ("stdout", "a"),
        ("stdout", "\n"),
        ("stderr", "oops"),
        ("stdout", "b\n"),
        ("stdout", "c\n"),
    ]:
        setup.say(stream, text)
    setup.worker.run_once()

    lines = [(line.stream, line.text, line.time_s) for line in setup.printed()]
    assert lines == [("stdout", "a\n", 5.0), ("stderr", "oops", 5.0), ("stdout", "b\nc\n", 5.0)]


def test_much_text_is_complete(setup: Setup) -> None:
    """More than one chunk of pieces."""
    for number in range(200):
        setup.say("stdout", f"{number}\n")
    setup.worker.run_once()

    text = "".join(line.text for line in setup.printed())
    assert text == "".join(f"{number}\n" for number in range(200))
    assert len(setup.printed()) < 20


def test_text_that_is_no_unicode_is_replaced(setup: Setup) -> None:
    """Lone surrogates (file names on Linux) cannot be written as UTF-8."""
    setup.say("stdout", "file\udcff\n")
    setup.worker.run_once()

    assert [line.text for line in setup.printed()] == ["file?\n"]


# --- the thread -----------------------------------------------------------------------------------


def test_flush_returns_when_all_rows_are_readable(slow_setup: Setup) -> None:
    """Another process finds every row on disk as soon as flush has returned."""
    setup = slow_setup
    setup.worker.start()
    for step in range(100):
        setup.log(step, a=torch.tensor(step))

    assert setup.worker.flush(HANG_GUARD_S)
    assert setup.values() == [{"a": step} for step in range(100)]


def test_flush_from_many_threads_at_once(setup: Setup) -> None:
    """Each finds its own rows on disk."""
    setup.worker.start()
    missing: list[str] = []

    def log_and_flush(name: str) -> None:
        for number in range(20):
            setup.log_mapping(number, {f"{name}/{number}": 1.0})
            if not setup.worker.flush(HANG_GUARD_S) or not any(
                f"{name}/{number}" in values for values in setup.values()
            ):
                missing.append(f"{name}/{number}")

    threads = [threading.Thread(target=log_and_flush, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG_GUARD_S)

    assert missing == []


def test_flush_times_out_while_the_worker_waits_for_the_device(setup: Setup) -> None:
    """It says so, and the next flush succeeds once the device has gone on."""
    gate, reached = threading.Event(), threading.Event()

    def wait(records: list[RawRecord]) -> None:
        reached.set()
        gate.wait(HANG_GUARD_S)

    setup.resolver.before = wait
    setup.worker.start()
    setup.log(1, a=1)
    assert reached.wait(HANG_GUARD_S)
    in_time = setup.worker.flush(0.05)
    gate.set()

    assert in_time is False
    assert setup.worker.flush(HANG_GUARD_S) is True
    assert setup.values() == [{"a": 1}]


def test_flush_without_a_thread_says_no(setup: Setup) -> None:
    """Before start, and after stop: nobody would do it."""
    assert setup.worker.flush(HANG_GUARD_S) is False
    setup.worker.start()
    setup.worker.stop(HANG_GUARD_S)
    assert setup.worker.flush(HANG_GUARD_S) is False


def test_the_worker_looks_by_itself(setup: Setup) -> None:
    """Within the flush interval, without anybody waking it."""
    setup.worker.start()
    setup.log(1, a=1)

    assert wait_until(lambda: setup.values() == [{"a": 1}])
    assert wait_until(lambda: setup.delivery.polls > 3)


def test_wake_makes_the_worker_look_now(slow_setup: Setup) -> None:
    """Gradients must be read before they are zeroed; waking twice is as good as once."""
    setup = slow_setup
    setup.worker.start()
    setup.log(1, a=1)
    setup.worker.wake()
    setup.worker.wake()

    assert wait_until(lambda: setup.values() == [{"a": 1}])


def test_stop_takes_along_what_was_logged_before_it(slow_setup: Setup) -> None:
    """A last round, then the thread is gone; stopping again is no error."""
    setup = slow_setup
    setup.worker.start()
    for step in range(100):
        setup.log(step, a=step)

    assert setup.worker.stop(HANG_GUARD_S)
    assert setup.values() == [{"a": step} for step in range(100)]
    assert setup.worker.stop(HANG_GUARD_S)


def test_stop_gives_up_on_a_worker_that_hangs(setup: Setup) -> None:
    """The device never answers: the caller hears it within its own limit."""
    gate, reached = threading.Event(), threading.Event()

    def wait(records: list[RawRecord]) -> None:
        reached.set()
        gate.wait(HANG_GUARD_S)

    setup.resolver.before = wait
    setup.worker.start()
    setup.log(1, a=1)
    assert reached.wait(HANG_GUARD_S)
    ended = setup.worker.stop(0.05)
    gate.set()

    assert ended is False
    assert setup.worker.stop(HANG_GUARD_S) is True


def test_end_segment_writes_the_finish_line_last(setup: Setup) -> None:
    """The reader knows the run is over."""
    finish = Finish(exit_code=3, preempting=False, time_s=1.0, deadline_s=2.0)
    setup.log(1, a=1)
    setup.worker.run_once()
    setup.worker.end_segment(finish)

    assert read_segment(setup.writer.path)[-1] == finish


# --- errors -------------------------------------------------------------------------------------


def test_an_error_in_the_worker_is_counted_said_and_survived(
    setup: Setup, capsys: pytest.CaptureFixture[str]
) -> None:
    """The batch is lost; what comes later is not."""
    setup.resolver.before = fail_on(1, ValueError("no such thing"))
    setup.worker.start()
    setup.log(1, a=1)
    assert wait_until(lambda: "worker_errors" in setup.notices.counts())
    setup.log(2, a=2)
    setup.worker.flush(HANG_GUARD_S)

    assert wait_until(lambda: setup.values() == [{"a": 2}])
    assert "the worker met ValueError('no such thing') and goes on" in capsys.readouterr().err


def test_an_error_counts_the_records_it_cost(setup: Setup) -> None:
    """`worker_errors` are lost records, and `finish()` reports them as lost rows.

    The loop's boundary counted one more for each error.
    """
    setup.resolver.before = fail_on(1, ValueError("no such thing"))
    for _ in range(3):
        setup.log(1, a=1)
    setup.worker.start()
    assert setup.worker.stop(HANG_GUARD_S)

    assert setup.notices.counts() == {"worker_errors": 3}


def test_a_delivery_that_cannot_be_looked_after_costs_no_rows(
    setup: Setup, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows still reach the journal, and the trouble is said once."""
    setup.delivery.broken = OSError("no more processes")
    setup.worker.start()
    assert wait_until(lambda: setup.delivery.polls > 3)
    setup.log(1, a=1)

    assert setup.worker.flush(HANG_GUARD_S)
    assert setup.values() == [{"a": 1}]
    assert capsys.readouterr().err.count("no more processes") == 1


def test_gil_is_given_up_between_short_records_too(tmp_path: Path) -> None:
    """The clock is read once for many of them, and each reading here takes 10 us."""
    clock = TickingClock()
    setup = Setup(tmp_path / "run", capacity=8192, bursts=Bursts(clock.read, clock.rest))
    for step in range(3200):
        values: dict[str, Scalar] = dict.fromkeys("abcde", step)
        assert setup.ring.push((step, 1.0, values))
    setup.worker.run_once()

    readings = clock.now_s / 10e-6
    assert readings >= 3200 / CHUNK
    assert clock.rests >= readings / 12


def test_gil_is_given_up_every_100_us_and_less_often_far_behind(
    tmp_path: Path,
) -> None:
    """Each row takes 10 us here; after 4,096 rows of one round the bursts are 1 ms long."""
    clock = TickingClock()
    setup = Setup(tmp_path / "run", capacity=8192, bursts=Bursts(clock.read, clock.rest))
    for step in range(1000):
        setup.log(step, a=step)
    setup.worker.run_once()
    usual = clock.rests
    for step in range(8192):
        setup.log(step, a=step)
    setup.worker.run_once()

    assert 80 <= usual <= 120
    assert 380 <= clock.rests - usual <= 520  # about 410 for the first half, 41 for the other


def test_flush_after_an_error_waits_for_the_rows_behind_it(slow_setup: Setup) -> None:
    """An error ended a round early; what is still in the ring is not in the journal yet.

    Flush said it was.
    """
    setup = slow_setup
    setup.resolver.before = fail_on(0, ValueError("no such thing"))
    for step in range(CHUNK + 1):
        setup.log(step, a=step)
    setup.worker.start()
    flushed = setup.worker.flush(HANG_GUARD_S)

    assert flushed
    assert setup.values() == [{"a": step} for step in range(1, CHUNK + 1)]


def test_an_error_in_the_last_round_costs_no_rows_behind_it(slow_setup: Setup) -> None:
    """Stop drains the ring though one record of it fails.

    The thread ended with rows still in the ring, lost and counted nowhere.
    """
    setup = slow_setup
    setup.resolver.before = fail_on(0, ValueError("no such thing"))
    for step in range(CHUNK + 1):
        setup.log(step, a=step)
    setup.worker.start()
    assert setup.worker.stop(HANG_GUARD_S)

    assert setup.values() == [{"a": step} for step in range(1, CHUNK + 1)]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_worker_that_dies_is_started_again_once(
    setup: Setup, capsys: pytest.CaptureFixture[str]
) -> None:
    """SystemExit in the thread (a callback of somebody's) is no Exception; twice is too often."""
    setup.resolver.before = fail_on(1, SystemExit("a callback left"))
    setup.worker.start()
    setup.log(1, a=1)
    assert wait_until(lambda: "worker_errors" in setup.notices.counts())
    setup.log(2, a=2)
    again = setup.worker.flush(HANG_GUARD_S)
    setup.log(1, a=1)
    dead = setup.worker.flush(HANG_GUARD_S)

    assert again is True
    assert setup.values() == [{"a": 2}]
    assert dead is False
    assert "the worker died of SystemExit('a callback left')" in capsys.readouterr().err


# --- the disk -----------------------------------------------------------------------------------


def test_a_full_disk_holds_rows_which_are_written_later(
    setup: Setup, capsys: pytest.CaptureFixture[str]
) -> None:
    """A write that came through in part is completed later: no row is torn, none doubled."""
    setup.log(0, a=0)
    setup.worker.run_once()
    size = setup.writer.path.stat().st_size
    with disk_with_room_for(size + 100):  # room for one row and a half
        for step in range(1, 6):
            setup.log(step, a=step)
        setup.worker.run_once()
        held = setup.writer.held_lines
        for step in range(6, 9):
            setup.log(step, a=step)
            setup.worker.run_once()
        held_more = setup.writer.held_lines
    setup.worker.run_once()  # nothing new: what is held is tried all the same

    assert held == 4
    assert held_more == 7
    assert setup.writer.held_lines == 0
    lines = setup.writer.path.read_bytes().split(b"\n")
    assert lines.pop() == b""
    rows = [entry for line in lines if isinstance(entry := decode(line), Row)]
    assert [row.seq for row in rows] == list(range(9))
    assert [row.values["a"] for row in rows] == list(range(9))
    assert setup.notices.counts() == {}
    assert capsys.readouterr().err.count("the journal cannot be written") == 1


def test_flush_on_a_full_disk_says_that_rows_are_not_in_the_journal(setup: Setup) -> None:
    """What is held in memory is not on disk. Flush said it was."""
    setup.worker.start()
    with disk_with_room_for(setup.writer.path.stat().st_size):
        setup.log(1, a=1)
        on_full_disk = setup.worker.flush(0.5)
    afterwards = setup.worker.flush(HANG_GUARD_S)

    assert on_full_disk is False
    assert afterwards is True
    assert setup.values() == [{"a": 1}]


def test_more_than_memory_may_hold_is_lost_newest_first_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The oldest rows are kept and written later; each lost one is counted."""
    setup = Setup(tmp_path / "run", held_limit_bytes=300)
    with disk_with_room_for(setup.writer.path.stat().st_size):
        for step in range(20):
            setup.log(step, a=step)
            setup.worker.run_once()
        held = setup.writer.held_lines
    setup.log(20, a=20)
    setup.worker.run_once()

    assert 0 < held < 20
    steps = [row.step for row in setup.rows()]
    assert steps == [*range(held), 20]
    assert setup.notices.counts() == {"journal_error": 20 - held}
    assert "rows were lost" in capsys.readouterr().err


def test_rows_written_counts_no_row_that_was_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`stats().rows_written` are rows in the journal; `finish()` reports the number as safe there.

    Rows that the disk refused were counted too.
    """
    setup = Setup(tmp_path / "run", held_limit_bytes=0)
    with disk_with_room_for(setup.writer.path.stat().st_size):
        setup.log(1, a=1)
        setup.worker.run_once()
    setup.log(2, a=2)
    setup.worker.run_once()

    assert len(setup.rows()) == 1
    assert setup.worker.rows_written == 1


def test_a_finish_on_a_full_disk_counts_what_is_lost(setup: Setup) -> None:
    """At the end there is no later: held lines are counted as lost."""
    with disk_with_room_for(setup.writer.path.stat().st_size):
        setup.log(1, a=1)
        setup.log(2, a=2)
        setup.worker.run_once()
        setup.worker.end_segment(Finish(exit_code=0))

    assert setup.notices.counts()["journal_error"] >= 2
    assert setup.values() == []
