"""Quiet after the start: what the logging calls take, refuse and survive."""

from __future__ import annotations

import math
import sys
import threading
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from support.journals import read_rows
from support.step_loggers import Bench
from support.trackers import HANG_GUARD_S, Trackers, journal_only, written_values

from fasttrack import ExperimentTracker
from fasttrack.hotpath.call_meter import (
    FIRST,
    LOGGED,
    LOGGED_EVERY,
    METRICS,
    SKIPPED,
    SKIPPED_EVERY,
)
from fasttrack.hotpath.records import OddSize


def rows(tracker: ExperimentTracker) -> list[tuple[int, dict[str, float]]]:
    """Return step and values of each row that was written."""
    run_dir = tracker.get_run_dir()
    assert run_dir is not None
    assert tracker.flush(HANG_GUARD_S)
    return [(row.step, row.values) for row in read_rows(run_dir)]


# --- which steps ----------------------------------------------------------------------------------


def test_every_tenth_step_is_logged_with_the_ticks_of_all() -> None:
    """The others leave the time and their batch size."""
    bench = Bench()
    for step in range(21):
        bench.log(step, batch_size=step)

    records = bench.pop()
    assert [record[0] for record in records] == [0, 10, 20]
    assert [[size for _, size in record[4] or ()] for record in records] == [
        [0],
        [*range(1, 11)],
        [*range(11, 21)],
    ]


def test_a_new_interval_holds_from_the_next_step() -> None:
    """As the overhead budget asks for."""
    bench = Bench()
    bench.logger.set_interval(3)
    for step in range(7):
        bench.log(step)

    assert [step for step, _ in bench.records()] == [0, 3, 6]


def test_after_the_end_every_call_is_late_whatever_the_interval() -> None:
    """Those that would log nothing, too; an interval that comes too late changes nothing."""
    bench = Bench()
    bench.logger.close()
    bench.logger.set_interval(10)
    steps: tuple[Any, ...] = (1, 10, 11, "no step")
    for step in steps:
        bench.log(step)
        bench.metrics({"a": 1}, step)

    assert bench.records() == []
    assert bench.notices.counts() == {"late_calls": 8}


def test_some_calls_of_each_kind_are_timed() -> None:
    """The first, and one in so many; both where all is usual, and where a call takes longer."""
    for further in ({}, {"grad_norm": 1.0}):
        bench = Bench()
        for step in range(1, 10 * SKIPPED_EVERY):
            bench.log(step, **further)

        kinds = [kind for kind, _, _ in bench.calls.timed]
        assert kinds.count(FIRST) == 1
        logged = SKIPPED_EVERY - 1
        assert kinds.count(LOGGED) == (logged - 1) // LOGGED_EVERY
        assert kinds.count(SKIPPED) == 10


def test_a_trainer_that_counts_anew_is_timed_on() -> None:
    """In epochs shorter than what was reached before."""
    bench = Bench()
    for step in range(1, 1000):
        bench.log(step)
    bench.calls.timed.clear()
    for _ in range(40):
        for step in range(1, 2 * SKIPPED_EVERY):
            bench.log(step)

    kinds = [kind for kind, _, _ in bench.calls.timed]
    assert kinds.count(LOGGED) == 40 * 3 // LOGGED_EVERY
    assert kinds.count(SKIPPED) >= 4


def test_one_in_eight_calls_of_log_metrics_is_timed() -> None:
    """They cost too little to be timed each."""
    bench = Bench()
    for step in range(16):
        bench.metrics({"a": 1.0}, step)

    assert [kind for kind, _, _ in bench.calls.timed] == [METRICS] * 2


def test_a_full_ring_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    """The ring itself counts what it drops."""
    bench = Bench(log_interval=1, capacity=2)
    for step in range(5):
        bench.log(step)

    assert bench.ring.dropped == 3
    assert capsys.readouterr().err.count("the ring is full") == 1


def test_gradients_wake_the_worker_and_nothing_else_does() -> None:
    """They are large, and may soon be zeroed in place."""
    bench = Bench(log_interval=1)
    model = torch.nn.Linear(2, 1)
    model(torch.ones(1, 2)).sum().backward()
    bench.log(0)
    before = bench.wakes
    bench.log(1, model=model)

    assert (before, bench.wakes) == (0, 1)
    assert [record[5] is not None for record in bench.pop()] == [False, True]


# --- what is logged -------------------------------------------------------------------------------


def test_a_trainers_callback_has_no_loss() -> None:
    """Rate, norm and throughput are logged all the same."""
    bench = Bench(log_interval=1)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
    bench.log(3, None, optimizer=optimizer, grad_norm=2.0, extra={"a": 1})

    assert bench.records() == [(3, {"train/lr": 0.1, "train/grad_norm": 2.0, "a": 1})]


def test_learning_rates_of_several_groups_are_named_or_numbered() -> None:
    """The first is `train/lr`; groups that are added later are there from then on."""
    bench = Bench(log_interval=1)
    weights = [torch.nn.Parameter(torch.ones(1)) for _ in range(3)]
    optimizer = torch.optim.SGD([{"params": weights[:1]}, {"params": weights[1:2]}], lr=0.1)
    bench.log(0, None, optimizer=optimizer)
    optimizer.add_param_group({"params": weights[2:], "lr": 0.3, "name": "head"})
    bench.log(1, None, optimizer=optimizer)

    assert bench.records() == [
        (0, {"train/lr": 0.1, "train/lr/1": 0.1}),
        (1, {"train/lr": 0.1, "train/lr/1": 0.1, "train/lr/head": 0.3}),
    ]


@pytest.mark.parametrize("plain_first", [True, False])
def test_a_loss_scale_is_found_whatever_optimizer_came_before(plain_first: bool) -> None:
    """torch's own are not asked again; DeepSpeed's, which wrap them, always are."""
    plain = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
    scaled = SimpleNamespace(param_groups=plain.param_groups, loss_scale=1024.0)
    bench = Bench(log_interval=1)
    order = [plain, scaled] if plain_first else [scaled, plain]
    for step, optimizer in enumerate([*order, *order]):
        bench.log(step, None, optimizer=optimizer)

    scales = [values.get("train/amp_scale") for _, values in bench.records()]
    assert scales == ([None, 1024.0] if plain_first else [1024.0, None]) * 2


def test_metrics_without_a_step_take_that_of_the_last_call_that_had_one() -> None:
    """0 before any; steps that are not logged count, and so do those of other metrics."""
    bench = Bench()
    bench.metrics({"a": 1}, None)
    bench.log(1234)
    bench.metrics({"b": 1}, None)
    bench.metrics({"c": 1}, 7)
    bench.metrics({"d": 1}, None)

    bench.log(1235)
    bench.metrics({"e": 1}, None)
    bench.metrics({"f": 1}, 7)
    bench.log(1235)  # again: a micro-batch
    bench.metrics({"g": 1}, None)

    assert bench.records() == [
        (0, {"a": 1}),
        (1234, {"b": 1}),
        (7, {"c": 1}),
        (7, {"d": 1}),
        (1235, {"e": 1}),
        (7, {"f": 1}),
        (1235, {"g": 1}),
    ]


def test_metrics_of_another_step_do_not_move_the_training_step() -> None:
    """A checkpoint that is logged next belongs to the training step."""
    bench = Bench()
    bench.log(999)
    bench.metrics({"eval": 1}, 3)

    assert bench.logger.training_step_number == 999


def test_steps_that_log_nothing_are_remembered_by_the_tracker(make: Trackers) -> None:
    """It notes them by itself, without a further call."""
    tracker = make(log_interval=10)
    for step in range(18):
        tracker.log_training_step(None, step)
    tracker.log_metrics({"eval": 1})
    tracker.log_metrics({"eval": 2}, step=3)
    tracker.log_training_step(None, 17)  # the same again: a micro-batch
    tracker.log_metrics({"eval": 3})

    assert rows(tracker)[-3:] == [(17, {"eval": 1}), (3, {"eval": 2}), (17, {"eval": 3})]


def test_nested_mappings_are_logged_under_the_names_that_wandb_shows(make: Trackers) -> None:
    """At any depth, in metrics and in `extra`; tensors in them are captured as any."""
    tracker = make()
    nested = {"val": {"loss": torch.tensor(0.5), "top": {"1": 0.25, 5: 0.75}}, "a": 1}
    tracker.log_metrics(nested, 0)
    tracker.log_training_step(None, 1, extra=nested)

    expected = {"val.loss": 0.5, "val.top.1": 0.25, "val.top.5": 0.75, "a": 1}
    first, second = written_values(tracker)
    assert first == expected
    assert second.items() >= expected.items()
    assert tracker.stats().refused == 0
    assert nested["val"] == {"loss": torch.tensor(0.5), "top": {"1": 0.25, 5: 0.75}}  # untouched


def test_bad_value_in_a_nested_mapping_is_refused_alone_by_its_whole_name(
    make: Trackers, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its neighbours are kept."""
    tracker = make()
    tracker.log_metrics({"val": {"name": "resnet", "loss": 0.5}}, 0)

    assert written_values(tracker) == [{"val.loss": 0.5}]
    said = capsys.readouterr().err
    assert "val.name: a str 'resnet' is not one real number; text belongs to" in said
    assert "update_config" in said


# --- what is refused, counted and survived --------------------------------------------------------


@pytest.mark.parametrize(
    "step",
    ["1", 1.5, True, math.nan, math.inf, [1], torch.tensor(1.5), torch.ones(2), torch.tensor(True)],
    ids=str,
)
def test_step_that_is_no_integer_is_counted_and_said_once_per_method(
    make: Trackers,
    capsys: pytest.CaptureFixture[str],
    step: Any,
) -> None:
    """The call is given up, the next one is not."""
    tracker = make()

    for _ in range(3):
        tracker.log_metrics({"a": 1}, step)
        tracker.log_training_step(1.0, step)
    tracker.log_metrics({"a": 2}, 7)

    said = capsys.readouterr().err
    assert written_values(tracker) == [{"a": 2}]
    assert tracker.stats().failed_calls == 6
    assert said.count("log_metrics: step must be an integer, not ") == 1
    assert said.count("log_training_step: step must be an integer, not ") == 1


@pytest.mark.parametrize("mode", ["auto", "inline", "worker"])
def test_a_norm_in_extra_is_kept_instead_of_ours(make: Trackers, mode: str) -> None:
    """Whoever would have computed it, and however it is passed."""
    model = torch.nn.Linear(2, 1)
    model(torch.ones(2)).backward()
    tracker = make(options=journal_only(grad_norm=mode))

    for step, norm in enumerate((7.0, torch.tensor(8.0), None)):
        tracker.log_training_step(0.5, step, model=model, extra={"train/grad_norm": norm})
    tracker.log_training_step(0.5, 3, model=model, extra={"a": 1})

    norms = [values.get("train/grad_norm") for values in written_values(tracker)]
    assert norms == [7.0, 8.0, None, pytest.approx(math.sqrt(3))]
    assert tracker.stats().refused == 1


@pytest.mark.parametrize("step", [np.int64(5), np.uint8(5), torch.tensor(5), 5.0], ids=repr)
def test_step_of_another_integer_type_is_taken(make: Trackers, step: Any) -> None:
    """Loop counters come from NumPy and from tensors, too."""
    tracker = make()

    tracker.log_metrics({"a": 1}, step)

    assert rows(tracker) == [(5, {"a": 1})]
    assert type(rows(tracker)[0][0]) is int


def test_engine_that_cannot_tell_its_norm_costs_the_norm_only(make: Trackers) -> None:
    """The rest of the row is logged."""

    class Engine:
        def get_global_grad_norm(self) -> float:
            return 1 / 0

    tracker = make()
    engine: Any = Engine()
    tracker.log_training_step(0.5, 0, model=engine)

    assert written_values(tracker) == [{"loss/total": 0.5}]
    assert tracker.stats().refused == 1


@pytest.mark.parametrize(
    "step",
    [
        2**70,
        -(2**70),
        2**63,
        2**63 - 1,
    ],
    ids=hex,
)
def test_step_that_nothing_can_hold_costs_its_call_only(make: Trackers, step: int) -> None:
    """JSON ends at 64 bits, W&B's `_step` at 63, and the row after it needs one more."""
    tracker = make(options=journal_only(flush_interval_s=5.0))

    for at in (1, step, 2):
        tracker.log_metrics({"a": 1.0}, at)

    written, stats = written_values(tracker), tracker.stats()
    assert written == [{"a": 1.0}, {"a": 1.0}]
    assert stats.failed_calls + stats.refused == 1
    assert stats.worker_errors == 0


@pytest.mark.parametrize(
    "bad",
    [
        "0.5",
        None,
        b"1",
        1j,
        [1.0],
        object(),
        torch.zeros(3),
        torch.zeros(1000, 1000),
        torch.zeros(0),
        torch.tensor(1j),
        np.zeros(2),
        np.array(["x"]),
        np.datetime64("2026-01-01"),
        2**70,
    ],
    ids=lambda bad: f"{type(bad).__name__}-{getattr(bad, 'shape', '')}",
)
def test_value_that_is_not_one_number_is_refused_alone(
    make: Trackers,
    capsys: pytest.CaptureFixture[str],
    bad: Any,
) -> None:
    """Its neighbours are kept; it is counted each time and said once, by name."""
    tracker = make()

    for step in range(3):
        tracker.log_metrics({"bad": bad, "good": step}, step)
    tracker.log_training_step(0.5, 3, extra={"bad": bad, "good": 3})

    rows = written_values(tracker)
    said = capsys.readouterr().err
    assert [row["good"] for row in rows] == [0, 1, 2, 3]
    assert not any("bad" in row for row in rows)
    assert rows[3]["loss/total"] == 0.5
    assert tracker.stats().refused == 4
    assert said.count("not logged") == 1
    assert "bad" in said


def test_huge_tensor_is_told_what_to_pass_and_not_held(
    make: Trackers, capsys: pytest.CaptureFixture[str]
) -> None:
    """A whole weight given for a metric is a mistake with a fix."""
    make().log_metrics({"w": torch.zeros(512, 512)}, 0)

    assert "w: a tensor of shape (512, 512) is not one number; pass a reduction such as" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize("name", [1, None, ("a", "b"), b"a", "caf\udce9"], ids=repr)
@pytest.mark.parametrize("value", [1.0, torch.tensor(1.0)], ids=["float", "tensor"])
def test_metric_name_that_is_no_string_is_refused_alone(
    make: Trackers,
    capsys: pytest.CaptureFixture[str],
    name: Any,
    value: Any,
) -> None:
    """JSON has string keys only; the other metrics of the call stay."""
    tracker = make()

    for step in range(2):
        tracker.log_metrics({name: value, "good": value}, step)

    assert written_values(tracker) == [{"good": 1.0}, {"good": 1.0}]
    assert tracker.stats().refused == 2
    assert capsys.readouterr().err.count("not logged") == 1


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "'': a metric without a name, which W&B drops; give it one"),
        ("step", "step: every row has its step under this name, as it is passed; choose another"),
        ("_step", "_step: W&B keeps this name for itself"),
        ("_runtime", "_runtime: W&B keeps this name for itself"),
        ("_timestamp", "_timestamp: W&B keeps this name for itself"),
        ("_wandb", "_wandb: W&B keeps this name for itself"),
    ],
)
def test_name_that_wandb_drops_or_overwrites_is_refused_alone(
    make: Trackers, capsys: pytest.CaptureFixture[str], name: str, why: str
) -> None:
    """W&B would lose it without a word, or take it for its own and misplace the whole row."""
    tracker = make()

    tracker.log_metrics({name: 1, "good": 2}, 0)
    tracker.log_metrics({name: 1}, 1)
    tracker.log_training_step(0.5, 2, extra={name: 1})

    assert [row.keys() & {name, "good"} for row in written_values(tracker)] == [{"good"}, set()]
    assert tracker.stats().refused == 3
    assert capsys.readouterr().err.count(why) == 1


def test_what_is_logged_under_a_name_of_ours_is_kept(make: Trackers) -> None:
    """A throughput of the user's own was overwritten without a word."""
    tracker = make(gpu_stats_interval=1)
    mine = {"perf/steps_per_sec": -1, "fasttrack/dropped": -2, "train/lr": -3}
    for step in range(2):
        tracker.log_training_step(0.5, step, extra=mine)

    assert [row for row in written_values(tracker) if not mine.items() <= row.items()] == []


def test_non_finite_values_are_the_truth(make: Trackers) -> None:
    """A diverged run must look diverged."""
    tracker = make()

    tracker.log_metrics({"a": math.inf, "b": torch.tensor(-math.inf), "c": math.nan}, 0)

    (row,) = written_values(tracker)
    assert (row["a"], row["b"], math.isnan(row["c"])) == (math.inf, -math.inf, True)


@pytest.mark.parametrize("metrics", [None, 5, "a", [("a", 1)], {"a"}], ids=repr)
def test_metrics_that_are_no_mapping_are_counted_and_said_once(
    make: Trackers,
    capsys: pytest.CaptureFixture[str],
    metrics: Any,
) -> None:
    """The call is ignored, the next one is not."""
    tracker = make()

    tracker.log_metrics(metrics, 0)
    tracker.log_metrics(metrics, 1)
    tracker.log_metrics({"a": 1}, 2)

    assert written_values(tracker) == [{"a": 1}]
    assert tracker.stats().failed_calls == 2
    assert capsys.readouterr().err.count("the call was ignored") == 1


def test_model_that_is_no_module_costs_the_norm_only(
    make: Trackers, capsys: pytest.CaptureFixture[str]
) -> None:
    """The loss is logged all the same."""
    tracker = make()

    for step in range(2):
        tracker.log_training_step(1.0, step, model=object())  # type: ignore[arg-type]

    assert [row["loss/total"] for row in written_values(tracker)] == [1.0, 1.0]
    assert capsys.readouterr().err.count("model must be a torch.nn.Module, not object") == 1


def test_calls_after_finish_are_counted_and_said_once(
    make: Trackers, capsys: pytest.CaptureFixture[str]
) -> None:
    """They come too late, and raise nothing."""
    tracker = make()
    tracker.log_metrics({"a": 1}, 0)
    tracker.finish()
    for step in range(3):
        tracker.log_metrics({"a": 2}, step)
        tracker.log_training_step(2.0, step)

    tracker.finish(exit_code=1)

    assert tracker.stats().late_calls == 6
    assert capsys.readouterr().err.count("a log call came after finish()") == 1
    assert tracker.stats().rows_written == 1
    assert (tracker.is_active(), tracker.flush()) == (False, True)


def test_a_step_that_is_none_is_no_training_step(
    make: Trackers, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only `log_metrics` can do without."""
    tracker = make()
    tracker.log_training_step(1.0, None)  # type: ignore[arg-type]

    assert tracker.stats().failed_calls == 1
    assert "step must be an integer, not NoneType" in capsys.readouterr().err


def test_a_closing_run_and_a_stretching_interval_do_not_wait_for_each_other() -> None:
    """The worker sets the interval while a signal handler ends the run."""
    bench = Bench()

    def stretch() -> None:
        for steps in range(1, 5000):
            bench.logger.set_interval(steps)

    threads = [threading.Thread(target=stretch), threading.Thread(target=bench.logger.close)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG_GUARD_S)

    assert not any(thread.is_alive() for thread in threads)
    assert bench.hot._interval == 1


# --- batch sizes and pauses -----------------------------------------------------------------------


def test_a_batch_that_is_passed_for_its_size_is_not_kept() -> None:
    """It may be large: what it is stands in its place, also of the steps that were noted before."""
    bench = Bench(log_interval=1000)
    batch: Any = torch.ones(64)
    kept = sys.getrefcount(batch)
    for step in range(1, 100):
        bench.log(step, batch_size=batch)

    assert sys.getrefcount(batch) == kept
    assert {size for _, size in bench.hot._ticks} == {OddSize("Tensor")}
    assert len(bench.hot._ticks) == 99


@pytest.mark.parametrize("size", ["8", True, torch.tensor(8), [8], -8, math.nan, Ellipsis], ids=str)
def test_a_wrong_batch_size_costs_the_samples_only(
    make: Trackers, capsys: pytest.CaptureFixture[str], size: Any
) -> None:
    """It is refused with every row that it spoils, and said once."""
    tracker = make()
    for step in range(3):
        tracker.log_training_step(0.5, step, size)

    rows = written_values(tracker)
    assert [row["loss/total"] for row in rows] == [0.5] * 3
    assert all("perf/steps_per_sec" in row for row in rows[1:])
    assert not any("perf/samples_per_sec" in row for row in rows)
    assert tracker.stats().refused == 2
    assert capsys.readouterr().err.count("perf/samples_per_sec: batch_size must be") == 1


def test_a_marked_pause_is_not_in_the_throughput(make: Trackers) -> None:
    """Nested, entered twice, left by an exception; its time is a metric of its own."""
    tracker = make(log_interval=2)
    began_s = time.perf_counter()
    tracker.log_training_step(0.5, 0)
    pause = tracker.pause()
    with pause, tracker.pause(), pause:
        time.sleep(0.05)
    with pytest.raises(KeyError), tracker.pause():
        raise KeyError("x")
    for step in range(1, 5):
        tracker.log_training_step(0.5, step)
    elapsed_s = time.perf_counter() - began_s

    _, paused, after = written_values(tracker)
    assert 0.05 <= paused["perf/pause_s"] < elapsed_s
    assert 2 / paused["perf/steps_per_sec"] + paused["perf/pause_s"] < elapsed_s
    assert paused["perf/step_time_ms/max"] < (elapsed_s - 0.05) * 1e3
    assert "perf/pause_s" not in after


def test_the_pause_of_another_thread_counts(make: Trackers) -> None:
    """An evaluation that runs beside nothing; the step goes on when it is over."""
    tracker = make()

    def evaluate() -> None:
        with tracker.pause():
            time.sleep(0.05)

    tracker.log_training_step(0.5, 0)
    thread = threading.Thread(target=evaluate)
    thread.start()
    thread.join(HANG_GUARD_S)
    tracker.log_training_step(0.5, 1)

    assert written_values(tracker)[1]["perf/pause_s"] >= 0.05


@pytest.mark.parametrize("finished", [True, False])
def test_a_tracker_that_does_not_record_pauses_for_nothing(finished: bool, make: Trackers) -> None:
    """Disabled, or finished: the block runs, and its exceptions pass."""
    tracker = make(enabled=finished)
    tracker.finish()
    with tracker.pause(), tracker.pause():
        ran = True
    with pytest.raises(KeyError), tracker.pause():
        raise KeyError("x")

    assert ran
    assert tracker.stats().late_calls == 0
