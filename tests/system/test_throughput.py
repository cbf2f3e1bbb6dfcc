"""Real training loops: what rows tell of tokens, FLOP/s and waits lies between clocks of the loop.

Each call's own reading of the clock lies between one that the loop takes before it and one behind
it, so that every rate has bounds which hold however slow the machine is.
"""

from __future__ import annotations

import itertools
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import torch
from support.journals import read_rows
from support.trackers import HANG_GUARD_S, journal_only

from fasttrack import ExperimentTracker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fasttrack.journal.rows import Row

PER_TOKEN, PEAK = 6e6, 1e12


@dataclass
class Clocks:
    """When a step's call began and ended, and what had been until then."""

    before_s: float
    after_s: float
    tokens: int
    paused_s: tuple[float, float] = (0.0, 0.0)
    """At least, and at most."""
    waited_s: tuple[float, float] = (0.0, 0.0)


class Slow(torch.utils.data.Dataset[Any]):
    """Sequences of words, of which every eighth takes a while."""

    def __len__(self) -> int:
        """Return how many."""
        return 32

    def __getitem__(self, index: int) -> torch.Tensor:
        """Return one."""
        if index % 8 == 0:
            threading.Event().wait(0.001)
        return torch.arange(index, index + 16) % 29


class Loop:
    """A small language model's training, with clocks of its own."""

    def __init__(self, tracker: ExperimentTracker) -> None:
        """Build the model."""
        torch.manual_seed(0)
        self.tracker = tracker
        self.model = torch.nn.Sequential(torch.nn.Embedding(32, 16), torch.nn.Linear(16, 32))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.clocks: dict[int, Clocks] = {}
        self.tokens = 0
        self._paused = self._waited = (0.0, 0.0)

    def train(self, steps: range, *, micro_batches: int = 1) -> None:
        """Train; in the middle evaluate, which waits for data, too."""
        batches = self._batches(4)
        for step in steps:
            self.optimizer.zero_grad()
            loss, tokens = torch.zeros(()), 0
            for _ in range(micro_batches):
                words = next(batches)
                logits = self.model(words[:, :-1])
                loss = torch.nn.functional.cross_entropy(
                    logits.flatten(0, 1), words[:, 1:].flatten()
                )
                loss.backward()
                tokens += words[:, 1:].numel()
            self.optimizer.step()
            if step == steps[len(steps) // 2]:
                self._evaluate()
            self.tokens += tokens
            before_s = time.perf_counter()
            self.tracker.log_training_step(loss, step, 4, self.optimizer, tokens=tokens)
            self.clocks[step] = Clocks(
                before_s, time.perf_counter(), self.tokens, self._paused, self._waited
            )

    def _batches(self, size: int) -> Iterator[torch.Tensor]:
        """Yield batches for ever, and note how long each was waited for."""
        while True:
            loader = torch.utils.data.DataLoader(Slow(), batch_size=size)
            data = self.tracker.data(loader)
            while True:
                before_s = time.perf_counter()
                words = next(data, None)
                least, most = self._waited
                # The phase lies within these clocks, and the batch's making within the phase.
                self._waited = (least, most + time.perf_counter() - before_s)
                if words is None:
                    break
                yield words

    def _evaluate(self) -> None:
        before_s = time.perf_counter()
        with self.tracker.pause():
            inside_s = time.perf_counter()
            loader = torch.utils.data.DataLoader(Slow(), batch_size=8)
            for words in self.tracker.data(loader):
                self.model(words)
            least_s = time.perf_counter() - inside_s
        most_s = time.perf_counter() - before_s
        self._paused = (self._paused[0] + least_s, self._paused[1] + most_s)


def check(rows: list[Row], clocks: dict[int, Clocks], *, ranks: int = 1) -> None:
    """Compare each row but the first with what lies between its clocks and the last one's."""
    assert len(rows) > 2
    for earlier, row in itertools.pairwise(rows):
        first, last, values = clocks[earlier.step], clocks[row.step], row.values
        tokens = last.tokens - first.tokens
        least_s, most_s = last.before_s - first.after_s, last.after_s - first.before_s
        least_s -= last.paused_s[1] - first.paused_s[1]
        most_s -= last.paused_s[0] - first.paused_s[0]
        assert 0 < least_s <= most_s

        rate = values["perf/tokens_per_sec"]
        assert ranks * tokens / most_s <= rate * (1 + 1e-9)
        assert rate * (1 - 1e-9) <= ranks * tokens / least_s
        assert values["perf/tflops"] == pytest.approx(PER_TOKEN * rate / ranks / 1e12)
        assert values["perf/mfu"] == pytest.approx(100 * PER_TOKEN * rate / ranks / PEAK)
        assert rate / values["perf/steps_per_sec"] == pytest.approx(
            ranks * tokens / (row.step - earlier.step)
        )
        most_waited_s = last.waited_s[1] - first.waited_s[1]
        assert 0 <= values["perf/phase_pct/data"] <= 100 * most_waited_s / least_s * (1 + 1e-9)
        paused_s = [last.paused_s[side] - first.paused_s[side] for side in (0, 1)]
        assert paused_s[0] <= values.get("perf/pause_s", 0.0) + 1e-9
        assert values.get("perf/pause_s", 0.0) <= paused_s[1] + 1e-9


def a_tracker(
    resume_id: str | None = None, *, ranks: str = "main", **arguments: Any
) -> ExperimentTracker:
    """Return a tracker that knows what a token takes."""
    options = journal_only(
        flops_per_token=PER_TOKEN, peak_flops=PEAK, find_pauses=False, ranks=ranks
    )
    return ExperimentTracker("words", resume_id=resume_id, options=options, **arguments)


def rows_of(tracker: ExperimentTracker) -> list[Row]:
    """Return the rows of a tracker's run so far."""
    assert tracker.flush(HANG_GUARD_S)
    directory = tracker.get_run_dir()
    assert directory is not None
    return read_rows(directory)


@pytest.mark.parametrize("interval", [1, 10])
def test_a_run_that_is_resumed_tells_true_rates_from_its_second_row_on(interval: int) -> None:
    """Through an evaluation, and a resume in the middle of an interval."""
    with a_tracker(log_interval=interval) as tracker:
        loop = Loop(tracker)
        loop.train(range(26))
        check(rows_of(tracker), loop.clocks)
    before = len(rows_of(tracker))
    with a_tracker(tracker.get_run_id(), log_interval=interval) as tracker:
        loop = Loop(tracker)
        loop.train(range(26, 57))
        rows = rows_of(tracker)[before:]

    check(rows, loop.clocks)
    # Nothing of the time before the resume, and of the first step: when it began nobody knows.
    assert ("perf/tokens_per_sec" in rows[0].values) is (interval > 1)


def test_the_tokens_of_micro_batches_add_up() -> None:
    """One call for an optimizer step of three."""
    with a_tracker(log_interval=2) as tracker:
        loop = Loop(tracker)
        loop.train(range(13), micro_batches=3)
        check(rows_of(tracker), loop.clocks)


def test_a_call_for_each_micro_batch_counts_its_own_tokens() -> None:
    """Three calls of one step: all tokens since the last row."""
    calls: list[Clocks] = []
    with a_tracker(log_interval=4) as tracker:
        for number in range(30):
            torch.ones(64, 64).matmul(torch.ones(64, 64))
            tokens = (calls[-1].tokens if calls else 0) + number
            before_s = time.perf_counter()
            tracker.log_training_step(0.5, number // 3, tokens=number)
            calls.append(Clocks(before_s, time.perf_counter(), tokens))
        rows = rows_of(tracker)

    logged = [number for number in range(30) if number // 3 % 4 == 0]
    assert [row.step for row in rows] == [number // 3 for number in logged]
    for first, last, row in zip(logged, logged[1:], rows[1:], strict=False):
        tokens = calls[last].tokens - calls[first].tokens
        bounds = [
            tokens / (calls[last].after_s - calls[first].before_s),
            tokens / (calls[last].before_s - calls[first].after_s),
        ]
        assert bounds[0] <= row.values["perf/tokens_per_sec"] * (1 + 1e-9)
        assert row.values["perf/tokens_per_sec"] <= bounds[1] * (1 + 1e-9)


@pytest.mark.parametrize("which", ["main", "all"])
def test_what_is_global_is_that_of_all_ranks(monkeypatch: pytest.MonkeyPatch, which: str) -> None:
    """Rank 0 of 4: tokens of all, FLOP/s of one; also where the ranks' statistics are gathered."""
    for name, value in {"RANK": "0", "WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    with a_tracker(log_interval=5, ranks=which) as tracker:
        loop = Loop(tracker)
        loop.train(range(16))
        rows = [row for row in rows_of(tracker) if "loss/total" in row.values]
        check(rows, loop.clocks, ranks=4)
