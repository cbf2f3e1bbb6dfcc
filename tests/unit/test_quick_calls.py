"""The quick way of the logging calls: it tells what the long one does, of the same calls."""

from __future__ import annotations

import inspect
import random
import time
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
from support.journals import read_rows
from support.step_loggers import Bench
from support.trackers import HANG_GUARD_S, Trackers, written_values

from fasttrack import ExperimentTracker
from fasttrack.hotpath.records import MOST_TICKS, FellOut


class LossOfItsOwn(torch.Tensor):
    """A tensor that is not quite usual."""


def an_optimizer(groups: int = 1, lr: Any = 0.1) -> torch.optim.Optimizer:
    """Return one of torch's."""
    parameters = [torch.nn.Parameter(torch.ones(1)) for _ in range(groups)]
    return torch.optim.SGD([{"params": [parameter]} for parameter in parameters], lr=lr)


def whole(bench: Bench) -> list[Any]:
    """Return what was pushed as rows will have it: resolved, without times."""
    return [
        (step, values, None if ticks is None else [size for _, size in ticks])
        for step, _, values, ticks in bench.resolver.resolve(bench.ring.pop(1024))
    ]


LOSSES = [
    0.5,
    1,
    True,
    None,
    torch.tensor(0.25),
    torch.tensor(0.25, requires_grad=True),
    torch.tensor([0.5], dtype=torch.float64),
    torch.tensor(2),
    torch.tensor(True),
    torch.tensor(1j),
    torch.ones(3),
    torch.tensor(0.5).to(torch.float8_e5m2),
    torch.ones(1, device="meta"),
    torch.tensor(0.5).as_subclass(LossOfItsOwn),
    np.float32(0.5),
    "0.5",
    float("nan"),
]


@pytest.mark.parametrize("loss", LOSSES, ids=range(len(LOSSES)))
@pytest.mark.parametrize("groups", [0, 1, 2])
@pytest.mark.parametrize("batch_size", [None, 8, 8.0, torch.ones(8)], ids=range(4))
def test_a_training_step_is_the_same_by_either_way(
    capsys: pytest.CaptureFixture[str], loss: Any, groups: int, batch_size: Any
) -> None:
    """Values, batch sizes, refusals."""
    optimizer = an_optimizer(groups) if groups else None
    quick, long = Bench(log_interval=2), Bench(log_interval=2)
    long.hot._room = 0
    for bench in (quick, long):
        for step in range(5):
            bench.log(step, loss, batch_size=batch_size, optimizer=optimizer)

    assert repr(whole(quick)) == repr(whole(long))
    assert quick.notices.reasons() == long.notices.reasons()


@pytest.mark.parametrize("lr", [0.1, 1, torch.tensor(0.1), np.float64(0.1)], ids=range(4))
def test_a_rate_is_the_same_by_either_way(lr: Any) -> None:
    """Whatever it is kept as, and it is that of the call."""
    quick, long = Bench(log_interval=1), Bench(log_interval=1)
    long.hot._room = 0
    for bench in (quick, long):
        optimizer = an_optimizer()
        for step in range(3):
            optimizer.param_groups[0]["lr"] = lr * (step + 1)
            bench.log(step, optimizer=optimizer)
            optimizer.param_groups[0]["lr"] = 7.0

    found = whole(quick)
    assert found == whole(long)
    assert found[2][1]["train/lr"] == pytest.approx(3 * float(lr))


@pytest.mark.parametrize("size", [5, 40])
def test_metrics_are_the_same_by_either_way(capsys: pytest.CaptureFixture[str], size: int) -> None:
    """Also where the ones that are no floats change from call to call."""
    quick, long = Bench(), Bench()
    long.hot._room = 0
    for bench in (quick, long):
        for step in range(len(LOSSES) + 2):
            values: dict[Any, Any] = {f"m{number}": number + 0.5 for number in range(size)}
            for offset, loss in enumerate(LOSSES[step : step + 2]):
                values[f"m{(step + offset) % size}"] = loss
            values["nested"] = {"a": 1.0} if step % 3 else 2.0
            bench.metrics(values if step % 4 else OrderedDict(values), step)
            values.update(dict.fromkeys(values, 9.0))  # too late

    assert repr(whole(quick)) == repr(whole(long))
    assert quick.notices.reasons() == long.notices.reasons()


class Name(str):
    """A name that is not quite usual."""

    __slots__ = ()


ODD: list[Any] = [
    torch.tensor(0.25, requires_grad=True),
    torch.tensor(2),
    torch.tensor(True),
    torch.ones(3),
    3,
    True,
    np.float64(0.5),
    np.ones(1),
    "0.5",
]


@pytest.mark.parametrize("seed", range(40))
def test_many_metrics_of_changing_types_are_the_same_by_either_way(
    capsys: pytest.CaptureFixture[str], seed: int
) -> None:
    """What is no float stands now here, now there, and for some calls where it stood before."""
    draw = random.Random(seed)
    quick, long = Bench(), Bench()
    long.hot._room = 0
    size = draw.randrange(16, 24)
    names: list[Any] = [f"m{number}" for number in range(size)]
    names[draw.randrange(size)] = Name("m_own")
    odd: dict[Any, Any] = {}
    for step in range(30):
        if draw.random() < 0.4:
            kinds = draw.sample(ODD, draw.randrange(1, 4))
            odd = {name: draw.choice(kinds) for name in draw.sample(names, draw.randrange(8))}
            draw.shuffle(names)
        values = dict.fromkeys(names, step + 0.5) | odd
        given = dict(values)
        for bench in (quick, long):
            bench.metrics(values, step)
        assert list(map(id, values.values())) == list(map(id, given.values()))

    assert repr(whole(quick)) == repr(whole(long))
    assert quick.notices.reasons() == long.notices.reasons()


def test_steps_that_were_not_logged_belong_to_the_next_one_that_was() -> None:
    """Whenever the worker comes, and whatever else was logged in between."""
    bench = Bench(log_interval=3)
    for step in range(10):
        bench.log(step, batch_size=step)
        bench.metrics({"a": 1.0}, step)
    first = [ticks for _, _, ticks in whole(bench) if ticks is not None]
    for step in range(10, 13):
        bench.log(step, batch_size=step, grad_norm=1.0)
    second = [ticks for _, _, ticks in whole(bench) if ticks is not None]

    assert first == [[0], [1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert second == [[10, 11, 12]]


def test_of_more_steps_than_are_kept_the_oldest_fall_out() -> None:
    """Memory is bounded, and that some are missing is told."""
    bench = Bench(log_interval=10**6)
    for step in range(1, 2 * MOST_TICKS):
        bench.log(step, batch_size=step)
    assert len(bench.hot._ticks) <= MOST_TICKS + 100
    bench.log(2 * 10**6, batch_size=0)

    ((_, _, sizes),) = whole(bench)
    assert sizes[0] is FellOut
    assert sizes[1:] == [*range(2 * MOST_TICKS - len(sizes) + 2, 2 * MOST_TICKS), 0]
    assert bench.hot._ticks == []


def test_rows_have_the_time_of_their_call(make: Trackers) -> None:
    """The quick ways read another clock than the wall's."""
    tracker = make(log_interval=1)
    began_s = time.time()
    tracker.log_training_step(0.5, 0)
    tracker.log_metrics({"a": 1.0}, 0)
    tracker.log_training_step(0.5, 1, grad_norm=1.0)
    ended_s = time.time()
    assert tracker.flush(HANG_GUARD_S)
    run_dir = tracker.get_run_dir()
    assert run_dir is not None
    times = [row.time_s for row in read_rows(run_dir)]

    assert len(times) == 3
    assert began_s - 0.01 <= times[0] <= times[1] <= times[2] + 0.01 <= ended_s + 0.02


@pytest.mark.parametrize("enabled", [True, False])
def test_the_methods_look_like_those_that_are_documented(make: Trackers, enabled: bool) -> None:
    """Signature, text, and what is said of a keyword that there is not."""
    tracker = make(enabled=enabled)
    names = list(inspect.signature(tracker.log_training_step).parameters)
    wrong: dict[str, Any] = {"gradnorm": 1.0}

    assert names[:5] == ["loss", "step", "batch_size", "optimizer", "model"]
    assert names[5:] == ["scaler", "loss_ar", "loss_fm", "grad_norm", "extra", "tokens"]
    assert "Queue this step's metrics" in str(ExperimentTracker.log_training_step.__doc__)
    with pytest.raises(TypeError, match=r"log_training_step\(\) got an unexpected .* 'gradnorm'"):
        tracker.log_training_step(0.5, 0, **wrong)


def test_a_subclass_may_add_to_the_calls(make: Trackers) -> None:
    """`super()` finds them."""

    class Twice(ExperimentTracker):
        def log_metrics(self, metrics: Any, step: int | None = None) -> None:
            super().log_metrics({**metrics, "twice": 2.0}, step)

    tracker = make()
    tracker.__class__ = Twice
    tracker.log_metrics({"a": 1.0}, 0)

    assert written_values(tracker) == [{"a": 1.0, "twice": 2.0}]
