"""Any history of attempts, written by the real worker: its goodput is what really happened."""

from __future__ import annotations

import itertools
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fasttrack.goodput import read_goodput
from fasttrack.hotpath.call_meter import CallMeter
from fasttrack.hotpath.capture import Capture
from fasttrack.hotpath.gradients import GradientSource
from fasttrack.hotpath.records import AnyTick, Console, PausedSince, RawRecord
from fasttrack.hotpath.ring import Ring
from fasttrack.journal.entries import Finish, Header
from fasttrack.journal.run_directory import segments
from fasttrack.journal.writer import SegmentWriter
from fasttrack.notices import Notices
from fasttrack.options import Options
from fasttrack.worker.loop import Worker
from fasttrack.worker.overhead import Overhead
from fasttrack.worker.resolve import Resolver
from fasttrack.worker.supervisor import NoDelivery

LONG_AGO_S = 1e6
JITTER_S = 0.1  # by which the clock's offset may be read wrongly on a busy machine
STEPS_S = st.sampled_from([1.0, 2.5, 7.0])
WAITS_S = st.floats(0.0, 50.0)


@dataclass
class Plan:
    """One attempt that is to be."""

    down_s: float
    starting_s: float
    step_s: float
    back: int
    """How many of the steps that the attempt before has done this one does again."""
    steps: int
    pauses: dict[int, float]
    """By the step's place in the attempt, what is paused in front of it."""
    killed: bool
    ending_s: float


PLANS = st.builds(
    Plan,
    down_s=WAITS_S,
    starting_s=WAITS_S,
    step_s=STEPS_S,
    back=st.integers(0, 30),
    steps=st.integers(0, 30),
    pauses=st.dictionaries(st.integers(1, 29), st.floats(1.0, 20.0), max_size=3),
    killed=st.booleans(),
    ending_s=WAITS_S,
)


@dataclass
class Truth:
    """What really happened, step by step."""

    kept: dict[int, float] = field(default_factory=dict)
    """Number of a step that stands -> seconds."""
    lost_steps: int = 0
    lost_s: float = 0.0
    pause_s: float = 0.0
    end_s: float = 0.0

    def go_back_to(self, step: int) -> None:
        """Begin anew at `step`."""
        for number in [number for number in self.kept if number >= step]:
            self.lost_steps += 1
            self.lost_s += self.kept.pop(number)


class Trainer:
    """A training process whose time passes as planned, with the real worker behind it."""

    def __init__(self, run_dir: Path, begin_s: float, log_interval: int) -> None:
        self.now_s = begin_s  # on perf_counter's clock
        self.offset_s = time.time() - perf_counter()
        self.log_interval = log_interval
        self.ring: Ring[RawRecord] = Ring(1024, 0.0)
        self.ticks: list[AnyTick] = []
        self.last_step: int | None = None
        notices = Notices()
        gradients = GradientSource("worker", 2**30, notices.warn)
        self.writer = SegmentWriter(run_dir, Header(run_id="r", time_s=self.offset_s + begin_s))
        self.worker = Worker(
            self.ring,
            Ring[Console](8, 0.0),
            Resolver(Capture("snapshot"), gradients, notices, self.ticks),
            self.writer,
            notices,
            delivery=NoDelivery(),
            overhead=Overhead(
                CallMeter(),
                budget=None,
                log_interval=1,
                set_interval=lambda steps: None,
                warn=notices.warn,
            ),
            flush_interval_s=0.01,
            gpu_stats_interval=50,
            options=Options(find_pauses=False),
        )

    def step(self, number: int, step_s: float) -> bool:
        """Train a step; return whether it was logged."""
        self.now_s += step_s
        self.last_step = number
        if number % self.log_interval:
            self.ticks.append((self.now_s, 1))
            return False
        assert self.ring.push((number, self.now_s, 0.5, None, 1))
        self.worker.run_once()
        return True

    def pause(self, seconds: float) -> None:
        """Do what is no training."""
        self.ticks.append((self.now_s + seconds, PausedSince(self.now_s)))
        self.now_s += seconds

    def finish(self) -> None:
        """End in order."""
        now_s = self.offset_s + self.now_s
        self.worker.end_segment(Finish(exit_code=0, time_s=now_s, last_step=self.last_step))


def live(plan: Plan, trainer: Trainer, first: int, truth: Truth) -> int:
    """Train as planned; return behind which step the next attempt can go on."""
    seen, seen_s, seen_pauses = 0, trainer.now_s, 0
    trainer.now_s += plan.starting_s
    done: dict[int, float] = {}
    paused_s: list[float] = []
    for place in range(plan.steps):
        if place in plan.pauses:
            trainer.pause(plan.pauses[place])
            paused_s.append(plan.pauses[place])
        done[first + place] = plan.step_s
        if trainer.step(first + place, plan.step_s):
            seen, seen_s, seen_pauses = len(done), trainer.now_s, len(paused_s)
    if plan.killed:  # of what came after the last row nothing is known
        done = dict(itertools.islice(done.items(), seen))
        truth.end_s = seen_s
        paused_s = paused_s[:seen_pauses]
        trainer.writer.close()
    else:
        trainer.pause(1.0)
        paused_s.append(1.0)
        trainer.now_s += plan.ending_s
        trainer.finish()
        truth.end_s = trainer.now_s
    if len(done) == 1:  # nothing tells how long it took
        done[first] = 0.0
    if done:
        truth.go_back_to(first)
        truth.kept |= done
    truth.pause_s += sum(paused_s)
    return first + len(done)


@given(st.lists(PLANS, min_size=1, max_size=5), st.sampled_from([1, 3, 10]))
@settings(max_examples=60, deadline=None)
def test_goodput_of_any_history_is_what_really_happened(
    plans: list[Plan], log_interval: int
) -> None:
    """Kills and orderly ends, steps back over several attempts, pauses, attempts without steps."""
    with tempfile.TemporaryDirectory() as directory:
        run_dir = Path(directory, "run")
        truth = Truth()
        begin_s = truth.end_s = perf_counter() - LONG_AGO_S
        behind = 0
        for plan in plans:
            trainer = Trainer(run_dir, truth.end_s + plan.down_s, log_interval)
            if len(segments(run_dir)) == 1:
                begin_s = trainer.now_s
            truth.end_s = trainer.now_s
            behind = live(plan, trainer, max(0, behind - plan.back), truth)
        found = read_goodput(segments(run_dir))
        in_pieces = read_goodput(segments(run_dir), block_bytes=512)

    assert in_pieces == found
    assert (found.kept_steps, found.lost_steps) == (len(truth.kept), truth.lost_steps)
    assert found.kept_s == pytest.approx(sum(truth.kept.values()), abs=JITTER_S)
    assert found.lost_s == pytest.approx(truth.lost_s, abs=JITTER_S)
    assert found.pause_s == pytest.approx(truth.pause_s, abs=JITTER_S)
    assert found.wall_s == pytest.approx(truth.end_s - begin_s, abs=JITTER_S)
    parts_s = (found.kept_s, found.lost_s, found.pause_s, found.starting_s, found.down_s)
    assert sum(parts_s) + found.ending_s == pytest.approx(found.wall_s, abs=JITTER_S)
