"""Tokens, FLOP/s, MFU and phases of an interval, against numbers computed by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from fasttrack import Options
from fasttrack.hotpath.records import FellOut, OddSize, PausedSince, PhaseMark, WithTokens
from fasttrack.worker.meters import StepMeter
from fasttrack.worker.unlogged import after_last
from fasttrack.worker.utilization import Utilization

Tick = tuple[float, Any]


class Bench:
    """A meter, and what it had to say."""

    def __init__(
        self, *, ranks: int = 1, device: str | None = None, find_pauses: bool = True, **flops: Any
    ) -> None:
        """Build it; `flops` are options."""
        self.refused: list[tuple[str, str]] = []
        self.warned: list[tuple[str, str]] = []
        self.device = device
        self.meter = StepMeter(
            lambda: ranks,
            lambda *told: self.refused.append(told),
            find_pauses=find_pauses,
            utilization=Utilization(
                Options(**flops), lambda: self.device, lambda *told: self.warned.append(told)
            ),
        )

    def measure(self, *ticks: Tick) -> dict[str, float]:
        """Meter an interval."""
        return self.meter.measure(ticks)


def step(at_s: float, tokens: Any = 100, batch: Any = 4) -> Tick:
    """Return the tick of a step with tokens."""
    return at_s, WithTokens(batch, tokens)


def begins(at_s: float, name: str = "data") -> Tick:
    """Return the tick of a phase's beginning."""
    return at_s, PhaseMark(name, 1)


def ends(at_s: float, name: str = "data") -> Tick:
    """Return the tick of a phase's end."""
    return at_s, PhaseMark(name, -1)


# --- tokens ---------------------------------------------------------------------------------------


def test_tokens_are_counted_over_all_ranks_beside_the_samples() -> None:
    """Those of the first step came before anything was timed."""
    bench = Bench(ranks=8)
    bench.measure(step(10.0, tokens=10**6))
    metrics = bench.measure(step(10.5, 100), step(11.0, 50), step(12.0, 150))

    assert metrics["perf/tokens_per_sec"] == pytest.approx(8 * 300 / 2.0)
    assert metrics["perf/samples_per_sec"] == pytest.approx(8 * 12 / 2.0)
    assert metrics["perf/steps_per_sec"] == pytest.approx(1.5)


def test_tokens_of_every_step_count_where_every_step_is_logged() -> None:
    """The way for usual steps is not theirs."""
    bench = Bench()
    rates = [
        bench.measure(step(0.25 * number, 100 * number)).get("perf/tokens_per_sec")
        for number in range(4)
    ]

    assert rates == [None, *map(pytest.approx, (400.0, 800.0, 1200.0))]


def test_after_a_resume_the_first_interval_counts_what_it_saw() -> None:
    """Resumed at step 7 of 10: three readings are two steps."""
    metrics = Bench().measure(step(1.0, 999), step(1.25, 10), step(2.0, 30))

    assert metrics["perf/tokens_per_sec"] == pytest.approx(40.0)


def test_a_pause_is_not_in_the_tokens_rate() -> None:
    """Ten seconds of evaluation in twelve."""
    bench = Bench(flops_per_token=2e9, peak_flops=1e12)
    bench.measure(step(0.0))
    metrics = bench.measure(step(1.0), (11.5, PausedSince(1.5)), step(12.0))

    assert metrics["perf/tokens_per_sec"] == pytest.approx(100.0)
    assert metrics["perf/mfu"] == pytest.approx(100 * 2e9 * 100 / 1e12)
    assert metrics["perf/pause_s"] == pytest.approx(10.0)


def test_a_step_without_tokens_omits_them_without_a_word() -> None:
    """As with batch sizes: half of a sum would be wrong."""
    bench = Bench()
    bench.measure(step(0.0))
    metrics = bench.measure(step(0.5), (1.0, 4))

    assert "perf/tokens_per_sec" not in metrics
    assert metrics["perf/samples_per_sec"] == pytest.approx(8.0)
    assert bench.refused == []


@pytest.mark.parametrize("tokens", [100, 100.0, np.int32(100), np.float64(100)])
def test_whatever_counts_is_a_number_of_tokens(tokens: Any) -> None:
    """The result is a plain float."""
    bench = Bench()
    bench.measure(step(0.0))
    rate = bench.measure(step(0.5, tokens, batch=None))["perf/tokens_per_sec"]

    assert rate == pytest.approx(200.0)
    assert type(rate) is float


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (-1, "-1"),
        (True, "bool True"),
        (math.nan, "float nan"),
        (1j, "complex"),
        (OddSize("a tensor"), "a tensor"),
    ],
    ids=range(5),
)
def test_wrong_tokens_are_refused_and_cost_nothing_else(wrong: Any, said: str) -> None:
    """By the name of the argument, with what to pass."""
    bench = Bench()
    bench.measure(step(0.0))
    metrics = bench.measure(step(0.5), step(1.0, wrong))

    assert "perf/tokens_per_sec" not in metrics
    assert metrics["perf/samples_per_sec"] == pytest.approx(8.0)
    assert bench.refused == [
        (
            "perf/tokens_per_sec",
            f"tokens must be this rank's number of tokens, not {said}; pass an int, such as "
            "input_ids.numel()",
        )
    ]


# --- FLOP/s ---------------------------------------------------------------------------------------


def test_flops_are_one_devices_however_many_there_are() -> None:
    """6 TFLOP a token at 50 tokens a second on each of 64: nearly a third of an H100's 989.4."""
    bench = Bench(ranks=64, device="NVIDIA H100 80GB HBM3", flops_per_token=6e12)
    bench.measure(step(0.0))
    metrics = bench.measure(step(2.0))

    assert metrics["perf/tokens_per_sec"] == pytest.approx(64 * 50)
    assert metrics["perf/tflops"] == pytest.approx(300.0)
    assert metrics["perf/mfu"] == pytest.approx(100 * 300 / 989.4)


def test_flops_may_be_those_of_a_sample() -> None:
    """A model of pictures has no tokens. Usual steps are metered for them, too."""
    bench = Bench(flops_per_sample=1e12, peak_flops=100e12)
    measured = [bench.measure((0.25 * number, 5)) for number in range(4)]

    assert [row["perf/tflops"] for row in measured[1:]] == pytest.approx([20.0] * 3)
    assert [row["perf/mfu"] for row in measured[1:]] == pytest.approx([20.0] * 3)


def test_a_type_has_its_own_peak() -> None:
    """Trained in fp8."""
    bench = Bench(device="NVIDIA H200", flops_per_token=19.789e12, peak_flops="fp8")
    bench.measure(step(0.0))

    assert bench.measure(step(1.0, 1))["perf/mfu"] == pytest.approx(1.0)


def test_two_ranks_that_share_a_batch_tell_what_torchtitan_tells() -> None:
    """Four ranks, tensor parallel by two, each passes its share. By torchtitan 0.3's formulas."""
    per_token, peak, non_data_parallel_size = 4.5e10, 312e12, 2
    tokens, time_delta = 3 * 4 * 2048, 7.5
    bench = Bench(ranks=4, flops_per_token=per_token, peak_flops=peak)
    bench.measure(step(0.0))
    share = 4 * 2048 / non_data_parallel_size
    metrics = bench.measure(step(2.0, share), step(4.5, share), step(7.5, share))

    tps = tokens / (time_delta * non_data_parallel_size)
    assert metrics["perf/tokens_per_sec"] == pytest.approx(4 * tps)
    assert metrics["perf/tflops"] == pytest.approx(per_token * tps / 1e12)
    assert metrics["perf/mfu"] == pytest.approx(100 * per_token * tps / peak)


@pytest.mark.parametrize(
    ("device", "wanted", "said"),
    [
        ("NVIDIA Q9000", "auto", "the peak of 'NVIDIA Q9000' is not known;"),
        ("Tesla V100-SXM2-16GB", "bf16", "the peak of 'Tesla V100-SXM2-16GB' is not known in bf16"),
        (None, "auto", "no GPU is in use;"),
    ],
)
def test_without_a_peak_there_is_no_mfu_and_it_is_said_what_to_pass(
    device: str | None, wanted: str, said: str
) -> None:
    """Never another device's."""
    bench = Bench(device=device, flops_per_token=1e12, peak_flops=wanted)
    bench.measure(step(0.0))
    metrics = bench.measure(step(1.0, 3))

    assert metrics["perf/tflops"] == pytest.approx(3.0)
    assert "perf/mfu" not in metrics
    ((_, text),) = bench.warned
    assert said in text
    assert "pass Options(peak_flops=...)" in text


def test_a_gpu_that_comes_into_use_later_is_found() -> None:
    """The first rows may tell of steps on the host."""
    bench = Bench(flops_per_token=1e12)
    bench.measure(step(0.0))
    before = bench.measure(step(1.0))
    bench.device = "NVIDIA A100-SXM4-80GB"
    after = bench.measure(step(2.0, 3.12))

    assert "perf/mfu" not in before
    assert after["perf/mfu"] == pytest.approx(1.0)


def test_flops_without_tokens_say_what_is_missing() -> None:
    """An option that does nothing would not be noticed."""
    bench = Bench(flops_per_token=1e12, peak_flops=1e15)
    bench.measure((0.0, 4))
    metrics = bench.measure((1.0, 4))

    assert "perf/tflops" not in metrics
    ((_, text),) = bench.warned
    assert "tokens= at every call of log_training_step" in text


# --- phases ---------------------------------------------------------------------------------------


def test_a_phase_is_told_as_its_share_of_the_training_time() -> None:
    """A quarter of each step waits for data; beside it another phase."""
    bench = Bench()
    bench.measure(begins(9.0), ends(9.9), (10.0, 4))
    metrics = bench.measure(
        *[
            tick
            for at_s in (10.0, 11.0)
            for tick in (
                begins(at_s),
                ends(at_s + 0.25),
                begins(at_s + 0.5, "optimizer"),
                ends(at_s + 0.6, "optimizer"),
                (at_s + 1.0, 4),
            )
        ]
    )

    assert metrics["perf/phase_pct/data"] == pytest.approx(25.0)
    assert metrics["perf/phase_pct/optimizer"] == pytest.approx(10.0)
    assert bench.meter.phases_s == pytest.approx({"data": 0.5, "optimizer": 0.2})


def test_a_phase_that_a_logged_step_lies_in_is_split_there() -> None:
    """The call that logs stands in the block, as in `with tracker.phase("step"):`."""
    bench = Bench()
    bench.measure((0.0, 4))
    shares = [
        bench.measure(*ticks)["perf/phase_pct/step"]
        for ticks in (
            [begins(0.25, "step"), (1.0, 4)],
            [ends(1.125, "step"), begins(1.25, "step"), (2.0, 4)],
            [(3.0, 4)],
            [ends(3.5, "step"), (4.0, 4)],
            [(5.0, 4)],
        )
    ]

    assert shares == pytest.approx([75.0, 87.5, 100.0, 50.0, 0.0])


def test_phases_of_one_name_within_one_another_count_once() -> None:
    """Nested, and on another thread at the same time."""
    bench = Bench()
    bench.measure((0.0, 4))
    metrics = bench.measure(
        begins(1.0), begins(2.0), begins(2.5), ends(3.0), ends(4.0), ends(5.0), (8.0, 4)
    )

    assert metrics["perf/phase_pct/data"] == pytest.approx(50.0)


def test_what_of_a_phase_is_in_a_pause_is_in_neither() -> None:
    """An evaluation waits for its data, too."""
    bench = Bench()
    bench.measure((0.0, 4))
    metrics = bench.measure(
        begins(1.0),
        ends(2.0),
        begins(5.0),
        ends(6.0),
        begins(7.0),
        (8.0, PausedSince(4.0)),
        ends(9.0),
        (14.0, 4),
    )

    assert metrics["perf/pause_s"] == pytest.approx(4.0)
    assert metrics["perf/phase_pct/data"] == pytest.approx(20.0)


def test_a_long_wait_for_data_is_no_pause() -> None:
    """A stalled loader would be taken for an evaluation, and be in nothing."""
    bench = Bench()
    ticks: list[Tick] = []
    for number in range(40):
        at_s = 0.02 * number + (30.0 if number > 30 else 0.0)
        ticks += [begins(at_s), ends(at_s + (30.001 if number == 30 else 0.001))]
        ticks += [(at_s + (30.02 if number == 30 else 0.02), 4)]
    bench.measure(*ticks[:3])
    metrics = bench.measure(*ticks[3:])

    assert "perf/pause_s" not in metrics
    assert metrics["perf/phase_pct/data"] == pytest.approx(100 * 30.039 / 30.78)


def test_a_pause_that_nobody_marked_is_found_beside_phases() -> None:
    """An evaluation of two seconds behind a wait for data of a second."""
    bench = Bench()
    bench.measure((0.0, 4))
    steps = [(0.02 * number, 4) for number in range(1, 30)]
    metrics = bench.measure(*steps, begins(0.58), ends(1.58), (3.6, 4))

    assert metrics["perf/pause_s"] == pytest.approx(2.0)
    assert metrics["perf/phase_pct/data"] == pytest.approx(100 * 1.0 / 1.6)


def test_after_readings_fell_out_no_phase_is_open_for_ever() -> None:
    """Its end may have been among them; and an end without its beginning ends nothing."""
    bench = Bench()
    bench.measure((0.0, 4))
    bench.measure(begins(0.5), (1.0, 4))
    metrics = bench.measure(
        (1.0, FellOut), (90.0, 4), ends(90.5), begins(91.0), ends(92.0), (94.0, 4)
    )

    assert metrics["perf/phase_pct/data"] == pytest.approx(25.0)


def test_a_phase_that_does_not_come_any_more_has_no_share() -> None:
    """A curve that ended would look like the last value."""
    bench = Bench()
    bench.measure(begins(0.0), ends(0.1), (0.2, 4))
    later = [bench.measure((at_s, 4)) for at_s in (1.0, 2.0)]

    assert [row["perf/phase_pct/data"] for row in later] == [0.0, 0.0]


def test_a_phase_without_a_step_is_followed_all_the_same() -> None:
    """Another thread's call took the reading."""
    bench = Bench()
    bench.measure((0.0, 4))

    assert bench.measure(begins(0.5)) == {}
    assert bench.measure((1.0, 4), ends(1.5), (2.0, 4))["perf/phase_pct/data"] > 50.0


def test_what_is_said_of_steps_behind_the_last_row_leaves_phases_out() -> None:
    """A mark is no step."""
    told = after_last([begins(1.0), ends(1.5), (2.0, 4), begins(2.5), step(3.0)], 0.5, (), 4.0)

    assert told is not None
    assert (told.steps, told.trained_s, told.pause_s) == (2, 2.5, 0.0)


def test_the_devices_name_is_asked_of_torch_only_where_it_computes_there() -> None:
    """CUDA is never initialised for it."""
    from fasttrack.worker.utilization import find_device_name

    if torch.cuda.is_initialized():
        assert find_device_name(None) == torch.cuda.get_device_name(0)
    else:
        assert find_device_name(0) is None
